"""What a consolidation works with: the lock, the base weights, the cache, the solver; and who is a candidate."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from hybrid.consolidation.solver import Solver
from hybrid.editors.published import settings_for, typed
from policies.consolidation import Candidate, ConsolidationPolicy, Limits, Verdict, candidates
from stores.errors import HybridError
from stores.events import now
from stores.generations import Manifest
from stores.identity import hold_to
from stores.lock import exclusive
from stores.values import ValueStore, content_key

if TYPE_CHECKING:
    from hybrid.memory import HybridMemory


SURROUNDINGS = ("threads", "device", "dtype", "statistics", "lightest")
"""Settings of a generation that are not the editor's."""


class Workshop:
    """What runs and removals need: the lock, the model at its base weights, the cache, the solver. A context manager.

    Args:
        chosen: method and settings (as typed) to use from now on; the store's own, else MEMIT as published, if None.
    Raises:
        Locked: if another process works on the weights of this store.
    """

    def __init__(self, memory: HybridMemory, chosen: tuple[str, Mapping[str, str]] | None = None, wait_seconds: float = 0.0):
        self.memory, self.chosen, self.wait = memory, chosen, wait_seconds

    @contextmanager
    def open(self) -> Iterator[Workshop]:
        """At work; afterwards the model serves the live generation again."""
        memory = self.memory
        with exclusive(memory.folder / "weights.lock", self.wait):
            hold_to(memory.ledger, "model", memory.model.identity)
            memory.weights.flush()
            memory.weights.release()
            self.cache = ValueStore(memory.folder / "values.db")
            try:
                method, given = self.chosen or remembered(memory)
                self.solver = Solver(memory.model, method, typed(method, dict(given)), self.cache, _threads(memory), note=memory.stability.note_keys)
                _ = self.solver.base_hashes  # while the base is what the model holds
                yield self
                if self.chosen:
                    memory.ledger.set("consolidation", json.dumps([method, dict(given)]))
            finally:
                self.cache.close()
                memory.weights.refresh()

    def as_made(self, manifest: Manifest) -> Solver:
        """The solver that a generation was made with, whatever the store's settings are by now.

        Raises:
            HybridError: if its editor had other settings then.
        """
        given = {name: tuple(value) if isinstance(value, list) else value for name, value in manifest.settings.items() if name not in SURROUNDINGS}
        threads, lightest = int(manifest.settings["threads"]), manifest.settings.get("lightest")
        try:
            solver = Solver(self.memory.model, manifest.method, given, self.cache, threads, lightest, self.memory.stability.note_keys)
        except ValueError as error:
            raise HybridError(f"the generation was made by another version ({error}); run `hybrid consolidate --force`, then try again") from error
        solver.base_hashes = self.solver.base_hashes
        return solver

    def verdicts(self, policy: ConsolidationPolicy, limits: Limits, *, force: bool, retry: bool) -> tuple[list[Verdict], set[str]]:
        """The policy's verdict on every fact in force, and who of the eligible is a newcomer beside what is live."""
        live = self.memory.generations.live()
        manifest = self.memory.generations.manifest(live) if live else None
        alike = manifest is not None and self.solver.made_alike(manifest.settings) and manifest.verification["limits"] == vars(limits)
        return verdicts(self.memory, policy, self.key(limits), force=force, retry=retry, afresh=retry or not alike)

    def key(self, limits: Limits) -> str:
        """Under what a failure counts."""
        return marks_key(self.memory, self.solver.settings, limits)


def remembered(memory: HybridMemory) -> tuple[str, dict[str, str]]:
    """The store's method and settings."""
    kept = memory.ledger.setting("consolidation")
    method, given = json.loads(kept) if kept else (settings_for("consolidation", memory.model).get("method", "memit"), {})
    return method, given


def marks_key(memory: HybridMemory, settings: Mapping[str, Any], limits: Limits) -> str:
    """A hash of base, settings and limits; it is remembered, so that a dry run needs no model."""
    key = content_key(base=memory.model.identity.weights_hash, settings=dict(settings), limits=vars(limits))
    if memory.ledger.setting("marks") != key:
        memory.ledger.set("marks", key)
    return key


def crowded_key(key: str) -> str:
    """Under what it counts that a fact found no room."""
    return f"{key}/room"


def verdicts(
    memory: HybridMemory, policy: ConsolidationPolicy, key: str, *, force: bool = False, retry: bool = False, afresh: bool = False
) -> tuple[list[Verdict], set[str]]:
    """The policy's verdict on every fact in force, with what is known of its use; and who of the eligible is a newcomer beside what is live.

    Args:
        retry: what was refused is tried again.
        afresh: what is live counts for nothing.
    """
    known = memory.stability.records(key)
    live = memory.generations.members()
    found = []
    for fact in memory.ledger.facts():
        record = known.get(fact.id)
        about = {} if record is None else {"answered": record.answered, "confirmed": record.confirmed, "held": record.held, "failed": record.failed}
        found.append(Candidate(fact=fact, in_weights=fact.id in live, **about))  # type: ignore[arg-type]
    judged = policy.judge(found, now(), force=force, retry=retry)
    crowded = {} if retry else {each: record.failed for each, record in memory.stability.records(crowded_key(key)).items() if record.failed}
    taken, newcomers = candidates([v.fact for v in judged if v.eligible], set() if afresh else live, crowded)
    ids = {fact.id for fact in taken}
    waiting = "found no room before: {}; --retry chooses among all facts anew"
    return [v if not v.eligible or v.fact.id in ids else Verdict(v.fact, False, waiting.format(crowded[v.fact.id])) for v in judged], newcomers


def plan(memory: HybridMemory, policy: ConsolidationPolicy, *, force: bool = False, retry: bool = False) -> list[Verdict]:
    """What a consolidation would take up, and why the rest stays; no model is loaded."""
    memory.weights.flush()
    return verdicts(memory, policy, memory.ledger.setting("marks") or "", force=force, retry=retry, afresh=retry)[0]


def _threads(memory: HybridMemory) -> int:
    """How many threads this store solves with; what the first run had."""
    kept = memory.ledger.setting("solve_threads")
    if kept is None:
        memory.ledger.set("solve_threads", kept := str(torch.get_num_threads()))
    return int(kept)
