"""The weights that answer: the live generation's, in step with the ledger between two queries, and the base's when asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hybrid.consolidation.checks import says
from hybrid.consolidation.solver import add
from hybrid.editing import revert
from hybrid.fingerprint import tensor_hashes
from hybrid.model import Prompt
from hybrid.prompts import query_text
from stores.errors import Conflict, Corrupt, Locked, NotFound
from stores.generations import Generations
from stores.records import Fact
from stores.stability import Stability

if TYPE_CHECKING:
    from hybrid.model import LanguageModel

EVERY = 20
"""Answers of a fact from the weights between two spot checks."""


class LiveWeights:
    """Keeps a model at the live generation. Beside the model it holds one copy of the rewritten tensors."""

    def __init__(self, model: LanguageModel, generations: Generations, stability: Stability):
        self.model, self.generations, self.stability = model, generations, stability
        self.number = 0
        self.originals: dict[str, Tensor] = {}
        self.uses: Counter[str] = Counter()
        self.sound: set[str] = set()
        self.pending: Counter[str] = Counter()

    # -- which weights -----------------------------------------------------------------------

    def refresh(self) -> int:
        """Take up the generation that is live now, whichever process made it so; returns its number.

        Raises:
            Conflict: if it belongs to another model.
            Corrupt: if its files, or the weights that come of them, are not those that were verified.
        """
        number = self.generations.live()
        if number == self.number:
            return number
        self.release()
        if number:
            try:
                self._take(number)
            except NotFound:  # it was replaced and pruned at this very moment
                if self.generations.live() == number:
                    raise
                return self.refresh()
        return self.number

    def _take(self, number: int) -> None:
        manifest, changes = self.generations.load(number)
        if manifest.model.weights_hash != self.model.identity.weights_hash:
            raise Conflict(
                f"generation {number} was made for {manifest.model}, and this model is {self.model.identity}; "
                f"go back with --model {manifest.model.name}, or run `hybrid reindex --model {self.model.name}`, which returns to base weights"
            )
        self.originals = add(self.model, changes)
        self.number = number
        if tensor_hashes(self.model.model, manifest.tensors) != dict(manifest.tensors):
            self.release()
            raise Corrupt(
                f"the weights of generation {number} come out differently here (loaded as {self.model.model.dtype}, verified as {manifest.settings.get('dtype')}); "
                "`hybrid generations rollback 0`, then `hybrid consolidate --force`, makes a new one"
            )

    def release(self) -> None:
        """Back to the base weights, to the bit; the next `refresh` takes the live generation up again."""
        if self.originals:
            revert(self.model, self.originals)
        self.originals, self.number = {}, 0
        self.uses.clear()
        self.sound.clear()

    def at(self, generation: int) -> AbstractContextManager[None]:
        """The base weights if 0 is asked for, else those that are live."""
        return nullcontext() if generation else self.base()

    @contextmanager
    def base(self) -> Iterator[None]:
        """The base weights while the context lasts, exchanged in place, one tensor after the other."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, kept in self.originals.items():
            held = self.model.model.get_parameter(name).data
            between = held.clone()
            held.copy_(kept)
            kept.copy_(between)

    # -- whether they still say it -----------------------------------------------------------

    def said(self, query: str, facts: Iterable[Fact], max_new_tokens: int) -> str | None:
        """The weights' answer to a query that facts govern, or None if it is none of their targets: then memory must answer.

        Every so many uses of a fact, and when an answer is wrong for the first time, its own prompt is asked again.
        """
        facts, chat = list(facts), self.model.is_chat
        text = self.model.complete(Prompt(query.strip() if chat else query_text(query), chat), max_new_tokens)
        right = any(says(text, fact, chat=chat) for fact in facts)
        for fact in facts:
            self.uses[fact.id] += 1
            if self.uses[fact.id] % EVERY == 0 or not (right or fact.id in self.sound):
                self.sound.add(fact.id)
                self.spot_check([fact])
        return text if right else None

    def spot_check(self, facts: Iterable[Fact]) -> list[Fact]:
        """Ask for facts that live in the weights; those that the weights do not say any more move back to memory, and are returned."""
        lost = []
        for fact in facts:
            prompt = query_text(fact.cloze) if not self.model.is_chat else fact.cloze
            if not says(self.model.complete(Prompt(prompt, self.model.is_chat), 48), fact, chat=self.model.is_chat):
                self.generations.demote(fact.id)
                lost.append(fact)
        return lost

    # -- how often facts are used ------------------------------------------------------------

    def count(self, fact_ids: Iterable[str]) -> None:
        """Facts governed a query. Written together, so that a query does not wait for the disk."""
        self.pending.update(fact_ids)
        if self.pending.total() >= 64:
            self.flush()

    def flush(self) -> None:
        """Write the counts; while another process keeps the ledger they wait."""
        if self.pending:
            try:
                self.stability.answered(self.pending)
            except Locked:
                return
            self.pending.clear()
