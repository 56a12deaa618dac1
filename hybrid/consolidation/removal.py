"""Forgetting a fact that lives in the weights: solved again without it, and everything that still holds it is deleted.

The order makes a kill harmless: the fact leaves the weights first and the ledger last, so a forgetting that was cut off is
simply asked for again.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hybrid.consolidation import report
from hybrid.consolidation.run import Result, Run
from hybrid.consolidation.workshop import Workshop
from policies.consolidation import Limits, Verdict
from stores.errors import HybridError
from stores.lock import exclusive
from stores.records import Fact
from stores.values import ValueStore

if TYPE_CHECKING:
    from hybrid.memory import HybridMemory

WAIT = 60.0
"""Seconds for which a running consolidation is waited for."""


@dataclass(frozen=True)
class Forgotten:
    """What forgetting did."""

    ids: list[str]
    """Tombstones."""
    generation: int | None = None
    """The generation that is live instead of one that held it; None if none did."""
    weights_hash: str | None = None
    pruned: list[int] = field(default_factory=list)
    exports: list[str] = field(default_factory=list)
    """Copies outside the store that still hold it; delete them by hand."""


def forget(memory: HybridMemory, fact: Fact) -> Forgotten:
    """Erase a fact with its history from ledger, index, values, weights and every generation.

    Raises:
        Locked: if another process works on the weights for longer than a minute; nothing has changed then.
        Corrupt, HybridError: if the weights cannot be solved again; the fact is still there then.
    """
    ids = [each.id for each in memory.ledger.erased_with(fact)]
    held = memory.generations.holding(ids)
    made: Result | None = None
    exports = memory.generations.exports(held)
    if memory.generations.live() in held:
        made = without(memory, ids)
    with exclusive(memory.folder / "weights.lock", WAIT):
        pruned = memory.generations.prune(held)
        if left := memory.generations.holding(ids):
            raise HybridError(f"generation {left[0]} went live meanwhile and holds the fact; forget it again")
        shutil.rmtree(memory.generations.folder / "refused", ignore_errors=True)
        if keys := memory.stability.keys_of(ids):
            cache = ValueStore(memory.folder / "values.db")
            cache.forget(keys)
            cache.close()
        memory.stability.scrub(ids)
        for number in memory.generations.numbers():
            report.scrub(memory.generations.path(number), [memory.ledger.get(each) for each in ids])
        gone = memory.ledger.forget(fact, memory.author)
    memory.save()
    if made is None:
        return Forgotten(gone, pruned=pruned, exports=exports)
    return Forgotten(gone, made.generation, made.weights_hash, pruned, exports)


def without(memory: HybridMemory, ids: Sequence[str]) -> Result:
    """Make the live generation's set, less some facts, live: the same weights as if those had never been there.

    Facts of the smaller set that fail their check stay in it, so that the weights are those of the set; memory answers for them.
    """
    with Workshop(memory, wait_seconds=WAIT).open() as shop:
        manifest = memory.generations.manifest(memory.generations.live())
        by_id = {fact.id: fact for fact in memory.ledger.facts()}
        staying = [by_id[each] for each in manifest.fact_ids if each not in set(ids) and each in by_id]
        limits = Limits(**manifest.verification["limits"])
        shop.solver = shop.as_made(manifest)
        run, result = Run(shop, limits), Result([Verdict(fact, True, "stays") for fact in staying])
        if not staying:
            memory.generations.go_live(0, why="empty")
            result.generation, result.weights_hash = 0, memory.generations.base_hash()
            return result
        keys, refused = run.solver.fill_values(staying)
        if refused:
            raise HybridError(f"a fact that stays has no value any more ({next(iter(refused.values()))}); run `hybrid consolidate --force`, then forget again")
        memory.stability.note_keys(keys.items())
        if not run.rounds.best(staying):
            run.rounds.solution, run.rounds.verification = run.rounds.tried(staying, manifest.settings.get("weight"))
        run.fill(result)
        run.publish(result)
        return result
