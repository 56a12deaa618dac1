"""What can be proved about generations, and how two of them differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hybrid.consolidation.solver import added
from hybrid.consolidation.workshop import Workshop
from hybrid.fingerprint import combined, tensor_hashes
from stores.errors import NotFound

if TYPE_CHECKING:
    from hybrid.memory import HybridMemory


@dataclass(frozen=True)
class Proof:
    """What was recomputed, and whether it is what the ledger and the manifest say."""

    what: str
    ok: bool
    detail: str


def verify(memory: HybridMemory, number: int, *, solve: bool = False) -> list[Proof]:
    """Recompute a generation's hashes; on request also its weights, from the facts in the ledger and the cached values.

    Raises:
        NotFound, Corrupt: if its files are missing or altered; see `Generations.load`.
        Locked: if another process works on the weights.
    """
    with Workshop(memory).open() as shop:
        base = shop.solver.base_hash
        known = memory.generations.base_hash()
        proofs = [Proof("base", known in (None, base), f"the base weights are {base[:16]}")]
        if number == 0:
            return proofs
        manifest, changes = memory.generations.load(number)
        proofs.append(Proof("files", True, f"{len(manifest.files)} files match the manifest, and the manifest the ledger"))
        with added(memory.model, changes):
            found = combined(tensor_hashes(memory.model.model))
        proofs.append(Proof("weights", found == manifest.weights_hash, f"base and factors give {found[:16]}, verified was {manifest.weights_hash[:16]}"))
        if solve:
            solver = shop.as_made(manifest)
            facts = [memory.ledger.get(each) for each in manifest.fact_ids]
            if gone := [fact.id for fact in facts if fact.status == "forgotten"]:
                raise NotFound(f"fact {gone[0]} of generation {number} was forgotten, so it cannot be solved again; `hybrid generations prune` deletes it")
            solver.fill_values(facts)
            solution = solver.solve(facts)
            with added(memory.model, solution.changes):
                again, _ = solver.hashes(solution.changes)
            proofs.append(Proof("solve", again == manifest.weights_hash, f"solved again from {len(facts)} facts: {again[:16]}"))
        return proofs


def difference(memory: HybridMemory, before: int, after: int) -> dict[str, Any]:
    """How two generations differ: facts, figures, and the norm of the change of each weight."""
    sides = [(None, {}) if number == 0 else memory.generations.load(number) for number in (before, after)]
    ids = [set() if manifest is None else set(manifest.fact_ids) for manifest, _ in sides]
    figures = [{} if manifest is None else manifest.verification for manifest, _ in sides]
    names = sorted({name for _, changes in sides for name in changes})
    norms = {}
    for name in names:
        dense = [np.asarray(changes[name].dense, dtype=np.float64) if name in changes else 0.0 for _, changes in sides]
        norms[name] = float(np.linalg.norm(np.asarray(dense[1] - dense[0])))
    shared = sorted(key for key in {*figures[0], *figures[1]} if key != "limits")
    return {
        "from": before, "to": after, "added": _told(memory, ids[1] - ids[0]), "removed": _told(memory, ids[0] - ids[1]),
        "figures": {key: [figures[0].get(key), figures[1].get(key)] for key in shared}, "norms": norms,
    }  # fmt: skip


def _told(memory: HybridMemory, ids: set[str]) -> list[dict[str, str]]:
    facts = sorted((memory.ledger.get(each) for each in ids), key=lambda fact: fact.id)
    return [{"id": fact.id, "statement": fact.statement if fact.status != "forgotten" else "(forgotten)"} for fact in facts]
