"""What evidence adds up to: a weighted sum, boosted trees of two levels on top of it, and a scale that makes a probability of both, fitted by
`python -m hybrid.scope.calibrate`.

A name counts for much beside a wording that suits it, and for little beside another; a sum of terms can not say that, and a few trees can. All of it is
monotone in what speaks clearly for or against a fact, so that a bound on the evidence is a bound on the outcome (`hybrid.scope.stages`).
Gradient boosting with Newton's steps: Friedman et al. 2000, doi:10.1214/aos/1016218223; Chen and Guestrin 2016, arXiv:1603.02754.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from policies.scope import Evidence
from stores.errors import Corrupt

FILE = "judge.safetensors"
"""Beside the classifier's weights; the manifest knows its checksum."""
GATHERED = tuple(field.name for field in fields(Evidence) if field.name not in ("guessed", "judged"))
NAMES = (*GATHERED, "margin", "familiar", "strange")
"""What is looked at: the evidence; how much nearer the wording is to the fact's relation than to any other, and that once more apart for relations that the
lexicon knows and those that it does not."""
SUMMED = ("logit", "named", "variant", "longer", "before", "shared", "elsewhere", "excluded", "familiar", "strange")
"""What the sum is over; the rest is for the trees."""
RISING = {"logit", "named", "variant", "shared", "own", "margin", "familiar", "strange", "contrast"}
FALLING = {"longer", "rival", "elsewhere", "excluded"}
Tree = tuple[list[int], list[float], list[float]]
"""Which evidence is compared, with what, and what the four ends add."""
PRIOR = 10_000
"""How many examples the sum is fitted to, for the sake of its ridge."""
SMALLEST = 0.003
"""Share of the examples' weight that an end of a tree has at least."""
BENDS = np.array([-5.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 5.0])
"""Where the scale may bend."""
VETO = 8.0
"""What it takes from the log-odds that a query asks for something else beyond doubt: of a thousand queries that a fact governed, not one did, so that a
weight for it cannot be fitted."""
LEAST, STIFF = 0.1, 0.003
"""The scale's smallest slope, and what a bend in it costs."""


def table(evidence: Sequence[Evidence]) -> NDArray[np.float64]:
    """Evidence as rows, (n, names), in the order of `NAMES`."""
    rows = np.array([[getattr(each, name) for name in (*GATHERED, "margin")] for each in evidence], dtype=np.float64).reshape(-1, len(GATHERED) + 1)
    known, margin = rows[:, GATHERED.index("known")], rows[:, -1]
    return np.column_stack([rows, margin * known, margin * (1 - known)])


