"""Contradictions between authors or sources, as a store keeps and settles them; the rule is in `policies.conflict`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from policies.conflict import NEWEST, ConflictPolicy, contradicts, met
from stores.errors import Conflict
from stores.records import Fact

if TYPE_CHECKING:
    from hybrid.memory import HybridMemory

SETTING = "conflicts"


@dataclass(frozen=True)
class Contested:
    """A fact in force and the values of others that lost against it, oldest first."""

    fact: Fact
    contenders: list[Fact]


def policy_of(memory: HybridMemory) -> ConflictPolicy:
    """How the store decides contradictions."""
    kept = memory.ledger.setting(SETTING)
    if kept is None:
        return NEWEST
    values = json.loads(kept)
    return ConflictPolicy(values["policy"], tuple(values["trusted"]))


def choose(memory: HybridMemory, name: str, trusted: Sequence[str] = ()) -> ConflictPolicy:
    """Decide future contradictions so; what is in force stays until `settle`.

    Raises:
        BadRequest: if it is no policy.
    """
    policy = ConflictPolicy(name, tuple(trusted))
    memory.ledger.set(SETTING, json.dumps({"policy": policy.name, "trusted": policy.trusted}), logged=True)
    return policy


def contested(memory: HybridMemory) -> list[Contested]:
    """Facts in force that another party contradicts."""
    keys = dict.fromkeys(fact.key for fact in memory.ledger.facts(status="contender"))
    found = [Contested(fact, _against(memory, fact)) for key in keys for fact in memory.ledger.in_force(key)]
    return [each for each in found if each.contenders]


def _against(memory: HybridMemory, fact: Fact) -> list[Fact]:
    line = memory.ledger.history(fact)
    return [each for each in line if each.status == "contender" and each.overlaps(fact) and contradicts(each, fact)]


def put_in_force(memory: HybridMemory, fact_id: str) -> tuple[Fact, Fact]:
    """Decide for a contender, or the other way round again; returns it and the fact that gave way, a contender now.

    Raises:
        Conflict: if it is no contender, or its period overlaps with those of several facts.
    """
    fact = memory.ledger.get(fact_id)
    current = met(fact, memory.ledger.in_force(fact.key)) if fact.status == "contender" else None
    if current is None:
        raise Conflict(f"fact {fact.id} is {fact.status}, not a contender; `hybrid conflicts list` shows those that are")
    vector = memory.embedder.embed([fact.statement])[0].astype("<f4").tobytes()
    memory.ledger.restore(fact, current, vector, memory.author, left="contender")
    return replace(fact, status="active"), replace(current, status="contender")


def settle(memory: HybridMemory) -> list[tuple[Fact, Fact]]:
    """Decide all contradictions by trust, as if the policy had always been this one; returns what is in force now with what gave way.

    Raises:
        Conflict: if the policy is not `trusted`: the others have nothing to decide by.
    """
    policy = policy_of(memory)
    if policy.name != "trusted":
        raise Conflict(f"the policy is {policy.name}, which decides nothing afterwards; `hybrid conflicts resolve ID` puts a contender in force")
    changed = []
    for each in contested(memory):
        best = policy.best([each.fact, *each.contenders])
        if policy.rank(best) < policy.rank(each.fact):
            changed.append(put_in_force(memory, best.id))
    return changed


def heir(memory: HybridMemory, fact: Fact) -> Fact | None:
    """What is in force again once a fact in force is taken back: what it superseded, or else the best contender."""
    if fact.supersedes is not None and memory.ledger.get(fact.supersedes).status != "forgotten":
        return memory.ledger.get(fact.supersedes)
    against = _against(memory, fact)
    return policy_of(memory).best(against) if against else None
