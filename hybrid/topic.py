"""The scope of a topic: whether a query is about what a rule (or a steering vector) is for.

A fact has a subject and a relation, and the router's classifier was trained on those. A topic has a description and example
queries instead, so its boundary is fitted on the spot, in the embedder's space: weighted kernel ridge regression of the
examples (+1) against everyday queries of all sorts and the given counterexamples (-1), each side with half of the weight.
Where the examples are about ever another name, the names are not what the topic is about: all texts count without them, too.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import dropwhile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hybrid.embedder import Embedder
from hybrid.scope.ordinary import written
from hybrid.scope.reading import last_sentence

RIDGE = 0.1
"""Of the mean squared length of a centred vector."""
NEAR = 0.15
"""Weight of the counterexamples together, taken from the everyday queries: those few say where the boundary runs."""
THRESHOLD = 0.05
"""Score from which a query is in scope. Chosen, as the others were, by leaving out one of the tuning half of `bench/behaviour.toml` at a time."""
NAME = re.compile(r"\b[A-Z][\w’-]*(?:'(?!s\b)\w+)*(?: +[A-Z][\w’-]*(?:'(?!s\b)\w+)*)*")
"""Capitalized words in a row, without a possessive's s."""
OPENS = re.compile(r"(?:^|[.?!:])\W*$")
"""What stands before the first word of a sentence."""
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
    nameless: bool = False
    """Whether queries count without their names, too."""

    @classmethod
    def fit(cls, inside: NDArray[np.float32], outside: NDArray[np.float32], near: NDArray[np.float32] | None = None) -> Topic:
        """Fit to vectors (n, d) of queries in scope, (m, d) out of scope, and (k, d) near it and yet outside.

        Raises:
            ValueError: if one of the first two is empty.
        """
        if not len(inside) or not len(outside):
            raise ValueError("a topic needs at least one example inside and one outside")
        near = outside[:0] if near is None else near
        share = NEAR if len(near) else 0.0
        sides = [(inside, 1, 0.5), (outside, -1, 0.5 - share), (near, -1, share)]
        rows = np.vstack([side for side, _, _ in sides]).astype(np.float64)
        wanted = np.concatenate([np.full(len(side), sign, dtype=np.float64) for side, sign, _ in sides])
        weight = np.concatenate([np.full(len(side), part / max(1, len(side))) for side, _, part in sides])
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


def names(text: str) -> list[str]:
    """Capitalized words in a row; ordinary ones do not count alone, nor where a sentence begins with them."""
    found = []
    for run in NAME.finditer(text):
        words = run.group().split()
        opens = OPENS.search(text[: run.start()])
        left = list(dropwhile(_ordinary, words)) if opens else words
        if not all(map(_ordinary, left)):
            found.append(" ".join(left))
    return found


def _ordinary(word: str) -> bool:
    return word.lower() in written()


def unnamed(text: str) -> str:
    """A text with X for every name."""
    for name in names(text):
        text = re.sub(rf"\b{re.escape(name)}\b", "X", text)
    return text


def named_apart(examples: Sequence[str]) -> bool:
    """Whether most examples name something, and no name is in more than half of them."""
    found = [set(names(text)) for text in examples]
    each = Counter(name for some in found for name in some)
    return sum(map(bool, found)) > len(examples) / 2 and max(each.values()) <= len(examples) / 2


def describe(topic: str) -> str:
    """What a topic is about, without the words that all topics share: 'questions about cooking' is 'cooking'."""
    return LEAD.sub("", " ".join(topic.split()))


class TopicFitter:
    """Fits topics with one embedder, and scores queries; the background and the query asked last are embedded once."""

    def __init__(self, embedder: Embedder):
        self.embedder = embedder
        self._kept: dict[tuple[str, bool], tuple[Sequence[str], NDArray[np.float32]]] = {}

    def fit(self, topic: str, examples: Sequence[str], counterexamples: Sequence[str]) -> Topic:
        """The boundary of a topic; its description counts as one more example."""
        inside = [text for text in (describe(topic), *examples) if text]
        nameless = named_apart(examples)
        outside = self._embed(background(), nameless, "background")
        fitted = Topic.fit(self._embed(inside, nameless), outside, self._embed(counterexamples, nameless))
        return replace(fitted, nameless=nameless)

    def score(self, topic: Topic, query: str) -> float:
        """How far a query is within a topic."""
        return topic.score(self._embed(views(query), topic.nameless, "query"))

    def _embed(self, texts: Sequence[str], nameless: bool, what: str = "") -> NDArray[np.float32]:
        """Vectors of texts, and of the texts without names if `nameless`; the last ones of `what` are kept."""
        kept = self._kept.get((what, nameless))
        if kept is not None and kept[0] == texts:
            return kept[1]
        vectors = self.embedder.embed([*texts, *map(unnamed, texts)] if nameless else list(texts))
        if what:
            self._kept[what, nameless] = (texts, vectors)
        return vectors
