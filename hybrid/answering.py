"""Who has the word: the language model, alone or with the facts in its context, or the counterfactual model.

Each is opened when it is first needed, so that an answer of the counterfactual model neither loads nor reads the language model.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING

from hybrid.answer import Decision
from hybrid.answerers import Answerer
from hybrid.counterfactual.model import SHIPPED, CounterfactualModel, Reader
from hybrid.model import LanguageModel, Prompt
from policies.routing import READERS
from stores.errors import Conflict, HybridError
from stores.identity import hold_to

if TYPE_CHECKING:
    from hybrid.memory import HybridMemory


class Answerers:
    """Finds the answerer of a decision, and lets it speak."""

    def __init__(self, memory: HybridMemory):
        self.memory = memory
        self._reader: Reader | None = None

    @cached_property
    def own(self) -> Answerer:
        """Of the routes base, ike and weights, once the store's model has been checked."""
        memory = self.memory
        hold_to(memory.ledger, "model", memory.model.identity)
        return Answerer.suited(memory.model, memory.embedder, memory.demonstrations, memory.contrast)

    @property
    def reader(self) -> Reader:
        """Of the route counterfactual: the model that the store names now.

        Raises:
            Conflict: if its weights are not those that the store was told to use.
        """
        name = self.memory.ledger.setting("counterfactual") or SHIPPED
        if self._reader is None or self._reader.model.name != name:
            model, stored = CounterfactualModel(name, self.memory.model.device), self.memory.ledger.identity("counterfactual")
            if stored is not None and stored.weights_hash != model.identity.weights_hash:
                raise Conflict(
                    f"this store reads facts with {stored}, and {model.identity} is what is there; `hybrid reader --counterfactual-model {name}` takes it on"
                )
            self._reader = Reader(model)
        return self._reader

    def of(self, decision: Decision) -> Answerer | Reader:
        """Who writes the prompt for a decision."""
        return self.reader if decision.route == "counterfactual" else self.own

    def prompt(self, query: str, decision: Decision) -> Prompt:
        """What is put to whoever answers."""
        return self.of(decision).prompt(query, decision)

    def put_right(self, text: str, decision: Decision) -> str:
        """What a model completed, as the answer that is given."""
        return self.reader.put_right(text, decision) if decision.route == "counterfactual" else text

    def model(self, decision: Decision) -> LanguageModel:
        """The model that answers."""
        return self.of(decision).model

    def stream(self, query: str, decision: Decision, max_new_tokens: int) -> Iterator[str]:
        """The answer, piece by piece."""
        if decision.said is not None:
            yield decision.said
        elif decision.route == "counterfactual":
            reader = self.reader
            pieces = self.memory.behaviour.stream(reader.model, reader.prompt(query, decision), decision, max_new_tokens)
            yield from [reader.put_right("".join(pieces), decision)] if reader.copies else pieces
        else:
            with self.memory.weights.at(decision.generation):
                yield from self.memory.behaviour.stream(self.memory.model, self.own.prompt(query, decision), decision, max_new_tokens)


def choose_reader(memory: HybridMemory, reader: str | None = None, model: str | None = None) -> tuple[str, str]:
    """Decide who reads the facts that govern, for all queries of a store from now on; what is None stays as it is.

    Args:
        reader: `ike`, the language model itself, or `counterfactual`.
        model: the counterfactual model: `shipped`, or a Hugging Face causal or sequence-to-sequence model by name or folder.
    Returns:
        Reader and counterfactual model now in force.
    Raises:
        HybridError: if there is no such reader.
        NotFound: if there is no such model; nothing is changed.
    """
    ledger = memory.ledger
    if reader is not None and reader not in READERS:
        raise HybridError(f"there is no reader {reader!r}; choose one of {', '.join(READERS)}")
    if model is not None:
        opened = CounterfactualModel(model)
        _ = opened.identity, opened.encodes, opened.tokenizer
        ledger.identify("counterfactual", opened.identity)
        ledger.set("counterfactual", model)
        memory.__dict__.pop("answerer", None)
    if reader is not None:
        ledger.set("reader", reader)
    return memory.router.reader, ledger.setting("counterfactual") or SHIPPED
