"""Solve, check with the memory off, drop what fails or costs too much, solve again: until everything that is left passes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from hybrid.consolidation.checks import Probe, checks_of
from hybrid.consolidation.solver import Solution, Solver, added
from hybrid.consolidation.verify import Examiner, Verification
from policies.consolidation import Limits, canonical
from stores.records import Fact

if TYPE_CHECKING:
    from hybrid.model import LanguageModel

log = logging.getLogger(__name__)

VICTIMS = 4
"""Facts a round that others break, for which the culprit is looked for; each costs a solve a halving."""


class Rounds:
    """The search for a set that passes, on a model at its base weights.

    Attributes after `settle`: `chosen`, `solution`, `verification` (None if no fact is left), `dropped` (reason by fact id), `failed` (those of
    them that failed for themselves, and not for want of room within the limits), `broken` (limits that the last candidate
    breaks) and `history` (figures of each round).
    """

    def __init__(self, model: LanguageModel, solver: Solver, examiner: Examiner, limits: Limits, seconds: dict[str, float]):
        self.model, self.solver, self.examiner, self.limits, self.seconds = model, solver, examiner, limits, seconds
        self.chosen: list[Fact] = []
        self.solution: Solution | None = None
        self.verification: Verification | None = None
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

    def settle(self, facts: Sequence[Fact]) -> None:
        """Go through rounds until all that is left passes within the limits, nothing is left, or there were rounds enough."""
        chosen = list(facts)
        for number in range(1, self.limits.rounds + 1):
            self.chosen, self.solution, self.verification, self.broken = chosen, None, None, []
            if not chosen:
                return
            self.solution, found = self.tried(chosen)
            figures = found.figures()
            failing = {o.fact.id: o.failure() for o in found.outcomes if not o.passed(self.limits.min_phrasings)}
            self.broken = self.limits.broken(locality=found.locality, drift=found.drift, fluency=found.fluency, probes=figures["probes"])
            self.verification = found
            self.history.append({"facts": len(chosen), "failing": len(failing), "broken": self.broken, **figures})
            log.info("round %d: %d facts, %d fail, %s", number, len(chosen), len(failing), self.broken or "within the limits")
            if number == self.limits.rounds or not (failing or self.broken):
                self.dropped |= failing  # in the last round they stay in the set, and memory answers for them
                self.failed |= failing.keys()
                return
            leaving = self._leaving(chosen, self.solution, found)
            self.dropped |= leaving
            self.failed |= failing.keys() & leaving.keys()
            chosen = [fact for fact in chosen if fact.id not in leaving]

    def tried(self, facts: Sequence[Fact]) -> tuple[Solution, Verification]:
        """A candidate, checked with the memory off."""
        with self.timed("base"):
            several = self.examiner.learn_base(facts)  # leaving facts open neighbours that were not asked about
            before = self.examiner.base
        with self.timed("solve"):
            solution = self.solver.solve(facts)
        with self.timed("verify"), added(self.model, solution.changes):
            after = self.examiner.general()
            outcomes = self.examiner.outcomes(several)
        return solution, Verification(tuple(outcomes), before, after, self.examiner.probes)

    def _leaving(self, chosen: Sequence[Fact], solution: Solution, found: Verification) -> dict[str, str]:
        """Which facts leave the set after a round, and why."""
        failing = {o.fact.id: o.failure() for o in found.outcomes if not o.passed(self.limits.min_phrasings)}
        with self.timed("bisect"):
            leaving = self._blamed(chosen, failing, found.failing_probes)
        staying = [o for o in found.outcomes if o.fact.id not in leaving]
        cost = dict(zip([fact.id for fact in chosen], solution.costs(), strict=True))
        if found.drift > self.limits.max_perplexity_drift or found.fluency < self.limits.min_fluency:
            ranked = sorted(staying, key=lambda o: (cost[o.fact.id], o.fact.id))
            drift = found.drift if found.drift > self.limits.max_perplexity_drift else 2 * self.limits.max_perplexity_drift
            keep = self.limits.affordable([cost[o.fact.id] for o in ranked], sum(c**2 for c in cost.values()), max(drift, 1e-9))
            leaving |= {o.fact.id: f"moves the weights too far (perplexity {found.drift:+.2%}, fluency {found.fluency:.1%})" for o in ranked[keep:]}
        staying = [o for o in staying if o.fact.id not in leaving]
        asked, changed = sum(len(o.checks.kept) for o in staying), sum(len(o.changed) for o in staying)
        for o in sorted(staying, key=lambda o: (-len(o.changed), -cost[o.fact.id], o.fact.id)):
            if not o.changed or changed <= (1 - self.limits.min_locality) * asked:
                break
            leaving[o.fact.id] = f"changes {len(o.changed)} of {len(o.checks.kept)} answers around it, such as {o.changed[0]!r}"
            asked, changed = asked - len(o.checks.kept), changed - len(o.changed)
        if not leaving:  # only probes fail, and no single fact is to blame
            dearest = max(chosen, key=lambda fact: (cost[fact.id], fact.id))
            leaving[dearest.id] = "moves the weights most while probes fail"
        return leaving

    # -- who breaks whom ---------------------------------------------------------------------

    def _blamed(self, chosen: Sequence[Fact], failing: Mapping[str, str], probes: Sequence[Probe]) -> dict[str, str]:
        """Of failing facts and probes: those that fail alone leave, and of the others either they or what breaks them.

        A fact that breaks several leaves instead of them.
        """
        leaving = dict(failing)
        victims = [fact for fact in chosen if fact.id in failing][:VICTIMS]
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
        with added(self.model, self.solver.solve(canonical({each.id: each for each in (*group, fact)}.values())).changes):
            (outcome,) = self.examiner.outcomes(checks_of([fact]), kept=False)
        return outcome.passed(self.limits.min_phrasings)

    def _holds(self, probe: Probe, group: Sequence[Fact]) -> bool:
        with added(self.model, self.solver.solve(canonical(group)).changes):
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
