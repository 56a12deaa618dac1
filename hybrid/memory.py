"""The whole story in one class.

A fact: cue -> `Fact` -> conflict policy -> ledger (one transaction) -> vectors. No language model runs.
A query: embed, search, score, decide (`Router`), then answer with or without the governing facts (`Answerer`).
"""

from __future__ import annotations

import getpass
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import islice
from pathlib import Path

from ulid import ULID

from hybrid.answer import Answer, Decision
from hybrid.answerers import Answerer
from hybrid.doctor import adopt
from hybrid.embedder import DEFAULT, Embedder
from hybrid.model import POCKET, LanguageModel
from hybrid.request import Added, Request, from_cue
from hybrid.router import Router
from hybrid.scope.scorer import ScopeScorer
from policies.conflict import Outcome, decide
from policies.scope import ScopePolicy
from stores.deltas import Delta
from stores.errors import NotFound
from stores.events import now
from stores.identity import hold_to
from stores.ledger import Change, Ledger, superseding
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
        return Router(self.ledger, self.index, self.embedder, ScopeScorer(), self.scope)

    @cached_property
    def answerer(self) -> Answerer:
        """Writes prompts for the model, once the store's model has been checked."""
        hold_to(self.ledger, "model", self.model.identity)
        return Answerer.suited(self.model, self.embedder, self.demonstrations, self.contrast)

    # -- facts ---------------------------------------------------------------------------------

    def add_fact(self, cue: str, target: str, **fields: object) -> Added:
        """Correct a fact, in one transaction; a repeated fact changes nothing. `fields`: see `hybrid.request.from_cue`.

        Raises:
            CueError: if the cue was not understood; nothing is stored.
        """
        return self._write([from_cue(cue, target, **fields)])[0]  # type: ignore[arg-type]

    def add_facts(self, requests: Iterable[Request], *, batch: int = 256) -> Iterator[Added]:
        """Add many, a transaction a batch; what has been yielded is stored for good."""
        waiting = iter(requests)
        while group := list(islice(waiting, batch)):
            yield from self._write(group)

    def _write(self, requests: Sequence[Request]) -> list[Added]:
        _ = self.index  # checks the embedder before anything is computed
        prepared = [request.checked() for request in requests]
        vectors = self.embedder.embed([request.statement for request in prepared])
        done: list[Added] = []
        with self.ledger.transaction():
            for request, vector in zip(prepared, vectors, strict=True):
                fact = request.to_fact(str(ULID()), self.author, now())
                current = self.ledger.active(fact.key)
                outcome = decide(fact, current)
                if current is not None and outcome is Outcome.NOTHING:
                    self.stability.confirm(current.id, self.author)
                    done.append(Added(current, outcome))
                    continue
                fact = superseding(fact, current)
                self.ledger.write([Change(fact, vector.astype("<f4").tobytes(), current)], self.author)
                done.append(Added(fact, outcome, current))
        return done

    def forget(self, fact_id: str) -> list[str]:
        """Erase a fact with its history, from the ledger, the index and its file; returns the ids of the tombstones."""
        gone = self.ledger.forget(self.ledger.get(fact_id), self.author)
        self.save()
        return gone

    def undo(self, fact_id: str) -> Fact | None:
        """Take an added fact back: the value before it is in force again, and returned, or the fact is forgotten."""
        fact = self.ledger.get(fact_id)
        if fact.status != "active":
            raise NotFound(f"fact {fact.id} is {fact.status}; only a fact in force can be undone")
        if fact.supersedes is None:
            self.forget(fact.id)
            return None
        before = self.ledger.get(fact.supersedes)
        self.ledger.restore(before, fact, self.embedder.embed([before.statement])[0].astype("<f4").tobytes(), self.author)
        return replace(before, status="active")

    def with_target_true(self, fact: Fact) -> Fact:
        """The fact with what the model says without it; asked once, then remembered."""
        if fact.target_true is not None or fact.status == "forgotten":
            return fact
        text = self.ask(fact.cloze, route="base").text
        self.ledger.fill_target_true(fact.id, text)
        return replace(fact, target_true=text)

    def reindex(self) -> int:
        """Embed every fact again with this embedder, and adopt this model and embedder; returns the number of facts."""
        return adopt(self)

    def edit(self, requests: Iterable[Request | Fact], method: str = "memit", **settings: object) -> Delta:
        """Turn requests, or facts of this store, into a weight delta; neither model nor store change. See `hybrid.editing.edit`."""
        from hybrid.editing import edit

        facts = [each if isinstance(each, Fact) else each.checked().to_fact("", self.author, now()) for each in requests]
        return edit(self.model, facts, method, **settings)

    # -- queries -------------------------------------------------------------------------------

    def route(self, query: str, *, route: str | None = None, namespaces: Sequence[str] | None = None) -> Decision:
        """Decide how a query is answered, without answering it."""
        return self.router.route(query, force=route, namespaces=namespaces)

    def stream(self, query: str, decision: Decision, max_new_tokens: int = 48) -> Iterator[str]:
        """The answer, piece by piece."""
        yield from self.model.stream(self.answerer.prompt(query, decision), max_new_tokens)

    def ask(self, query: str, *, route: str | None = None, namespaces: Sequence[str] | None = None, max_new_tokens: int = 48) -> Answer:
        """Answer a query: from memory if facts govern it, else exactly as the model does without memory."""
        decision = self.route(query, route=route, namespaces=namespaces)
        prompt = self.answerer.prompt(query, decision)
        started = time.perf_counter()
        text = self.model.complete(prompt, max_new_tokens)
        timings = decision.timings_ms | {"generate": (time.perf_counter() - started) * 1000}
        return Answer(text, decision.route, decision.governing, decision.candidates, timings, prompt=prompt.text)

    # -- housekeeping --------------------------------------------------------------------------

    def save(self) -> None:
        """Write the vector file; the ledger is always saved."""
        self.index.refresh()
        self.index.save()

    def close(self) -> None:
        """Save the vectors if they were used, and release the store."""
        if "index" in self.__dict__:
            self.save()
        self.ledger.close()

    def __enter__(self) -> HybridMemory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
