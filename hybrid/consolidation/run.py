"""A consolidation, from the facts in force to the live generation.

Eligible facts -> cached values -> one solve from the base weights -> checked with the memory off -> what fails leaves the
set, what breaks others is found by bisection -> solved again, few rounds -> a generation, live in one transaction.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hybrid.consolidation import report
from hybrid.consolidation.checks import Probe, says
from hybrid.consolidation.rounds import Rounds
from hybrid.consolidation.solver import added
from hybrid.consolidation.verify import Examiner, Verification
from hybrid.consolidation.workshop import Workshop, crowded_key, remembered
from policies.consolidation import ConsolidationPolicy, Limits, Verdict
from stores.errors import HybridError
from stores.generations import Draft
from stores.records import Fact

if TYPE_CHECKING:
    from hybrid.memory import HybridMemory

FEW = 0.1
"""Share of newcomers up to which a run begins with the weight that the live generation has, and does not choose one."""


@dataclass
class Result:
    """What a consolidation came to; `generation` is None if nothing went live."""

    verdicts: list[Verdict]
    generation: int | None = None
    weights_hash: str | None = None
    facts: list[Fact] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)
    """Reason by fact id."""
    verification: Verification | None = None
    broken: list[str] = field(default_factory=list)
    """Limits that kept the last candidate from going live."""
    rounds: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    unchanged: bool = False
    """The live generation holds exactly these facts already."""


def consolidate(
    memory: HybridMemory,
    *,
    policy: ConsolidationPolicy | None = None,
    limits: Limits | None = None,
    force: bool = False,
    retry: bool = False,
    probes: Sequence[Probe] = (),
    method: str | None = None,
    settings: Mapping[str, str] | None = None,
) -> Result:
    """Move the eligible facts into the weights, and make the result live.

    Args:
        force: do not wait for facts to prove stable.
        retry: facts that failed before may try again.
        probes: further tests that the weights must pass.
        method, settings: an editor (see `solver.METHODS`) and its settings as typed; remembered by the store.
    Returns:
        What became of every fact. Nothing goes live when limits stay broken, or when no fact passes.
    Raises:
        Locked: if another process consolidates.
        NotFound: if statistics are missing; the message names the command that makes them.
    """
    chosen = None if method is None and settings is None else (method or remembered(memory)[0], settings or {})
    policy, limits = policy or ConsolidationPolicy(), limits or Limits()
    with Workshop(memory, chosen).open() as shop:
        verdicts, newcomers = shop.verdicts(policy, limits, force=force, retry=retry)
        result = Run(shop, limits, probes).go(verdicts, newcomers, again=retry)
        shop.solver.seen.trim()
        return result


class Run:
    """One consolidation at work, the model at its base weights."""

    def __init__(self, shop: Workshop, limits: Limits, probes: Sequence[Probe] = ()):
        self.shop, self.solver, self.limits, self.memory = shop, shop.solver, limits, shop.memory
        self.seconds: dict[str, float] = {}
        self.examiner = Examiner(self.memory.model, shop.cache, self.memory.stability.note_keys, probes)
        self.rounds = Rounds(self.memory.model, self.solver, self.examiner, limits, self.seconds)

    def go(self, verdicts: list[Verdict], newcomers: Collection[str] = (), *, again: bool = False) -> Result:
        """From verdicts to a live generation; `again` even if there is nothing new."""
        result = Result(verdicts)
        eligible = [verdict.fact for verdict in verdicts if verdict.eligible]
        if self.is_live(eligible) and not again:
            result.unchanged = True
            return result
        if eligible:
            number = self.memory.stability.begin_run(fact.id for fact in eligible)
            live = self.memory.generations.live()
            weight = self.memory.generations.manifest(live).settings.get("weight") if newcomers and len(newcomers) <= FEW * len(eligible) else None
            self.rounds.settle(self.prepared(eligible), newcomers, weight)
            self.remember(number)
        self.fill(result)
        if self.rounds.back:
            result.unchanged = True
        elif result.verification is None:
            if self.memory.generations.live():  # nothing is left to hold
                self.memory.generations.go_live(0, why="empty")
                result.generation, result.weights_hash = 0, self.memory.generations.base_hash()
        elif result.broken:
            report.write_refused(self.memory, result)
        else:
            self.publish(result)
        return result

    def remember(self, number: int) -> None:
        """Note which facts failed, and which found no room."""
        rounds, key = self.rounds, self.shop.key(self.limits)
        if rounds.broken:
            return
        failed = {each: why for each, why in rounds.dropped.items() if each in rounds.failed}
        crowded = {each: why for each, why in rounds.dropped.items() if each not in rounds.failed | rounds.given_up}
        self.memory.stability.mark(number, failed, key, passed=[fact.id for fact in rounds.chosen])
        self.memory.stability.mark(number, crowded, crowded_key(key))

    def fill(self, result: Result) -> None:
        """What the rounds came to."""
        rounds = self.rounds
        result.facts, result.dropped, result.verification = rounds.chosen, rounds.dropped, rounds.verification
        result.broken, result.rounds = rounds.broken, rounds.history
        result.seconds = {what: round(seconds, 3) for what, seconds in self.seconds.items()}

    def is_live(self, facts: Sequence[Fact]) -> bool:
        """Whether the live generation is what these facts would come to, whole and checked within the same limits."""
        live = self.memory.generations.live()
        if live == 0 or self.examiner.probes:
            return live == 0 and not facts
        try:
            manifest, _ = self.memory.generations.load(live)
        except HybridError:
            return False
        same = manifest.fact_ids == [fact.id for fact in facts]
        return same and self.solver.made_alike(manifest.settings) and manifest.verification["limits"] == vars(self.limits)

    def prepared(self, facts: Sequence[Fact]) -> list[Fact]:
        """Facts with values; what the base says about them and around them is known afterwards."""
        dropped = self.rounds.dropped
        with self.rounds.timed("base"):
            self.examiner.learn_base(facts)
        known, chat = self.examiner.known, self.memory.model.is_chat
        dropped |= {fact.id: "the base weights say so already" for fact in facts if says(known[fact.cloze], fact, chat=chat)}
        with self.rounds.timed("values"):
            keys, refused = self.solver.fill_values([fact for fact in facts if fact.id not in dropped])
        self.memory.stability.note_keys(keys.items())
        dropped |= refused
        self.rounds.failed |= dropped.keys()
        return [fact for fact in facts if fact.id not in dropped]

    def publish(self, result: Result) -> None:
        """Write the generation and make it live."""
        solution, found = self.rounds.solution, result.verification
        assert solution is not None and found is not None
        with added(self.memory.model, solution.changes):
            result.weights_hash, tensors = self.solver.hashes(solution.changes)
        passed = {o.fact.id: o.passed(self.limits) for o in found.outcomes}
        draft = Draft(
            model=self.memory.model.identity, base_hash=self.solver.base_hash, weights_hash=result.weights_hash, tensors=tensors,
            facts=tuple({"id": fact.id, "passed": passed[fact.id]} for fact in result.facts), method=self.solver.method, settings=self.solver.settings_at(solution.weight),
            verification=found.figures() | {"limits": vars(self.limits)}, changes=solution.changes, extra=report.files(result),
        )  # fmt: skip
        result.generation = self.memory.generations.publish(draft)
