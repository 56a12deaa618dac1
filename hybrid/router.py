"""The router: embed the query, look into the memory, score the candidates, decide who answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from hybrid import mirror
from hybrid.answer import Decision
from hybrid.embedder import Embedder
from hybrid.scope.evidence import Witness
from hybrid.scope.names import spelt_out
from hybrid.scope.reading import last_sentence
from hybrid.scope.stages import Worth
from policies.routing import READERS
from policies.routing import route as choose
from policies.scope import ScopePolicy, probability
from stores.errors import HybridError
from stores.events import now
from stores.ledger import Ledger
from stores.records import Hit
from stores.vectors import VectorIndex

ROUTES = ("base", *READERS, "weights")
LONG = 200
"""Letters of a query from which on it is embedded alone."""


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
        weights: Callable[[], Mapping[str, float] | None] = lambda: None,
        preferred: str = READERS[0],
    ):
        self.ledger, self.index, self.embedder, self.witness, self.in_weights = ledger, index, embedder, witness, in_weights
        self.policy = policy or ScopePolicy()
        self.weights = weights
        """The store's own weights of the evidence; None where it has none."""
        self.preferred = preferred
        """Who reads facts where the store does not say."""

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
        candidates, timings = self.candidates(query, quick=force is None, mirrors=True)
        if force in READERS and not candidates:
            raise HybridError("the memory is empty, so there is no fact to answer with; add one with `hybrid add-fact`")
        governing = self.policy.govern(candidates, moment or now(), namespaces)
        if force in READERS and not governing:
            governing = list(candidates[:1])
        governing = list({hit.fact.id: hit for hit in reversed(governing)}.values())[::-1]  # of a fact and its mirror, the better
        ids = [hit.fact.id for hit in governing]
        chosen = force or choose(ids, self._in_weights(governing), self.reader)
        return Decision(chosen, tuple(governing), tuple(candidates), timings | {"route": _since(started)})

    def _in_weights(self, governing: Sequence[Hit]) -> set[str]:
        """Those that the weights hold; what they learned forwards they do not know backwards."""
        mirrored = {hit.fact.id for hit in governing if self.ledger.get(hit.fact.id).subject != hit.fact.subject}
        return self.in_weights([hit.fact.id for hit in governing]) - mirrored

    @property
    def reader(self) -> str:
        """The route of answers from memory, as the store says now."""
        return self.ledger.setting("reader") or self.preferred

    def candidates(self, query: str, *, quick: bool = False, mirrors: bool = False) -> tuple[list[Hit], dict[str, float]]:
        """The facts nearest to the query by meaning or by name, scored, best first; and what each step took.

        Args:
            quick: do not read to the end what can not govern; the decision is the same (but for bounds that were exceeded, see
                `hybrid.scope.stages`), the scores of facts that do not govern are estimates.
            mirrors: facts read backwards, too, see `hybrid.mirror`.
        """
        started = time.perf_counter()
        self.index.refresh()
        if len(self.index) == 0:
            return [], {}
        last = last_sentence(query)
        weights = self.weights() or self.witness.scorer.about["evidence"]
        worth = self._worth(weights) if quick else None
        views = [query] if last == query.strip() else [query, last]
        facts = self.ledger.by_number({number for view in views for number in self.ledger.search_names(spelt_out(view), self.policy.candidates)})
        backwards = mirror.candidates(self.ledger, last, self.policy.candidates) if mirrors else []
        facts |= {-number: fact for number, fact in enumerate(backwards, start=1)}
        readings = dict(zip(facts, self.witness.readings(query, list(facts.values())), strict=True))
        named = time.perf_counter()
        vectors = self._embed(views, self.witness.texts(list(readings.values())))
        embedded = time.perf_counter()
        similarity: dict[int, float] = {}
        for found in self.index.search(vectors, self.policy.candidates):
            for number, cosine in found:
                similarity[number] = max(cosine, similarity.get(number, -1.0))
        for number, stored in self.ledger.vectors([n for n in facts if n not in similarity]):
            similarity[number] = float((vectors @ np.frombuffer(stored, dtype="<f4")).max())
        if backwards:
            cosines = vectors @ self.embedder.embed([fact.statement for fact in backwards]).T
            similarity |= {-number: float(cosines[:, number - 1].max()) for number in range(1, len(backwards) + 1)}
        searched = time.perf_counter()
        near = self.ledger.by_number([n for n in similarity if n not in facts])
        readings |= dict(zip(near, self.witness.readings(query, list(near.values())), strict=True))
        facts |= near
        numbers = [n for n in facts if n in similarity]
        evidence = self.witness.weigh([readings[n] for n in numbers], [similarity[n] for n in numbers], worth)
        hits = [Hit(facts[n], similarity[n], probability(seen, weights), asdict(seen)) for n, seen in zip(numbers, evidence, strict=True)]
        hits = [
            hit
            for n, hit in zip(numbers, hits, strict=True)
            if n > 0 or hit.score < self.policy.bar(hit.evidence) or mirror.asks_for(hit.fact, query, self.witness)
        ]
        hits.sort(key=lambda hit: (-hit.score, -hit.similarity, hit.fact.id))
        timings = {
            "embed": (embedded - named) * 1000,
            "search": (searched - embedded + named - started) * 1000,
            "score": _since(searched),
        }
        return hits, timings

    def _worth(self, weights: Mapping[str, float]) -> Worth | None:
        """Whether evidence suffices to govern; None where more of it might count against a fact."""
        if min(weights["logit"], weights["own"], -weights["rival"], weights["contrast"], weights["judged"]) < 0:
            return None
        return lambda seen: probability(seen, weights) >= self.policy.bar(asdict(seen))

    def _embed(self, views: list[str], texts: list[str]) -> NDArray[np.float32]:
        """Vectors of the views of a query; in the same pass those texts that the witness will ask for, unless the query is so long that they would wait for it."""
        if self.witness.embedder is not self.embedder or len(views[0]) > LONG:
            return self.embedder.embed(views)
        vectors = self.embedder.embed([*views, *texts])
        self.witness.keep(texts, vectors[len(views) :])
        return vectors[: len(views)]


def _since(moment: float) -> float:
    return (time.perf_counter() - moment) * 1000
