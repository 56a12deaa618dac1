"""The whole story in one class.

A fact: cue -> `Fact` -> conflict policy -> ledger (one transaction) -> vectors. No language model runs.
A query: embed, search, score, decide (`Router`), then answer with or without the governing facts (`Answerers`).
A consolidation: stable facts -> values -> one solve -> verified with the memory off -> a generation -> live (`LiveWeights`).
"""

from __future__ import annotations

import getpass
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

from hybrid import facts
from hybrid.answer import Answer, Decision
from hybrid.answering import Answerers
from hybrid.behaviour import Behaviour
from hybrid.chains.follow import Chains
from hybrid.claims.judged import Claims
from hybrid.consolidation import removal
from hybrid.consolidation.live import LiveWeights
from hybrid.consolidation.run import Result, consolidate
from hybrid.consolidation.serving import decide
from hybrid.doctor import adopt
from hybrid.embedder import DEFAULT, Embedder
from hybrid.model import POCKET, LanguageModel
from hybrid.request import Added, Request, from_cue
from hybrid.router import Router
from hybrid.scope.adapt import own_scorer, own_weights
from hybrid.scope.evidence import Witness
from policies.routing import preferred
from policies.scope import ScopePolicy
from stores.deltas import Delta
from stores.events import now
from stores.generations import Generations
from stores.identity import hold_to
from stores.ledger import Ledger
from stores.records import Fact
from stores.stability import Stability
from stores.vectors import VectorIndex


