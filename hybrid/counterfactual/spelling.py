"""A small reader finds the value and may garble it while it copies; the fact knows how it is spelt."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rapidfuzz.distance import Indel, Prefix

from hybrid.scope.names import fold

UNKNOWN = "\N{REPLACEMENT CHARACTER}"
"""Stands for bytes that make no character."""
LED = re.compile(r"^(?:(?:of|on|in|at|by|to|from|as|is|with) )+")
"""Words that lead to a value and are none of it; where they are the value's own, it is found with them."""
ALIKE = 0.7
"""Share of letters in common (Indel similarity) from which an answer is a garbled value."""
BEGUN, MOSTLY = 10, 0.6
"""Letters of a value that an answer begins with, and the share of the answer that they are, to be one that went astray on the way."""


def spelt(answer: str, values: Sequence[str]) -> str:
    """The answer; or the value that it garbles or leads up to ("of Oslo"), as the fact has it; or the first value if nothing was said, or no text.

    Args:
        answer: what the reader said.
        values: the targets of the facts that it was given, the best one first.
    """
    said = fold(answer.strip())
    bare = LED.sub("", said)
    if (meant := next((value for value in values if fold(value) in (said, bare)), None)) is not None:
        return answer if fold(meant) == said else meant
    if not values or any(fold(value) in said for value in values):
        return answer
    lost = not said or UNKNOWN in answer
    return next((value for value in values if said and _garbled(said, fold(value))), values[0] if lost else answer)


def _garbled(said: str, value: str) -> bool:
    begun = Prefix.similarity(said, value)
    return Indel.normalized_similarity(said, value) >= ALIKE or (begun >= BEGUN and begun >= MOSTLY * len(said))