@dataclass(frozen=True, eq=False)
class Judge:
    """A sum, and trees with one split and one more on each side of it.

    Attributes:
        slope: log-odds that each unit of evidence adds, (names,).
        feature: which evidence is compared, (trees, 3): at the root, below it on the left, on the right.
        threshold: up to which value a comparison goes to the left, (trees, 3).
        leaf: log-odds that the four ends add, (trees, 4), left to right.
        base: log-odds where all evidence is 0, before any tree.
        bends, scale: sums of all that, ascending, and the log-odds that they stand for, straight lines between and beyond.
    """

    slope: NDArray[np.float64]
    feature: NDArray[np.int64]
    threshold: NDArray[np.float64]
    leaf: NDArray[np.float64]
    base: float
    bends: NDArray[np.float64] = field(default_factory=lambda: np.array([-1.0, 1.0]))
    scale: NDArray[np.float64] = field(default_factory=lambda: np.array([-1.0, 1.0]))

    def log_odds(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Log-odds (n,) of rows (n, names)."""
        said = self._summed(rows)
        steep = np.diff(self.scale)[[0, -1]] / np.diff(self.bends)[[0, -1]]
        beyond = steep[0] * np.minimum(said - self.bends[0], 0) + steep[1] * np.maximum(said - self.bends[-1], 0)
        return np.asarray(np.interp(said, self.bends, self.scale) + beyond - VETO * _vetoed(rows))

    def _summed(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        low = rows[:, self.feature] <= self.threshold  # (n, trees, 3)
        end = np.where(low[..., 0], ~low[..., 1], 2 + ~low[..., 2])
        return np.asarray(self.base + rows @ self.slope + self.leaf[self._trees, end].sum(1))

    def judged(self, evidence: Evidence) -> Evidence:
        """The evidence with what it adds up to."""
        return replace(evidence, judged=float(self.log_odds(table([evidence]))[0]))

    @cached_property
    def _trees(self) -> NDArray[np.intp]:
        return np.arange(len(self.leaf))

    # -- making -----------------------------------------------------------------------------

    @classmethod
    def fit(
        cls, rows: NDArray[np.float64], labels: NDArray[np.bool_], importance: NDArray[np.float64], trees: int = 30, rate: float = 0.08, seed: int = 0
    ) -> Self:
        """Fit the sum, and boost trees on it.

        Args:
            rows: evidence, (n, names).
            labels: whether the fact governed, (n,).
            importance: weight of each example, (n,), positive.
        Raises:
            ValueError: if the examples are not of both kinds.
        """
        from sklearn.linear_model import LogisticRegression
        from sklearn.tree import DecisionTreeRegressor

        if len(set(labels.tolist())) < 2:
            raise ValueError("calibration needs examples in scope and out of scope")
        heard = ~_vetoed(rows)
        rows, labels, importance = rows[heard], labels[heard], importance[heard]
        y, share = labels.astype(np.float64), importance / importance.sum()
        signs = np.array([1 if name in RISING else -1 if name in FALLING else 0 for name in NAMES])
        counted = [NAMES.index(name) for name in SUMMED]
        mean = share @ rows[:, counted]
        spread = np.sqrt(share @ (rows[:, counted] - mean) ** 2) + 1e-9
        summed = LogisticRegression(max_iter=3000, tol=1e-8).fit((rows[:, counted] - mean) / spread, labels, sample_weight=share * PRIOR)
        slope = np.zeros(len(NAMES))
        slope[counted] = summed.coef_[0] / spread
        slope[slope * signs < 0] = 0.0
        base = float(summed.intercept_[0] - slope[counted] @ mean)
        said = base + rows @ slope
        found: list[Tree] = []
        for number in range(trees):
            p = 1 / (1 + np.exp(-said))
            curvature = share * np.maximum(p * (1 - p), 1e-4)
            tree = DecisionTreeRegressor(max_depth=2, monotonic_cst=signs, min_weight_fraction_leaf=SMALLEST, random_state=seed + number)
            tree.fit(rows, np.clip(share * (y - p) / curvature, -4, 4), sample_weight=curvature)
            found.append(_flat(tree.tree_, rate))
            said = said + cls._of(np.zeros(len(NAMES)), found[-1:], 0.0)._summed(rows)
        return cls._of(slope, found, base)

    def calibrated(self, said: NDArray[np.float64], labels: NDArray[np.bool_], importance: NDArray[np.float64]) -> Self:
        """The same judge on a scale whose log-odds are as good as their word.

        Args:
            said: log-odds (n,) from judges like this one that did not see the examples; one that saw them is too sure.
            labels, importance: as in `fit`; only examples whose probability is asked for should count.
        """
        from scipy.optimize import minimize

        y, share, width = labels.astype(np.float64), importance / importance.sum(), np.diff(BENDS)
        at = np.clip(np.searchsorted(BENDS, said) - 1, 0, len(width) - 1)
        part = np.clip(said[:, None] - BENDS[:-1], 0, width)  # how much of each stretch lies below
        part[at == 0, 0] = said[at == 0] - BENDS[0]
        part[at == len(width) - 1, -1] = said[at == len(width) - 1] - BENDS[-2]

        def loss(x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            odds = x[0] + part @ x[1:]
            wrong = share * (0.5 + 0.5 * np.tanh(odds / 2) - y)
            turn = np.diff(x[1:])
            slopes = part.T @ wrong - 2 * STIFF * np.diff(turn, prepend=0.0, append=0.0)
            return float(share @ np.logaddexp(0, odds * (1 - 2 * y)) + STIFF * turn @ turn), np.append(wrong.sum(), slopes)

        found = minimize(loss, np.append(BENDS[0], np.ones(len(width))), jac=True, bounds=[(None, None), *[(LEAST, None)] * len(width)]).x
        return replace(self, bends=BENDS, scale=np.append(found[0], found[0] + np.cumsum(found[1:] * width)))

    @classmethod
    def _of(cls, slope: NDArray[np.float64], trees: Sequence[Tree], base: float) -> Self:
        feature, threshold, leaf = zip(*trees, strict=True)
        return cls(slope, np.array(feature, dtype=np.int64), np.array(threshold, dtype=np.float64), np.array(leaf, dtype=np.float64), base)

    # -- keeping ----------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write the trees."""
        tensors = {
            "slope": self.slope,
            "feature": self.feature,
            "threshold": self.threshold,
            "leaf": self.leaf,
            "base": np.array([self.base]),
            "bends": self.bends,
            "scale": self.scale,
        }
        save_file(tensors, folder / FILE, metadata={"names": json.dumps(NAMES)})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read trees; their checksum is the caller's to verify.

        Raises:
            Corrupt: if they are for other evidence.
        """
        with safe_open(folder / FILE, framework="numpy") as file:
            if (file.metadata() or {}).get("names") != json.dumps(NAMES):
                raise Corrupt(f"{folder / FILE} weighs other evidence than this version gathers; reinstall hybrid-memory, or calibrate anew")
            found = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        scale = {key: found[key] for key in ("bends", "scale") if key in found}  # those that a store fitted before there was one have none
        return cls(found["slope"], found["feature"], found["threshold"], found["leaf"], float(found["base"][0]), **scale)


def _vetoed(rows: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.asarray(rows[:, NAMES.index("elsewhere")] >= 2)


def _flat(tree: object, rate: float) -> Tree:
    """Comparisons and ends of a fitted tree; one that stops early goes left, to the same end."""
    left, right = tree.children_left, tree.children_right  # type: ignore[attr-defined]
    value = tree.value[:, 0, 0] * rate  # type: ignore[attr-defined]
    nodes = [0, int(left[0]), int(right[0])] if left[0] >= 0 else [0, 0, 0]
    split = [left[node] >= 0 for node in nodes] if left[0] >= 0 else [False] * 3
    feature = [int(tree.feature[node]) if is_split else 0 for node, is_split in zip(nodes, split, strict=True)]  # type: ignore[attr-defined]
    threshold = [float(tree.threshold[node]) if is_split else np.inf for node, is_split in zip(nodes, split, strict=True)]  # type: ignore[attr-defined]
    ends = [(int(left[node]), int(right[node])) if is_split else (node, node) for node, is_split in zip(nodes[1:], split[1:], strict=True)]
    return feature, threshold, [float(value[end]) for pair in ends for end in pair]
