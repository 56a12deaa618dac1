"""A query, decided: the weights answer for facts that they hold, as long as they do say them; else memory does."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from hybrid.answer import Decision
from hybrid.asked_moment import asked_moment
from stores.errors import HybridError

if TYPE_CHECKING:
    from hybrid.memory import HybridMemory


def decide(memory: HybridMemory, query: str, route: str | None, namespaces: Sequence[str] | None, max_new_tokens: int) -> Decision:
    """The router's decision, with the generation that serves it.

    A query that goes to the weights is answered on the spot, and `said` keeps the answer. If it is not the target of a
    governing fact, as may happen in words that no check has tried, the decision is for memory.

    Raises:
        HybridError: if the weights are asked for and no generation is live.
    """
    if route == "weights" and not memory.weights.refresh():
        raise HybridError("there is no route 'weights' as long as no generation is live; `hybrid consolidate` makes one")
    moment = asked_moment(query)
    decision = memory.router.route(query, force=route, namespaces=namespaces, moment=moment)
    judged = memory.claims.judge(query, decision, namespaces, moment) if route is None else None
    decision = judged or decision
    if decision.route != "counterfactual":  # whose model has no generations, and must not make the other one load
        decision = replace(decision, generation=0 if route == "base" else memory.weights.refresh())
    if route is not None:
        return decision
    if judged is None:
        decision = memory.chains.follow(query, decision, namespaces, max_new_tokens)
    if decision.route == "chain":
        memory.weights.count(hit.fact.id for hit in decision.governing)
        return decision
    facts = [hit.fact for hit in decision.governing]
    memory.weights.count(fact.id for fact in facts)
    if decision.route != "weights":
        return decision
    started = time.perf_counter()
    said = memory.weights.said(query, facts, max_new_tokens)
    timings = decision.timings_ms | {"weights": (time.perf_counter() - started) * 1000}
    if said is not None:
        return replace(decision, said=said, timings_ms=timings)
    reader = memory.router.reader
    return replace(decision, route=reader, generation=0 if reader == "counterfactual" else decision.generation, timings_ms=timings)
