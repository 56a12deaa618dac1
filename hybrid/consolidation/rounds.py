"""Solve, check with the memory off, drop what fails or costs too much, solve again: until everything that is left passes."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from hybrid.consolidation.checks import Probe, checks_of, prose
from hybrid.consolidation.solver import Solution, Solver, added
from hybrid.consolidation.verify import Examiner, Verification, perplexity
from policies.consolidation import Limits, blamed, canonical
from stores.records import Fact

if TYPE_CHECKING:
    from hybrid.model import LanguageModel

log = logging.getLogger(__name__)

VICTIMS, TOGETHER = 4, 48
"""Failing facts up to which the culprit is looked for that breaks them, and facts of a set among which it is; each victim costs two solves a halving."""


class Rounds:
    """The search for a set that passes, on a model at its base weights.

    Attributes after `settle`: `chosen`, `solution`, `verification` (None if no fact is left, or if `back`: what is left is the set that is live), `dropped`
    (reason by fact id), `failed` (those of them that failed for themselves, and not for want of room within the limits), `given_up` (what was live and is
    not said beside newcomers, though one left for it: it stays in the set, and memory answers), `broken` (limits that the last candidate breaks) and
    `history` (figures of each round).
    """

    def __init__(self, model: LanguageModel, solver: Solver, examiner: Examiner, limits: Limits, seconds: dict[str, float]):
        self.model, self.solver, self.examiner, self.limits, self.seconds = model, solver, examiner, limits, seconds
        self.chosen: list[Fact] = []
        self.newcomers: set[str] = set()
        self.given_up: set[str] = set()
        self.solution: Solution | None = None
        self.verification: Verification | None = None
        self.back = False
        self.dropped: dict[str, str] = {}
        self.failed: set[str] = set()
        self.broken: list[str] = []
        self.history: list[dict[str, Any]] = []

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[what] = self.seconds.get(what, 0.0) + time.perf_counter() - started

    def settle(self, facts: Sequence[Fact], newcomers: Collection[str] = (), weight: float | None = None) -> None:
        """Go through rounds until all that is left passes within the limits, nothing is left, or there were rounds enough.

        Args:
            newcomers: those of the facts that leave before others do; the rest is what is live.
            weight: the covariance weight to begin with; chosen if None.
        """
        chosen, self.newcomers, beside = list(facts), set(newcomers), bool(newcomers)
        if weight is None:
            weight = self._roomiest(chosen)
        for number in range(1, self.limits.rounds + 1):
            self.chosen, self.solution, self.verification, self.broken = chosen, None, None, []
            self.newcomers &= {fact.id for fact in chosen}
            self.back = beside and not self.newcomers
            if not chosen or self.back:
                return
            self.solution, found = self.tried(chosen, weight)
            failing = {o.fact.id: o.failure(self.limits) for o in found.outcomes if not o.passed(self.limits)}
            self.broken = self._broken(found)
            self.verification = found
            self.history.append({"facts": len(chosen), "failing": len(failing), "broken": self.broken, "weight": weight, **found.figures()})
            log.info("round %d: %d facts, %d fail, %s", number, len(chosen), len(failing), self.broken or "within the limits")
            last = number == self.limits.rounds
            leaving = {} if last else self._leaving(chosen, self.solution, found, {each: why for each, why in failing.items() if each not in self.given_up})
            if not leaving:
                self.dropped |= failing  # they stay in the set, and memory answers for them
                self.failed |= failing.keys() - self.given_up
                if failing and not self.broken and not last and len(self.solver.weights) > 1:
                    self._fullest()
                elif not self.broken and not last:
                    self._heavier(weight)
                return
            self.dropped |= leaving
            self.failed |= failing.keys() & leaving.keys()
            beside = beside and leaving.keys() <= self.newcomers  # else the set is no longer what is live
            chosen = [fact for fact in chosen if fact.id not in leaving]

    def tried(self, facts: Sequence[Fact], weight: float | None = None) -> tuple[Solution, Verification]:
        """A candidate, checked with the memory off."""
        with self.timed("base"):
            several = self.examiner.learn_base(facts)  # leaving facts open neighbours that were not asked about
            around = self.examiner.sure(several)
            before = self.examiner.base
        with self.timed("solve"):
            solution = self.solver.solve(facts, weight)
        with self.timed("verify"), added(self.model, solution.changes):
            after = self.examiner.general()
            outcomes = self.examiner.outcomes(several)
            now = self.examiner.ask(around)
        return solution, Verification(tuple(outcomes), before, after, self.examiner.probes, {q: (self.examiner.known[q], now[q]) for q in around})

    def best(self, facts: Sequence[Fact]) -> bool:
        """Take the weight with which most of a set pass within the limits, if there is one, and the heaviest of those; it depends on the set alone."""
        self.chosen = list(facts)
        return self._heavier(None) or self._fullest()

    def _heavier(self, weight: float | None) -> bool:
        """Of the heavier weights the heaviest with which the same set passes, if there is one: less change for the same facts."""
        for other in self.solver.weights:
            if other is None or other == weight:
                return False
            with self.timed("solve"):
                solution = self.solver.solve(self.chosen, other)
            with self.timed("verify"), added(self.model, solution.changes):
                if not all(all(self.examiner.effective(self.chosen[n : n + 16])) for n in range(0, len(self.chosen), 16)):
                    continue
            solution, found = self.tried(self.chosen, other)
            if all(o.passed(self.limits) for o in found.outcomes) and not self._broken(found):
                self.solution, self.verification = solution, found
                self.history.append({"facts": len(self.chosen), "failing": 0, "broken": [], "weight": other, **found.figures()})
                return True
        return False

    def _fullest(self) -> bool:
        """Of all weights the heaviest with which most facts of the set pass within the limits, if there is one that keeps them."""
        found = []
        for weight in self.solver.weights:
            solution, checked = self.tried(self.chosen, weight)
            if not self._broken(checked):
                found.append((sum(o.passed(self.limits) for o in checked.outcomes), weight or 0.0, solution, checked))
        if found:
            *_, self.solution, self.verification = max(found, key=lambda each: each[:2])
        return bool(found)

    def _roomiest(self, facts: Sequence[Fact]) -> float | None:
        """The weight that leaves room for most facts: those that their prompts give, the cheapest of them up to the limit on drift, less those that locality costs."""
        if len(self.solver.weights) == 1 or not facts:
            return self.solver.weights[0]
        found: list[tuple[int, float]] = []
        with self.timed("base"):
            base, around = self.examiner.base, self.examiner.sure(self.examiner.learn_base(facts))
        movable = self.newcomers or {fact.id for fact in facts}
        for weight in filter(None, self.solver.weights):
            with self.timed("solve"):
                solution = self.solver.solve(facts, weight)
            with self.timed("weight"), added(self.model, solution.changes):
                right = self.examiner.effective(facts)
                drift = perplexity(self.model, prose()) / base.perplexity - 1
                now = self.examiner.ask(around)
            flipped = [query for query in around if now[query] != self.examiner.known[query]]
            wrong = {fact.id for fact, said in zip(facts, right, strict=True) if not said}
            guilty = self._culprits(solution, flipped, self._allowed(around), movable, "").keys() - wrong
            costs = [cost for cost, said in zip(solution.costs, right, strict=True) if said]
            room = self.limits.affordable(costs, sum(c**2 for c in solution.costs), drift)
            found.append((min(room, len(costs) - len(guilty)), weight))
            log.info("weight %g: %d of %d facts, drift %+.2f%%", weight, found[-1][0], len(facts), 100 * drift)
        return max(found)[1] if found else self.solver.weights[-1]

    def _broken(self, found: Verification) -> list[str]:
        return self.limits.broken(locality=found.locality, drift=found.drift, fluency=found.fluency, probes=found.figures()["probes"])

    def _leaving(self, chosen: Sequence[Fact], solution: Solution, found: Verification, failing: Mapping[str, str]) -> dict[str, str]:
        """Which facts leave the set after a round, and why: those that fail, then as many as the limits on the set demand, those that do most harm first."""
        movable = {fact.id for fact in chosen if not self.newcomers or fact.id in self.newcomers}
        with self.timed("bisect"):
            leaving = self._blamed(chosen, {each: why for each, why in failing.items() if each in movable}, found.failing_probes)
        if hurt := [fact for fact in chosen if fact.id in failing and fact.id not in movable]:
            leaving |= self._culprits(
                solution, [fact.cloze for fact in hurt], 0, movable - leaving.keys(), "moves what is in the weights already, such as {!r}"
            )
            self.given_up |= {fact.id for fact in hurt}
        cost = dict(zip([fact.id for fact in chosen], solution.costs, strict=True))
        if found.drift > self.limits.max_perplexity_drift or found.fluency < self.limits.min_fluency:
            ranked = sorted((each for each in cost if each in movable - leaving.keys()), key=lambda each: (cost[each], each))
            spent = sum(cost[each] ** 2 for each in cost if each not in movable)
            drift = found.drift if found.drift > self.limits.max_perplexity_drift else 2 * self.limits.max_perplexity_drift
            keep = self.limits.affordable([cost[each] for each in ranked], sum(c**2 for c in cost.values()), max(drift, 1e-9), spent)
            leaving |= dict.fromkeys(ranked[keep:], f"moves the weights too far (perplexity {found.drift:+.2%}, fluency {found.fluency:.1%})")
        if found.locality < self.limits.min_locality and not leaving:  # what others changed may come right without them
            guilty = self._culprits(solution, found.flipped, self._allowed(found.neighbours), movable, "changes answers around it, such as {!r}")
            leaving |= dict(list(guilty.items())[: math.ceil(len(guilty) / 2)])
        if not leaving and self.broken:  # only probes fail, or nobody that may leave is to blame
            dearest = max(movable, key=lambda each: (cost[each], each))
            leaving[dearest] = "moves the weights most while limits are broken"
        return leaving

    def _culprits(self, solution: Solution, queries: Sequence[str], allowed: int, movable: Collection[str], why: str) -> dict[str, str]:
        """Facts that must leave so that few enough queries stay changed, those that change most first."""
        ids = [fact.id for fact in solution.facts]
        with self.timed("blame"):
            shares = [[share if each in movable else 0.0 for each, share in zip(ids, row, strict=True)] for row in self.solver.shares(solution, queries)]
        top = [ids[max(range(len(row)), key=lambda n: row[n])] for row in shares]
        return {ids[n]: why.format(queries[top.index(ids[n])]) for n in blamed(shares, allowed)}

    def _allowed(self, neighbours: Sized) -> int:
        """How many neighbours may change."""
        return math.floor((1 - self.limits.min_locality) * len(neighbours) + 1e-9)

    @property
    def weight(self) -> float | None:
        """The covariance weight of the last solution."""
        return self.solution.weight if self.solution else None

    # -- who breaks whom ---------------------------------------------------------------------

    def _blamed(self, chosen: Sequence[Fact], failing: Mapping[str, str], probes: Sequence[Probe]) -> dict[str, str]:
        """Of failing facts and probes: those that fail alone leave, and of the others either they or what breaks them.

        A fact that breaks several leaves instead of them.
        """
        leaving = dict(failing)
        victims = [fact for fact in chosen if fact.id in failing]
        if len(victims) > VICTIMS or len(chosen) > TOGETHER:  # the set is too large for its weights, or the search for one culprit too long
            victims = []
        culprits: dict[str, list[Fact]] = {}
        for fact in victims:
            if len(chosen) > 1 and self._passes(fact, [fact]):
                culprit = culprit_of([other for other in chosen if other.id != fact.id], partial(self._passes, fact))
                if culprit is not None:
                    leaving[fact.id] = f"passes alone, and not beside {culprit.statement!r}"
                    culprits.setdefault(culprit.id, []).append(fact)
        for fact_id, broken in culprits.items():
            if len(broken) > 1 and fact_id not in failing:
                leaving = {each: why for each, why in leaving.items() if each not in {fact.id for fact in broken}}
                leaving[fact_id] = f"breaks {len(broken)} others, such as {broken[0].statement!r}"
        for probe in probes[:VICTIMS]:
            culprit = culprit_of(chosen, partial(self._holds, probe))
            if culprit is not None:
                leaving.setdefault(culprit.id, f"breaks the probe {probe.query!r}")
        return leaving

    def _passes(self, fact: Fact, group: Sequence[Fact]) -> bool:
        """Whether a fact passes its own check in the weights of a group and itself."""
        with added(self.model, self.solver.solve(canonical({each.id: each for each in (*group, fact)}.values()), self.weight).changes):
            (outcome,) = self.examiner.outcomes(checks_of([fact]), kept=False)
        return outcome.passed(self.limits)

    def _holds(self, probe: Probe, group: Sequence[Fact]) -> bool:
        with added(self.model, self.solver.solve(canonical(group), self.weight).changes):
            after = self.examiner.ask([probe.query], 48)
        return probe.holds(self.examiner.base.probes[probe.query], after[probe.query])


def culprit_of(facts: Sequence[Fact], well: Callable[[Sequence[Fact]], bool]) -> Fact | None:
    """The one fact with which things are not well, by halving; None if that takes several together."""
    group = list(facts)
    while len(group) > 1:
        halves = group[: len(group) // 2], group[len(group) // 2 :]
        broken = next((half for half in halves if not well(half)), None)
        if broken is None:
            return None
        group = broken
    return group[0] if group and not well(group) else None
