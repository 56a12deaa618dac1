"""Who is asked: the model alone, the hybrid memory, its rivals on the same memory, or the model with edited weights.

Methods that read facts differ in which they let through, and in who reads them: the model itself, or the counterfactual model.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from tqdm import tqdm

from hybrid.answer import Decision
from hybrid.answerers import RESERVED
from hybrid.answering import choose_reader
from hybrid.editors import ADAPTERS, EDITORS
from hybrid.evaluation.records import Record
from hybrid.memory import HybridMemory
from hybrid.model import LanguageModel, Prompt
from hybrid.prompts import query_text
from hybrid.request import Request
from policies.conflict import Outcome
from policies.scope import ScopePolicy
from stores.errors import HybridError, NotFound
from stores.events import now
from stores.records import Fact

Mode = Literal["batch", "sequential", "single"]
MEMORY = ("hybrid", "ike", "counterfactual", "rag", "cosine", "serac")
READ_BY_ANOTHER = ("counterfactual", "serac")
"""With the counterfactual model."""
METHODS = ("base", *MEMORY, *EDITORS, *ADAPTERS)
TOP_K = 5
"""Facts that `rag` puts before every query."""
THRESHOLD = 0.57
"""Of `cosine` and `serac`: what served it best where the scope classifier was scored (bench/results/scope.json); tuned for it, not for us."""


def check_method(name: str) -> None:
    """Refuse what cannot be asked.

    Raises:
        NotFound: if there is no such method, with what there is.
    """
    if name not in METHODS:
        raise NotFound(f"there is no method {name!r}; choose one of {', '.join(METHODS)}")


@dataclass(frozen=True)
class Loaded:
    """What became of the edits."""

    facts: int
    """Facts in force, or edits made, extra ones included."""
    superseded: int = 0
    """Edits that another of the same subject and relation replaced: what they ask for can no longer be right."""
    refused: int = 0
    """Edits that an editor refuses, mostly because the model gives the target already."""
    seconds: float = 0.0


class Method(Protocol):
    """Loads the edits, then turns queries into prompts."""

    same_weights: bool
    """Whether a prompt that equals the unedited model's gets the unedited model's answer, so that it need not be made twice."""

    def load(self, records: Sequence[Record], loads: Sequence[Request]) -> Loaded:
        """Make all edits; with a mode of `single`, only the extra ones."""

    def only(self, record: Record) -> Any:
        """A context in which this record's edits alone are made, for the mode `single`."""

    def decide(self, query: str) -> Decision:
        """Which facts bear on a query."""

    def prompt(self, query: str, decision: Decision) -> Prompt:
        """What the model completes."""

    def answering(self, decision: Decision) -> LanguageModel:
        """The model that completes it."""

    def put_right(self, text: str, decision: Decision) -> str:
        """What it completed, as the answer that is given."""

    def governed(self, record: Record, fact: int | None) -> frozenset[str]:
        """Ids of the facts that ought to fire for a probe of a record."""

    def close(self) -> None:
        """Put everything back."""


