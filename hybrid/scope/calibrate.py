"""Weigh the evidence: `python -m hybrid.scope.calibrate --facts facts.tsv --text prose.txt`.

The weights of `policies.scope.Evidence` are fitted on queries to a store of 1,000 facts whose relations and subjects the classifier was not trained
on, once with the lexicon knowing these relations and once without, so that they suit facts of either sort.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np

from hybrid.memory import HybridMemory
from hybrid.scope.evaluate import INSIDE, ask, distinct_facts
from hybrid.scope.evidence import Witness
from hybrid.scope.phrasings import Phrasings
from hybrid.scope.scorer import WEIGHTS, ScopeScorer
from hybrid.scope.train import CALIBRATE, SCORE, makers
from policies.scope import Evidence

OTHERS = 0.15
"""Importance of a candidate that the query was not made for, beside the one that it was made for."""


def calibrate(folder: Path, facts: Path, text: Path, count: int = 1000, queries: int = 250, seed: int = 11) -> dict[str, Any]:
    """Fit the weights and write them to the classifier's manifest."""
    maker = makers(facts, text).calibrate
    chosen = distinct_facts(maker, count, random.Random(seed))
    about = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    seen: list[tuple[str, Evidence, bool, bool]] = []
    sizes: Counter[str] = Counter()
    scorer = ScopeScorer(folder)
    scorer.about["evidence"] = dict.fromkeys(Evidence.__dataclass_fields__, 0.0) | {"bias": 0.0}  # all candidates alike, whatever was fitted before
    for hidden in (SCORE, (*SCORE, *CALIBRATE)):
        with tempfile.TemporaryDirectory() as store, HybridMemory(store) as memory:
            memory.router.witness = Witness(scorer, memory.embedder, Phrasings(hidden=hidden))
            for kind, meant, candidates in ask(memory, maker, chosen, queries, seed):
                sizes[kind] += 1
                seen += [(kind, Evidence(**hit.evidence), kind in INSIDE and hit.fact.id == meant, hit.fact.id == meant) for hit in candidates]
    importance = [(1.0 if asked else OTHERS) / sizes[kind] for kind, _, _, asked in seen]
    about["evidence"] = fit([evidence for _, evidence, _, _ in seen], [label for _, _, label, _ in seen], importance)
    about |= {"calibration_relations": list(CALIBRATE), "scoring_relations": list(SCORE)}
    (folder / "manifest.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return dict(about["evidence"])


def fit(evidence: Sequence[Evidence], labels: Sequence[bool], importance: Sequence[float] | None = None, ridge: float = 1e-3) -> dict[str, float]:
    """Weights that minimise the log loss (Newton's method on standardised evidence, with a little ridge).

    Args:
        importance: weight of each example, positive; all alike if None.
    Raises:
        ValueError: if the examples are not of both kinds.
    """
    if len(set(labels)) < 2:
        raise ValueError("calibration needs examples in scope and out of scope")
    names = list(asdict(evidence[0]))
    raw = np.array([list(asdict(each).values()) for each in evidence])
    share = np.ones(len(raw)) if importance is None else np.asarray(importance, dtype=float)
    share = share / share.sum()
    mean, spread = raw.mean(0), raw.std(0) + 1e-9
    x, y = np.column_stack([(raw - mean) / spread, np.ones(len(raw))]), np.asarray(labels, dtype=float)
    penalty = ridge * np.append(np.ones(len(names)), 1e-6)
    b = np.zeros(x.shape[1])
    for _ in range(100):
        p = 1 / (1 + np.exp(-np.clip(x @ b, -60, 60)))
        gradient = x.T @ (share * (p - y)) + penalty * b
        step = np.linalg.solve((x * (share * np.maximum(p * (1 - p), 1e-9))[:, None]).T @ x + np.diag(penalty), gradient)
        b -= step * min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-12))
        if float(np.abs(step).max()) < 1e-8:
            break
    weights = dict(zip(names, (b[:-1] / spread).tolist(), strict=True))
    return weights | {"bias": float(b[-1] - (b[:-1] * mean / spread).sum())}


@click.command()
@click.option("--facts", type=click.Path(exists=True, path_type=Path), required=True, help="Tab-separated triples.")
@click.option("--text", type=click.Path(exists=True, path_type=Path), required=True, help="Plain prose.")
@click.option("--weights", type=click.Path(exists=True, path_type=Path), default=WEIGHTS, help="Folder of the classifier.")
@click.option("--queries", default=250, show_default=True, help="Queries of each kind.")
def main(facts: Path, text: Path, weights: Path, queries: int) -> None:
    """Weigh the evidence."""
    click.echo(json.dumps(calibrate(weights, facts, text, queries=queries), indent=1))


if __name__ == "__main__":
    main()
