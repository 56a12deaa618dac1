"""Nearest vectors, by a FAISS index that suits how many there are: exact while that is fast, inverted lists beyond, quantized when they are many.

Recall against exact search, time and memory at a million vectors are measured by `bench/scale.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import faiss
import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]
Kind = Literal["flat", "lists", "quantized"]

CHUNK = 16_384
"""Vectors taken in at once."""
TRAIN = 40
"""Vectors a list from which the lists' centroids are learnt."""
ROUNDS = 8
"""Of k-means."""
SHORTLIST = 4
"""How many times as many quantized neighbours are found as are wanted; they are compared again exactly."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Which index suits how many vectors.

    Up to `flat` every vector is compared (exact). Up to `full`, vectors lie in lists about centroids and the nearest lists are looked through
    (IVF; Jegou et al. 2011, doi:10.1109/TPAMI.2010.57). Beyond, they are kept in 8 bits a dimension, and the shortlist is compared exactly.
    """

    flat: int = 50_000
    full: int = 250_000
    outgrown: int = 4
    """Lists are learnt anew once there are so many times more, or fewer, vectors than they were learnt for."""

    def __post_init__(self) -> None:
        if not 0 < self.flat <= self.full or self.outgrown < 2:
            raise ValueError(f"sizes must rise and outgrown be at least 2: {self}")

    def kind(self, count: int) -> Kind:
        """The index for so many vectors."""
        if count <= self.flat:
            return "flat"
        return "lists" if count <= self.full else "quantized"


def lists(count: int) -> int:
    """How many lists: the power of two nearest to twice the root of the number of vectors."""
    return int(2 ** round(math.log2(2 * math.sqrt(max(count, 1)))))


def probes(number: int) -> int:
    """How many of the lists are looked through: enough for 99% of what exact search finds, for questions lie far from the statements that they ask for."""
    return max(16, number * 3 // 8)


@dataclass
class Nearest:
    """A FAISS index with what is known of it: its kind, and how many vectors its lists were learnt for."""

    index: Any
    kind: Kind
    learnt: int

    @classmethod
    def empty(cls, dimension: int) -> Nearest:
        """Without vectors."""
        return cls(faiss.IndexIDMap2(faiss.IndexFlatIP(dimension)), "flat", 0)

    @classmethod
    def build(cls, count: int, dimension: int, sizes: Sizes, some: Callable[[int], Matrix], chunks: Iterable[tuple[NDArray[np.int64], Matrix]]) -> Nearest:
        """An index of `count` vectors.

        Args:
            some: gives about n of the vectors, (n, dimension), to learn the lists from.
            chunks: all of them with their ids, a part at a time.
        """
        kind = sizes.kind(count)
        made = cls.empty(dimension) if kind == "flat" else cls(_untrained(kind, lists(count), dimension), kind, count)
        if kind != "flat":
            made.index.train(np.ascontiguousarray(some(TRAIN * lists(count))))
        for ids, vectors in chunks:
            made.add(ids, vectors)
        return made

    def __len__(self) -> int:
        return int(self.index.ntotal)

    @property
    def exact(self) -> bool:
        """Whether what is found is what comparing all would find."""
        return self.kind == "flat"

    def fits(self, sizes: Sizes, slack: int = 1) -> bool:
        """Whether this kind of index, and its lists, still suit the number of vectors; with slack, within so many times the sizes."""
        count = len(self)
        order = get_args(Kind)
        if not order.index(sizes.kind(count // slack)) <= order.index(self.kind) <= order.index(sizes.kind(count * slack)):
            return False
        return self.exact or (count <= sizes.outgrown * self.learnt * slack and self.learnt <= sizes.outgrown * count * slack)

    def add(self, ids: NDArray[np.int64], vectors: Matrix) -> None:
        """Take in unit vectors (n, d) under ids (n,)."""
        self.index.add_with_ids(np.ascontiguousarray(vectors, dtype=np.float32), np.ascontiguousarray(ids))

    def remove(self, ids: NDArray[np.int64]) -> None:
        """Drop what has these ids."""
        self.index.remove_ids(ids)

    def search(self, queries: Matrix, k: int, fetch: Callable[[list[int]], tuple[list[int], Matrix]]) -> list[list[tuple[int, float]]]:
        """The k nearest of each query (n, d): (id, cosine), nearest first.

        Args:
            fetch: gives the exact vectors of ids, those that are gone left out.
        """
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        wide = min(k * SHORTLIST if self.kind == "quantized" else k, len(self))
        if wide <= 0:
            return [[] for _ in queries]
        if not self.exact:
            self.index.nprobe = min(probes(self.index.nlist), self.index.nlist)
        scores, ids = self.index.search(queries, wide)
        if self.kind != "quantized":
            return [[(int(n), float(s)) for n, s in zip(ns, ss, strict=True) if n >= 0] for ns, ss in zip(ids, scores, strict=True)]
        numbers, vectors = fetch(sorted({int(n) for n in ids.ravel() if n >= 0}))
        place = {number: at for at, number in enumerate(numbers)}
        found = []
        for query, row in zip(queries, ids, strict=True):
            here = [int(n) for n in row if int(n) in place]
            cosines = vectors[[place[n] for n in here]] @ query
            found.append(sorted(((n, float(c)) for n, c in zip(here, cosines, strict=True)), key=lambda pair: -pair[1])[:k])
        return found


def _untrained(kind: Kind, number: int, dimension: int) -> Any:
    quantizer: Any = faiss.IndexFlatIP(dimension)
    index: Any
    if kind == "lists":
        index = faiss.IndexIVFFlat(quantizer, dimension, number, faiss.METRIC_INNER_PRODUCT)
    else:
        index = faiss.IndexIVFScalarQuantizer(quantizer, dimension, number, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
    quantizer.this.disown()
    index.own_fields = True
    index.cp.niter, index.cp.seed, index.cp.min_points_per_centroid = ROUNDS, 1, 1
    return index