class Memory:
    """One store, several ways to choose from it, two to read what was chosen: `rag` and `ike` let the language model do it, the others the store's reader.

    `counterfactual` is `hybrid` with the counterfactual model as its reader; `serac` has that model behind SERAC's own classifier of embedding
    distances: the nearest fact governs from a threshold (Mitchell et al. 2022, the variant with embeddings).
    """

    same_weights = True

    def __init__(self, name: str, memory: HybridMemory, mode: Mode, *, top_k: int = TOP_K, threshold: float = THRESHOLD):
        self.name, self.memory, self.mode, self.top_k = name, memory, mode, top_k
        self.cosine = replace(memory.scope, threshold=threshold, unfamiliar=threshold, unnamed=threshold, margin=0.0, most=1)
        self.ids: dict[int, list[str]] = {}
        self.reader = "ike" if name in ("ike", "rag") else memory.router.reader

    def load(self, records: Sequence[Record], loads: Sequence[Request]) -> Loaded:
        """All facts into the store, the extra ones first; a store that an interrupted run filled is taken as it is."""
        started, done = time.perf_counter(), self.memory.folder / "loaded.json"
        if self.name == "base":
            return Loaded(0)
        if done.exists():
            earlier = json.loads(done.read_text(encoding="utf-8"))
            self.ids = {int(number): ids for number, ids in earlier["ids"].items()}
            return Loaded(**earlier["loaded"])
        requests = [*loads, *(request for record in records for request in record.requests if self.mode != "single")]
        added = list(tqdm(self.memory.add_facts(requests), total=len(requests), desc="facts", unit="fact", disable=None))
        active = {fact.key: fact for fact in self.memory.ledger.facts()}
        superseded = sum(active[each.fact.key].target_new != each.fact.target_new for each in added)
        if self.mode != "single":
            self._know(records, [each.fact for each in added[len(loads) :]], active)
        self.memory.save()
        loaded = Loaded(len(active), superseded, seconds=time.perf_counter() - started)
        done.write_text(json.dumps({"ids": self.ids, "loaded": asdict(loaded)}), encoding="utf-8")
        return loaded

    def _know(self, records: Sequence[Record], facts: Sequence[Fact], active: dict[str, Fact]) -> None:
        """Remember the ids; of facts that say the same about the same, the one in force."""
        waiting = iter(facts)
        for record in records:
            mine = [next(waiting) for _ in record.requests]
            current = [active.get(fact.key, fact) for fact in mine]
            self.ids[record.number] = [c.id if c.target_new == f.target_new else f.id for c, f in zip(current, mine, strict=True)]

    @contextmanager
    def only(self, record: Record) -> Iterator[None]:
        """The record's facts, then taken back; what they replaced is in force again."""
        if self.name == "base":
            yield
            return
        added = list(self.memory.add_facts(record.requests))
        self._know([record], [each.fact for each in added], {fact.key: fact for fact in self.memory.ledger.facts()})
        try:
            yield
        finally:
            for each in reversed(added):
                if each.outcome is not Outcome.NOTHING:
                    self.memory.undo(each.fact.id)

    def decide(self, query: str) -> Decision:
        """The production's decision for `hybrid`, the rivals' for the others."""
        if self.name == "base":
            return Decision("base")
        if self.name in ("hybrid", "counterfactual"):
            return self.memory.route(query)
        if self.name == "ike":
            return self.memory.route(query, route="ike")
        hits, timings = self.memory.router.candidates(query)
        near = sorted((replace(hit, score=hit.similarity) for hit in hits), key=lambda hit: (-hit.similarity, hit.fact.id))
        spent = {"route": timings.get("embed", 0.0) + timings.get("search", 0.0)}  # the classifier's time is not theirs
        chosen = near[: self.top_k] if self.name == "rag" else self.cosine.govern(near, now())
        while len(chosen) > 1 and self._too_long(query, chosen):
            chosen = chosen[:-1]
        return Decision(self.reader if chosen else "base", tuple(chosen), tuple(near), spent)

    def _too_long(self, query: str, chosen: Sequence[Any]) -> bool:
        decision = Decision(self.reader, tuple(chosen), ())
        model = self.memory.answerer.model(decision)
        return len(model.encode(self.memory.answerer.prompt(query, decision))) > model.context - RESERVED

    def prompt(self, query: str, decision: Decision) -> Prompt:
        """The production's prompt."""
        return self.memory.answerer.prompt(query, decision)

    def answering(self, decision: Decision) -> LanguageModel:
        """The production's choice."""
        return self.memory.answerer.model(decision)

    def put_right(self, text: str, decision: Decision) -> str:
        """The production's answer."""
        return self.memory.answerer.put_right(text, decision)

    def governed(self, record: Record, fact: int | None) -> frozenset[str]:
        """Ids of the record's facts."""
        ids = self.ids.get(record.number, [])
        return frozenset(ids if fact is None else ids[fact : fact + 1])

    def close(self) -> None:
        """Close the store."""
        self.memory.close()


def plain_prompt(model: LanguageModel, query: str) -> Prompt:
    """What the model alone is asked."""
    return Prompt(query.strip(), True) if model.is_chat else Prompt(query_text(query))


def open_method(
    name: str, model: LanguageModel, folder: Path, mode: Mode, *,
    embedder: str | None, top_k: int, threshold: float, counterfactual_model: str, editor: dict[str, Any],
) -> Method:  # fmt: skip
    """A method, with its store or its deltas in a folder.

    Raises:
        NotFound: if there is no such method.
        HybridError: if a number is out of range.
    """
    check_method(name)
    if name in EDITORS:
        from hybrid.evaluation.weights import Weights

        return Weights(name, model, folder / "deltas", mode, editor)
    if name in ADAPTERS:
        from hybrid.evaluation.adapted import Adapted

        return Adapted(name, model, folder / "deltas", mode, editor)
    try:
        scope = ScopePolicy(candidates=max(ScopePolicy().candidates, top_k))
        memory = HybridMemory(folder / "store", model=model.name, embedder=embedder, author="evaluation", scope=scope)
        memory.model = model
        if name in READ_BY_ANOTHER:
            choose_reader(memory, "counterfactual", counterfactual_model)
        return Memory(name, memory, mode, top_k=top_k, threshold=threshold)
    except ValueError as error:
        raise HybridError(f"{error}; mend --top-k or --threshold") from error
