"""What happens to facts on their way into the ledger and back out, for `HybridMemory`. No language model runs on the way in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ulid import ULID

from hybrid.request import Added, Request
from policies.conflict import Outcome, decide, met
from stores.errors import NotFound
from stores.events import now
from stores.ledger import Change, superseding
from stores.records import Fact

if TYPE_CHECKING:
    from hybrid.memory import HybridMemory


def write(memory: HybridMemory, requests: Sequence[Request]) -> list[Added]:
    """Embed and store requests in one transaction; a repeated fact is confirmed, and nothing else changes."""
    _ = memory.index  # checks the embedder before anything is computed
    prepared = [request.checked() for request in requests]
    vectors = memory.embedder.embed([request.statement for request in prepared])
    done: list[Added] = []
    with memory.ledger.transaction():
        for request, vector in zip(prepared, vectors, strict=True):
            fact = request.to_fact(str(ULID()), memory.author, now())
            current = met(fact, memory.ledger.in_force(fact.key))
            outcome = decide(fact, current)
            if current is not None and outcome is Outcome.NOTHING:
                memory.stability.confirm(current.id, memory.author)
                done.append(Added(current, outcome))
                continue
            fact = superseding(fact, current)
            memory.ledger.write([Change(fact, vector.astype("<f4").tobytes(), current)], memory.author)
            done.append(Added(fact, outcome, current))
    return done


def undo(memory: HybridMemory, fact_id: str) -> Fact | None:
    """See `HybridMemory.undo`."""
    fact = memory.ledger.get(fact_id)
    if fact.status != "active":
        raise NotFound(f"fact {fact.id} is {fact.status}; only a fact in force can be undone")
    if fact.supersedes is None:
        memory.forget(fact.id)
        return None
    before = memory.ledger.get(fact.supersedes)
    memory.ledger.restore(before, fact, memory.embedder.embed([before.statement])[0].astype("<f4").tobytes(), memory.author)
    return replace(before, status="active")


def with_target_true(memory: HybridMemory, fact: Fact) -> Fact:
    """See `HybridMemory.with_target_true`."""
    if fact.target_true is not None or fact.status == "forgotten":
        return fact
    text = memory.ask(fact.cloze, route="base").text
    memory.ledger.fill_target_true(fact.id, text)
    return replace(fact, target_true=text)
