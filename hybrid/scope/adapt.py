"""The scope of one store: evaluated and calibrated on queries about its own facts, and on what its users said of it.

The weights of the evidence are fitted anew, near those that ship, and kept in the store's settings; they belong to one classifier.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hybrid.evaluation.metrics import calibration_error
from hybrid.scope.own import INSIDE, KINDS, Query, Questioner
from hybrid.scope.scorer import ScopeScorer
from hybrid.scope.stages import classifier
from policies.scope import Evidence, probability
from stores import events
from stores.errors import HybridError, NotFound
from stores.feedback import Feedback, Judgement
from stores.records import Hit

if TYPE_CHECKING:
    from hybrid.memory import HybridMemory

log = logging.getLogger(__name__)

OTHERS = 0.15
"""Importance of a candidate that a query was not made for, beside the one that it was made for."""
STRENGTHS = (1.0, 3.0, 10.0, 30.0, 100.0)
"""How many of the queries about own facts one judgement may count for."""
TOLERANCE = 0.01
"""By how much following feedback may raise the share of wrong decisions on queries about own facts."""
HOLD = 0.02
"""How strongly the weights are held to those that they start from."""


@dataclass(frozen=True)
class Seen:
    """One query with its candidates as they were weighed; what is wanted is `meant` (none if None), or a `judgement`."""

    kind: str
    meant: str | None
    hits: tuple[Hit, ...]
    judgement: Judgement | None = None

    def right(self, governing: Sequence[str]) -> bool:
        """Whether a decision is the one that is wanted."""
        if self.judgement is None:
            return list(governing[:1]) == ([self.meant] if self.meant else [])
        if self.judgement.fires:
            return self.judgement.fact_id in governing
        return not governing if self.judgement.fact_id is None else self.judgement.fact_id not in governing


def own_scorer(memory: HybridMemory) -> ScopeScorer:
    """The store's own classifier if `hybrid scope train` made one, else the one that ships."""
    folder, known = memory.folder / "scope", memory.ledger.setting("scope_classifier")
    if known is not None and (folder / "manifest.json").is_file():
        scorer = ScopeScorer(folder)
        if classifier(scorer) == known:
            return scorer
    if known is not None:
        log.warning("the store's own scope classifier in %s is gone or was altered, and the shipped one is used; run `hybrid scope train`", folder)
    return ScopeScorer()


def own_weights(memory: HybridMemory) -> dict[str, float] | None:
    """The weights that `calibrate` kept for this store; None if there are none for its classifier."""
    kept = memory.ledger.setting("scope_weights")
    if kept is None:
        return None
    about = json.loads(kept)
    names = {*Evidence.__dataclass_fields__, "bias"}
    if about["classifier"] != classifier(memory.router.witness.scorer) or not set(about["weights"]) <= names:
        return None
    return dict.fromkeys(names, 0.0) | dict(about["weights"])  # evidence that there was not yet when they were fitted counts for nothing


def keep(memory: HybridMemory, weights: Mapping[str, float] | None) -> None:
    """Keep weights for this store, or go back to the shipped ones (None)."""
    ledger = memory.ledger
    with ledger.transaction():
        if weights is None:
            ledger.db.execute("DELETE FROM settings WHERE name = 'scope_weights'")
        else:
            said = json.dumps({"classifier": classifier(memory.router.witness.scorer), "weights": dict(weights)})
            ledger.db.execute("INSERT OR REPLACE INTO settings VALUES ('scope_weights', ?)", [said])
        events.append(ledger.db, memory.author, "calibrate", None, {"weights": None if weights is None else dict(weights)})


# -- what is asked ---------------------------------------------------------------------------


def about_facts(memory: HybridMemory, each: int, *, held_out: bool, seed: int = 0) -> Iterator[Query]:
    """Queries about the store's facts.

    Raises:
        NotFound: if there are none.
    """
    facts = memory.ledger.facts()
    if not facts:
        raise NotFound("the store has no facts to make queries of; add some with `hybrid add-fact`")
    return Questioner(facts, held_out=held_out, seed=seed).draw(each)


def look(memory: HybridMemory, query: Query) -> Seen:
    """Weigh the candidates of a query."""
    return Seen(query.kind, query.meant, tuple(memory.router.candidates(query.text)[0]))


def look_again(memory: HybridMemory, judgement: Judgement) -> Seen:
    """Weigh the candidates of a query that was judged."""
    return Seen("feedback", judgement.fact_id, tuple(memory.router.candidates(judgement.query)[0]), judgement)


# -- how good it is --------------------------------------------------------------------------


@dataclass(frozen=True)
class Report:
    """Counts a kind of query, and how far the probabilities can be taken at their word."""

    kinds: dict[str, dict[str, int]]
    error: float
    """Share of queries with another decision than the wanted one."""
    feedback: dict[str, int]
    calibration_error: float
    """Over the best candidate of each query about own facts: the gap between its probability and how often it is the right one."""
    bins: list[dict[str, float]]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def report(memory: HybridMemory, seen: Sequence[Seen], weights: Mapping[str, float]) -> Report:
    """Decide every query with these weights."""
    kinds: dict[str, dict[str, int]] = {}
    judged = {"total": 0, "followed": 0}
    best: list[tuple[float, bool]] = []
    for one in seen:
        hits = weighed(one.hits, weights)
        governing = [hit.fact.id for hit in memory.scope.govern(hits, events.now())]
        if one.judgement is not None:
            judged["total"] += 1
            judged["followed"] += one.right(governing)
            continue
        row = kinds.setdefault(one.kind, {"total": 0, "fired": 0, "right": 0})
        row["total"] += 1
        row["fired"] += bool(governing)
        row["right"] += one.right(governing)
        if hits:
            best.append((hits[0].score, hits[0].fact.id == one.meant))
    wrong = sum(row["total"] - row["right"] for row in kinds.values())
    total = sum(row["total"] for row in kinds.values())
    found = calibration_error([p for p, _ in best], [label for _, label in best])
    return Report(kinds, wrong / total if total else 0.0, judged, found, _bins(best))


