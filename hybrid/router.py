"""The router: embed the query, look into the memory, score the candidates, decide who answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict

import numpy as np

from hybrid.answer import Decision
from hybrid.embedder import Embedder
from hybrid.scope.evidence import Witness, last_sentence
from policies.routing import READERS
from policies.routing import route as choose
from policies.scope import ScopePolicy, probability
from stores.errors import HybridError
from stores.events import now
from stores.ledger import Ledger
from stores.records import Hit
from stores.vectors import VectorIndex

ROUTES = ("base", *READERS, "weights")


class Router:
    """Decides, for each query, whether stored facts govern it, and which."""

    def __init__(
        self,
        ledger: Ledger,
        index: VectorIndex,
        embedder: Embedder,
        witness: Witness,
        policy: ScopePolicy | None = None,
        in_weights: Callable[[list[str]], set[str]] = lambda _: set(),
    ):
        self.ledger, self.index, self.embedder, self.witness, self.in_weights = ledger, index, embedder, witness, in_weights
        self.policy = policy or ScopePolicy()

    def route(self, query: str, *, force: str | None = None, namespaces: Sequence[str] | None = None, moment: str | None = None) -> Decision:
        """Choose a route for a query.

        Args:
            query: as the user typed it.
            force: a route to take whatever the scores say; with one that reads facts the best candidate governs.
            namespaces: those whose facts may govern; all if None.
            moment: ISO 8601 time at which facts must be valid; now if None.
        Raises:
            HybridError: if a forced route does not exist, or has no fact to work with.
        """
        if force is not None and force not in ROUTES:
            raise HybridError(f"there is no route {force!r} here; choose one of {', '.join(ROUTES)}")
        started = time.perf_counter()
        if force in ("base", "weights"):
            return Decision(force, timings_ms={"route": _since(started)})
        candidates, timings = self.candidates(query)
        if force in READERS and not candidates:
            raise HybridError("the memory is empty, so there is no fact to answer with; add one with `hybrid add-fact`")
        governing = self.policy.govern(candidates, moment or now(), namespaces)
        if force in READERS and not governing:
            governing = list(candidates[:1])
        ids = [hit.fact.id for hit in governing]
        chosen = force or choose(ids, self.in_weights(ids), self.reader)
        return Decision(chosen, tuple(governing), tuple(candidates), timings | {"route": _since(started)})

    @property
    def reader(self) -> str:
        """The route of answers from memory, as the store says now."""
        return self.ledger.setting("reader") or READERS[0]

    def candidates(self, query: str) -> tuple[list[Hit], dict[str, float]]:
        """The facts nearest to the query by meaning or by name, scored, best first; and what each step took."""
        started = time.perf_counter()
        self.index.refresh()
        if len(self.index) == 0:
            return [], {}
        last = last_sentence(query)
        views = [query] if last == query.strip() else [query, last]
        vectors = self.embedder.embed(views)
        embedded = time.perf_counter()
        similarity: dict[int, float] = {}
        for found in self.index.search(vectors, self.policy.candidates):
            for number, cosine in found:
                similarity[number] = max(cosine, similarity.get(number, -1.0))
        named = [n for n in self.ledger.search_names(last, self.policy.candidates) if n not in similarity]
        if named:
            for number, stored in self.ledger.vectors(named):
                similarity[number] = float((vectors @ np.frombuffer(stored, dtype="<f4")).max())
        searched = time.perf_counter()
        facts = self.ledger.by_number(similarity)
        numbers = list(facts)
        weights = self.witness.scorer.about["evidence"]
        evidence = self.witness.gather(query, [facts[n] for n in numbers])
        hits = [Hit(facts[n], similarity[n], probability(seen, weights), asdict(seen)) for n, seen in zip(numbers, evidence, strict=True)]
        hits.sort(key=lambda hit: (-hit.score, -hit.similarity, hit.fact.id))
        timings = {
            "embed": (embedded - started) * 1000,
            "search": (searched - embedded) * 1000,
            "score": _since(searched),
        }
        return hits, timings


def _since(moment: float) -> float:
    return (time.perf_counter() - moment) * 1000
