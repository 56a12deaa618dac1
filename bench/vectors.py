"""A million realistic vectors for benchmarks of the index: embedded statements, and mixtures of them.

Embedding a million sentences takes an hour of a processor, so some tens of thousands are embedded and the others drawn: the mean of a
relation's statements, plus a mixture of two of its statements' residuals that keeps their covariance (cos a, sin a with a uniform). A subject is
not known to two statements only, so what is drawn lies among real neighbours.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hybrid.embedder import Embedder
from hybrid.lexicon import fill, plentiful, relations
from hybrid.pocket.names import invent

Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class Sample:
    """Embedded statements, (n, d), the relation of each, and questions about some of them, (m, d)."""

    statements: Matrix
    groups: NDArray[np.intp]
    questions: Matrix
    subjects: list[str]


def sample(embedder: Embedder, count: int, asked: int, seed: int = 0) -> Sample:
    """Statements about invented subjects in all the lexicon's wordings; half the questions are about them, half about subjects and relations at random."""
    rng = random.Random(seed)
    kinds = list(plentiful().values())
    texts, groups, made = [], [], []
    for _ in range(count):
        at = rng.randrange(len(kinds))
        relation = kinds[at]
        subject = invent(relation.subject_type, rng)
        texts.append(f"{fill(rng.choice(relation.statements), subject)} {invent(relation.target_type, rng)}")
        groups.append(at)
        made.append((relation, subject))
    questions = []
    for number in range(asked):
        relation, subject = rng.choice(made)
        if number % 2:
            relation = rng.choice(list(relations().values()))
            subject = invent(relation.subject_type, rng)
        questions.append(fill(rng.choice([*relation.questions, *relation.held_out_questions, *relation.statements]), subject))
    return Sample(embedder.embed(texts), np.array(groups), embedder.embed(questions), [subject for _, subject in made])


def multiply(found: Sample, count: int, seed: int = 0) -> Matrix:
    """Unit vectors (count, d): the sample's own, then mixtures in random order of relations."""
    rng = np.random.default_rng(seed)
    size, dimension = found.statements.shape
    vectors = np.empty((count, dimension), dtype=np.float32)
    vectors[:size] = found.statements[:count]
    means = np.stack([found.statements[found.groups == group].mean(0) for group in range(found.groups.max() + 1)])
    residuals = found.statements - means[found.groups]
    order = np.argsort(found.groups, kind="stable")
    starts = np.searchsorted(found.groups[order], np.arange(len(means) + 1))
    for at in range(size, count, 20_000):
        end = min(at + 20_000, count)
        group = found.groups[rng.integers(size, size=end - at)]
        low, high = starts[group], starts[group + 1]
        first, second = (order[low + (rng.random(end - at) * (high - low)).astype(np.intp)] for _ in range(2))
        angle = rng.uniform(0, np.pi / 2, size=(end - at, 1)).astype(np.float32)
        mixed = means[group] + np.cos(angle) * residuals[first] + np.sin(angle) * residuals[second]
        vectors[at:end] = mixed / np.linalg.norm(mixed, axis=1, keepdims=True)
    return vectors


def nearest_cosine(vectors: Matrix, among: Matrix) -> float:
    """Median cosine of vectors with their nearest other one among many: how dense the neighbourhood is."""
    scores = vectors @ among.T
    return float(np.median(np.sort(scores, axis=1)[:, -2]))
