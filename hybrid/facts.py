"""What happens to facts on their way into the ledger and back out, for `HybridMemory`. No language model runs on the way in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ulid import ULID

from hybrid.conflicts import heir, policy_of
from hybrid.request import Added, Request
from policies.conflict import DECISIONS, Outcome, contradicts, known, met, same_party
from stores.errors import BadRequest, Conflict, NotFound
from stores.events import now
from stores.ledger import Change, superseding
from stores.records import Fact

if TYPE_CHECKING:
    from hybrid.memory import HybridMemory


def write(memory: HybridMemory, requests: Sequence[Request], resolve: str | None = None, *, refuse: bool = False) -> list[Added]:
    """Embed and store requests in one transaction; a repeated fact is confirmed, and nothing else changes.

    Args:
        resolve: `replace` or `keep`, whatever the conflict policy says.
        refuse: whether a conflict is an outcome of its request instead of an error that ends it all.
    """
    if resolve is not None and resolve not in DECISIONS:
        raise BadRequest(f"a contradiction is resolved by {' or '.join(DECISIONS)}, not {resolve!r}")
    _ = memory.index  # checks the embedder before anything is computed
    prepared = [request.checked() for request in requests]
    vectors = memory.embedder.embed([request.statement for request in prepared])
    done: list[Added] = []
    with memory.ledger.transaction():
        for request, vector in zip(prepared, vectors, strict=True):
            fact = request.to_fact(str(ULID()), memory.author, now())
            try:
                done.append(_settle(memory, fact, vector.astype("<f4").tobytes(), resolve))
            except Conflict as conflict:
                if not refuse:
                    raise
                done.append(Added(fact, Outcome.REFUSED, reason=str(conflict)))
    return done


def _settle(memory: HybridMemory, fact: Fact, vector: bytes, resolve: str | None) -> Added:
    """Let a new fact meet the one in force; the caller holds the transaction, and nothing is written before a `Conflict`."""
    ledger, policy = memory.ledger, policy_of(memory)
    current = met(fact, ledger.in_force(fact.key))
    contenders = [each for each in ledger.history(current) if each.status == "contender" and each.overlaps(fact)] if current else []
    outcome = policy.decide(fact, current, contenders, resolve)
    already = known(fact, contenders) if outcome is Outcome.KEPT else None
    for each in contenders:
        if same_party(each, fact) and each is not already:
            ledger.settle(each, memory.author)
    if current is None:
        ledger.write([Change(fact, vector)], memory.author)
        return Added(fact, outcome)
    if outcome is Outcome.NOTHING:
        memory.stability.confirm(current.id, memory.author)
        return Added(current, outcome)
    fact, contested = superseding(fact, current), contradicts(fact, current)
    why = resolve or policy.name if contested else None
    if outcome is Outcome.KEPT:
        lost = already or replace(fact, status="contender")
        if already is None:
            ledger.write([Change(lost, vector, why=why)], memory.author)
        return Added(current, outcome, contender=lost)
    ledger.write([Change(fact, vector, current, "contender" if contested else "superseded", why)], memory.author)
    return Added(fact, outcome, current, contender=current if contested else None)


def undo(memory: HybridMemory, fact_id: str) -> Fact | None:
    """See `HybridMemory.undo`."""
    fact = memory.ledger.get(fact_id)
    if fact.status != "active":
        raise NotFound(f"fact {fact.id} is {fact.status}; only a fact in force can be undone")
    before = heir(memory, fact)
    if before is None:
        memory.forget(fact.id)
        return None
    memory.ledger.restore(before, fact, memory.embedder.embed([before.statement])[0].astype("<f4").tobytes(), memory.author)
    return replace(before, status="active")


def with_target_true(memory: HybridMemory, fact: Fact) -> Fact:
    """See `HybridMemory.with_target_true`."""
    if fact.target_true is not None or fact.status == "forgotten":
        return fact
    text = memory.ask(fact.cloze, route="base").text
    memory.ledger.fill_target_true(fact.id, text)
    return replace(fact, target_true=text)