class HybridMemory:
    """A store of corrections for one language model.

    Args:
        store: folder of the store; made if it does not exist.
        model, embedder: names or paths; what the store was made with if None, else the defaults.
        author: who makes changes through this object; the login name if None.
        demonstrations, contrast: how facts are put to the model; by default what suits it, see `hybrid.answerers`.
    Raises:
        Conflict: if the store was made with another embedder; the message names the command that mends it.
    """

    def __init__(
        self,
        store: str | Path,
        *,
        model: str | None = None,
        embedder: str | None = None,
        author: str | None = None,
        scope: ScopePolicy | None = None,
        demonstrations: int | None = None,
        contrast: float | None = None,
        device: str | None = None,
    ):
        self.folder = Path(store)
        self.author = author or os.environ.get("HYBRID_AUTHOR") or getpass.getuser()
        self.ledger = Ledger(self.folder / "ledger.db", actor=self.author)
        self.stability = Stability(self.ledger)
        self.generations = Generations(self.ledger, self.folder / "generations")
        self.behaviour = Behaviour(self)
        self.model = LanguageModel(model or self.ledger.setting("model") or POCKET, device)
        self.embedder = Embedder(embedder or self.ledger.setting("embedder") or DEFAULT, device)
        self.scope = scope or ScopePolicy()
        self.demonstrations, self.contrast = demonstrations, contrast

    # -- parts, made when they are first needed ------------------------------------------------

    @cached_property
    def index(self) -> VectorIndex:
        """The vector index, once the store's embedder has been checked."""
        hold_to(self.ledger, "embedder", self.embedder.identity)
        return VectorIndex(self.ledger, self.folder, self.embedder.dimension, self.embedder.identity.weights_hash)

    @cached_property
    def router(self) -> Router:
        """Decides which facts govern a query."""
        witness = Witness(own_scorer(self), self.embedder)
        return Router(
            self.ledger,
            self.index,
            self.embedder,
            witness,
            self.scope,
            self.generations.in_weights,
            lambda: own_weights(self),
            preferred(self.model.name != POCKET),
        )

    @cached_property
    def chains(self) -> Chains:
        return Chains(self)

    @cached_property
    def claims(self) -> Claims:
        return Claims(self)

    @cached_property
    def weights(self) -> LiveWeights:
        """Keeps the model at the live generation."""
        return LiveWeights(self.model, self.generations, self.stability)

    @cached_property
    def answerer(self) -> Answerers:
        """Whoever answers: the model, or the counterfactual model."""
        return Answerers(self)

    # -- facts ---------------------------------------------------------------------------------

    def add_fact(self, cue: str, target: str, *, resolve: str | None = None, **fields: object) -> Added:
        """Correct a fact, in one transaction; a repeated fact changes nothing. `fields`: see `hybrid.request.from_cue`.

        Raises:
            CueError: if the cue was not understood; nothing is stored.
            Conflict: if it contradicts another source and the store's policy is to ask, which `resolve` answers (`replace`, `keep`).
        """
        return facts.write(self, [from_cue(cue, target, **fields)], resolve)[0]  # type: ignore[arg-type]

    def add_facts(self, requests: Iterable[Request], *, batch: int = 256, resolve: str | None = None) -> Iterator[Added]:
        """Add many, a transaction a batch; what has been yielded is stored for good, or is refused with the reason."""
        waiting = iter(requests)
        while group := list(islice(waiting, batch)):
            yield from facts.write(self, group, resolve, refuse=True)

    def forget(self, fact_id: str) -> list[str]:
        """Erase a fact with its history, wherever it is held; returns the tombstones' ids. See `hybrid.consolidation.removal.forget`."""
        return removal.forget(self, self.ledger.get(fact_id)).ids

    def undo(self, fact_id: str) -> Fact | None:
        """Take an added fact back: the value before it is in force again, and returned, or the fact is forgotten."""
        return facts.undo(self, fact_id)

    def with_target_true(self, fact: Fact) -> Fact:
        """The fact with what the base weights say without it; asked once, then remembered."""
        return facts.with_target_true(self, fact)

    def reindex(self) -> int:
        """Embed every fact again with this embedder, and adopt this model and embedder; returns the number of facts."""
        return adopt(self)

    def edit(self, requests: Iterable[Request | Fact], method: str = "memit", **settings: object) -> Delta:
        """Turn requests, or facts of this store, into a weight delta; neither model nor store change. See `hybrid.editing.edit`."""
        from hybrid.editing import edit

        asked = [each if isinstance(each, Fact) else each.checked().to_fact("", self.author, now()) for each in requests]
        self.weights.refresh()
        with self.weights.base():
            return edit(self.model, asked, method, **settings)

    def consolidate(self, **options: Any) -> Result:
        """Move stable facts into the weights, verified with the memory off. See `hybrid.consolidation.run.consolidate`."""
        return consolidate(self, **options)

    def rollback(self, number: int) -> str | None:
        """Make an earlier generation live, 0 for the base; returns the hash of its weights."""
        self.generations.go_live(number)
        self.weights.refresh()
        return self.generations.manifest(number).weights_hash if number else self.generations.base_hash()

    # -- queries -------------------------------------------------------------------------------

    def route(self, query: str, *, route: str | None = None, namespaces: Sequence[str] | None = None, max_new_tokens: int = 48) -> Decision:
        """Decide how a query is answered; only the weights, if they are to answer, are asked already."""
        return self.behaviour.over(query, route, partial(decide, self, query, route, namespaces, max_new_tokens))

    def stream(self, query: str, decision: Decision, max_new_tokens: int = 48) -> Iterator[str]:
        """The answer, piece by piece."""
        yield from self.answerer.stream(query, decision, max_new_tokens)

    def ask(self, query: str, *, route: str | None = None, namespaces: Sequence[str] | None = None, max_new_tokens: int = 48) -> Answer:
        """Answer a query: from weights or memory if facts govern it, else exactly as the model does without memory."""
        decision = self.route(query, route=route, namespaces=namespaces, max_new_tokens=max_new_tokens)
        started = time.perf_counter()
        text = "".join(self.stream(query, decision, max_new_tokens)).strip()
        timings = decision.timings_ms | {"generate": (time.perf_counter() - started) * 1000}
        return Answer.of(decision, text, timings, self.answerer.prompt(query, decision).text)

    # -- housekeeping --------------------------------------------------------------------------

    def save(self) -> None:
        """Write the vector file; the ledger is always saved."""
        self.index.refresh()
        self.index.save()

    def close(self) -> None:
        """Save the vectors and counts if they were used, and release the store."""
        if "weights" in self.__dict__:
            self.weights.flush()
        if "index" in self.__dict__:
            self.save()
        self.ledger.close()

    def __enter__(self) -> HybridMemory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