def weighed(hits: Sequence[Hit], weights: Mapping[str, float]) -> list[Hit]:
    """The candidates as other weights score them, best first."""
    again = [replace(hit, score=probability(Evidence(**hit.evidence), weights)) for hit in hits]
    return sorted(again, key=lambda hit: (-hit.score, -hit.similarity, hit.fact.id))


def _bins(best: Sequence[tuple[float, bool]], count: int = 10) -> list[dict[str, float]]:
    groups: list[list[tuple[float, bool]]] = [[] for _ in range(count)]
    for p, label in best:
        groups[min(int(p * count), count - 1)].append((p, label))
    return [{"said": sum(p for p, _ in g) / len(g), "was": sum(label for _, label in g) / len(g), "queries": len(g)} for g in groups if g]


# -- making it better ------------------------------------------------------------------------


@dataclass(frozen=True)
class Calibrated:
    """Weights before and after, with what each makes of queries in other wordings than they were fitted on, and of all feedback."""

    weights: dict[str, float]
    before: Report
    after: Report
    strength: float
    """How many own queries a judgement counted for."""


def calibrate(memory: HybridMemory, each: int = 60, seed: int = 0, progress: Callable[[Any], Any] = lambda items: items) -> Calibrated:
    """Fit the weights to this store; nothing is kept.

    Feedback counts for as much as it takes to follow it, as long as decisions on the store's own facts hardly suffer.

    Raises:
        NotFound: if the store has no facts.
        HybridError: if all examples are of one sort.
    """
    start = own_weights(memory) or dict(memory.router.witness.scorer.about["evidence"])
    judged = [look_again(memory, each) for each in Feedback(memory.ledger).all()]
    fitted_on = [look(memory, query) for query in progress(list(about_facts(memory, each, held_out=False, seed=seed)))]
    apart = [look(memory, query) for query in progress(list(about_facts(memory, each, held_out=True, seed=seed)))]
    shipped = dict(memory.router.witness.scorer.about["evidence"])
    tried: list[tuple[dict[str, float], float]] = []
    for strength in STRENGTHS if judged else STRENGTHS[:1]:
        tried.append((refit([*fitted_on, *judged], shipped, strength), strength))
    reports = [report(memory, [*fitted_on, *judged], weights) for weights, _ in tried]
    base = report(memory, fitted_on, shipped).error
    fair = [i for i, one in enumerate(reports) if one.error <= max(base, reports[0].error) + TOLERANCE] or [0]
    chosen = max(fair, key=lambda i: (reports[i].feedback["followed"], -i))
    weights, strength = tried[chosen]
    return Calibrated(weights, report(memory, [*apart, *judged], start), report(memory, [*apart, *judged], weights), strength)


def refit(seen: Sequence[Seen], start: Mapping[str, float], strength: float) -> dict[str, float]:
    """Weights near `start` that minimise the log loss (Newton's method); inside and outside the scope count alike.

    Args:
        strength: how many queries a judgement counts for.
    Raises:
        HybridError: if no query has candidates, or all are in, or all out of scope.
    """
    rows: list[tuple[Evidence, bool, float]] = []
    sizes = {inside: sum((one.kind in INSIDE) == inside for one in seen if one.judgement is None) for inside in (True, False)}
    for one in seen:
        for hit in one.hits:
            asked = hit.fact.id == one.meant
            if one.judgement is not None:
                told = asked or (one.judgement.fact_id is None)
                share = strength / max(1, sum(sizes.values())) * (1.0 if told else OTHERS)
                rows.append((Evidence(**hit.evidence), asked and one.judgement.fires, share))
            else:
                share = 0.5 / max(1, sizes[one.kind in INSIDE]) * (1.0 if asked or one.kind not in INSIDE else OTHERS)
                rows.append((Evidence(**hit.evidence), asked, share))
    if len({label for _, label, _ in rows}) < 2:
        raise HybridError("there is nothing to weigh: the candidates are all in scope or all out of it; add facts, or feedback of the other sort")
    names = list(Evidence.__dataclass_fields__)
    raw = np.array([[getattr(evidence, name) for name in names] for evidence, _, _ in rows])
    y, importance = np.array([float(label) for _, label, _ in rows]), np.array([weight for *_, weight in rows])
    spread = np.append(np.maximum(raw.std(0), 0.1), 1.0)
    x = np.column_stack([raw, np.ones(len(raw))])
    first = np.array([*(start.get(name, 0.0) for name in names), start["bias"]])
    penalty = HOLD * spread**2
    b = first.copy()
    for _ in range(100):
        said = 1 / (1 + np.exp(-np.clip(x @ b, -60, 60)))
        gradient = x.T @ (importance * (said - y)) + penalty * (b - first)
        step = np.linalg.solve((x * (importance * np.maximum(said * (1 - said), 1e-6))[:, None]).T @ x + np.diag(penalty), gradient)
        b -= step * min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-12))
        if float(np.abs(step).max()) < 1e-8:
            break
    return dict(zip([*names, "bias"], b.tolist(), strict=True))


def ordered(kinds: Mapping[str, Any]) -> list[str]:
    """Kinds of queries in the order of `hybrid.scope.own.KINDS`."""
    return [kind for kind in KINDS if kind in kinds]
