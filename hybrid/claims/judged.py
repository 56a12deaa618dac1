"""A claim or a yes/no question, decided by the fact that supports or refutes it most clearly."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from hybrid.answer import Decision
from hybrid.asked_moment import undated
from hybrid.claims.reverse import reverse
from hybrid.claims.verifier import Verdict, Verifier
from hybrid.claims.wording import claim
from hybrid.scope.reading import last_sentence
from policies.claims import ClaimPolicy
from policies.scope import in_force
from stores.events import now
from stores.records import Fact, Hit

if TYPE_CHECKING:
    from hybrid.memory import HybridMemory

YES, NO = "Yes", "No"


class Claims:
    """Judges claims by one memory's facts."""

    def __init__(self, memory: HybridMemory, policy: ClaimPolicy | None = None):
        self.memory, self.policy = memory, policy or ClaimPolicy()

    @cached_property
    def verifier(self) -> Verifier:
        """Opened with the first claim."""
        return Verifier()

    def judge(self, query: str, decision: Decision, namespaces: Sequence[str] | None = None, moment: str | None = None) -> Decision | None:
        """The decision for a query that is answered with yes or no; None for any other.

        The fact that decides it governs, whatever the scope classifier, which knows questions for values, found; if none does, none governs. Where
        the store's reader is the one that ships, which can only copy values, the answer is given with the decision.

        Args:
            decision: the router's.
            namespaces: those whose facts may decide; all if None.
            moment: ISO 8601 time at which facts must be valid; now if None.
        """
        if not decision.candidates:
            return None
        started = time.perf_counter()
        names = [name for hit in decision.candidates for name in (hit.fact.subject, *hit.fact.aliases)]
        said = claim(last_sentence(query, *names)) or claim(query)
        if said is None:
            return None
        governing = {hit.fact.id for hit in decision.governing}
        bars = {hit.fact.id: self.policy.bar(hit.evidence, hit.similarity, hit.fact.id in governing) for hit in decision.candidates}
        compared = [hit for hit in (*decision.governing, *decision.candidates) if bars.get(hit.fact.id) is not None]
        compared = list({hit.fact.id: hit for hit in in_force(compared, moment or now(), namespaces)}.values())[: self.policy.most]
        verdicts = self.verifier.verdicts([hit.fact.statement for hit in compared], [_asked(said, hit.fact) for hit in compared])
        told = {hit.fact.id: (_told(hit, verdict), verdict) for hit, verdict in zip(compared, verdicts, strict=True)}
        deciding = [each for each in told.values() if each[0].score >= (bars[each[0].fact.id] or 0)]
        spent = (time.perf_counter() - started) * 1000
        timings = decision.timings_ms | {"claim": spent, "route": decision.timings_ms["route"] + spent}
        candidates = tuple(told[hit.fact.id][0] if hit.fact.id in told else hit for hit in decision.candidates)
        judged = replace(decision, candidates=candidates, timings_ms=timings)
        if not deciding:
            return replace(judged, route="base", governing=())
        best, verdict = max(deciding, key=lambda each: (each[0].score, each[0].fact.id))
        reader = self.memory.router.reader
        judged = replace(judged, governing=(best,), route=decision.route if decision.route == "weights" else reader)
        if reader != "counterfactual" or not self.memory.answerer.reader.copies:
            return judged
        return replace(judged, route=reader, generation=0, said=answer(said, best.fact, verdict))


def answer(said: str, fact: Fact, verdict: Verdict) -> str:
    """Yes; or no, and what holds instead."""
    if verdict.supported >= verdict.refuted and not reverse(said, fact):
        return YES
    return f"{NO}: {fact.target_new if '?' in fact.prompt else fact.statement.rstrip('.')}."


def _asked(said: str, fact: Fact) -> str:
    """The claim; without its date beside a fact with a period, which has been heeded."""
    return undated(said, fact.statement) if fact.valid_from or fact.valid_to else said


def _told(hit: Hit, verdict: Verdict) -> Hit:
    """The hit with the probability that the fact decides the claim as its score."""
    return replace(hit, score=1 - verdict.open, evidence={**hit.evidence, "supported": verdict.supported, "refuted": verdict.refuted})
