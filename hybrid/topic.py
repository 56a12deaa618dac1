"""The scope of a topic: whether a query is about what a rule (or a steering vector) is for.

A fact has a subject and a relation, and the router's classifier was trained on those. A topic has a description and example
queries instead, so its boundary is fitted on the spot, in the embedder's space: weighted kernel ridge regression of the
examples (+1) against everyday queries of all sorts and the given counterexamples (-1), each side with half of the weight.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hybrid.embedder import Embedder
from hybrid.scope.evidence import last_sentence

RIDGE = 0.1
"""Of the mean squared length of a centred vector."""
THRESHOLD = 0.05
"""Score from which a query is in scope. Chosen, as `RIDGE` was, on the tuning half of `bench/behaviour.toml`."""
LEAD = re.compile(r"^(?:all |any )?(?:questions?|queries|anything|everything|requests?) (?:about|on|concerning|regarding|for) ", re.IGNORECASE)


@lru_cache(maxsize=1)
def background() -> tuple[str, ...]:
    """Everyday queries about nothing in particular, the project's own."""
    return tuple(Path(__file__).with_name("background.txt").read_text(encoding="utf-8").splitlines())


@dataclass(frozen=True)
class Topic:
    """A fitted boundary: score(x) = slope . x + offset, for unit vectors x (d,)."""

    slope: NDArray[np.float64]
    offset: float

    @classmethod
    def fit(cls, inside: NDArray[np.float32], outside: NDArray[np.float32]) -> Topic:
        """Fit to vectors (n, d) of queries in scope and (m, d) out of scope.

        Raises:
            ValueError: if either side is empty.
        """
        if not len(inside) or not len(outside):
            raise ValueError("a topic needs at least one example inside and one outside")
        rows = np.vstack([inside, outside]).astype(np.float64)
        wanted = np.r_[np.ones(len(inside)), -np.ones(len(outside))]
        weight = np.r_[np.full(len(inside), 0.5 / len(inside)), np.full(len(outside), 0.5 / len(outside))]
        centre, level = weight @ rows, weight @ wanted
        rows, wanted = rows - centre, wanted - level
        ridge = RIDGE * float(weight @ (rows**2).sum(1))
        slope = rows.T @ (weight * np.linalg.solve(rows @ rows.T * weight + ridge * np.eye(len(rows)), wanted))
        return cls(slope, float(level - centre @ slope))

    def score(self, vectors: NDArray[np.float32]) -> float:
        """The highest score of a query's views (n, d); about -1 for what is far outside, 1 for the examples themselves."""
        return float((vectors @ self.slope + self.offset).max())


def views(query: str) -> list[str]:
    """What of a query is judged: the whole, and the sentence in which it asks."""
    last = last_sentence(query)
    return [query] if last == query.strip() else [query, last]


def describe(topic: str) -> str:
    """What a topic is about, without the words that all topics share: 'questions about cooking' is 'cooking'."""
    return LEAD.sub("", " ".join(topic.split()))


class TopicFitter:
    """Fits topics with one embedder; the background is embedded once."""

    def __init__(self, embedder: Embedder):
        self.embedder = embedder
        self._background: NDArray[np.float32] | None = None

    def fit(self, topic: str, examples: Sequence[str], counterexamples: Sequence[str]) -> Topic:
        """The boundary of a topic; its description counts as one more example."""
        if self._background is None:
            self._background = self.embedder.embed(background())
        inside = [text for text in (describe(topic), *examples) if text]
        return Topic.fit(self.embedder.embed(inside), np.vstack([self._background, self.embedder.embed(list(counterexamples))]))
