"""A small reader finds the value and may garble it while it copies; the fact knows how it is spelt."""

from __future__ import annotations

from collections.abc import Sequence

from rapidfuzz.distance import Indel, Prefix

from hybrid.scope.names import fold

ALIKE = 0.7
"""Share of letters in common (Indel similarity) from which an answer is a garbled value."""
BEGUN, MOSTLY = 10, 0.6
"""Letters of a value that an answer begins with, and the share of the answer that they are, to be one that went astray on the way."""


def spelt(answer: str, values: Sequence[str]) -> str:
    """The answer; or the value that it garbles, as the fact has it; or the first value if nothing was said.

    Args:
        answer: what the reader said.
        values: the targets of the facts that it was given, the best one first.
    """
    said = fold(answer.strip())
    if not said:
        return values[0] if values else answer
    if any(fold(value) in said for value in values):
        return answer
    return next((value for value in values if _garbled(said, fold(value))), answer)


def _garbled(said: str, value: str) -> bool:
    begun = Prefix.similarity(said, value)
    return Indel.normalized_similarity(said, value) >= ALIKE or (begun >= BEGUN and begun >= MOSTLY * len(said))
