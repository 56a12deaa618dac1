"""A small reader finds the value and may garble it while it copies; the fact knows how it is spelt."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rapidfuzz.distance import Indel, Prefix

from hybrid.scope.names import fold
from hybrid.scope.words import SMALL

UNKNOWN = "\N{REPLACEMENT CHARACTER}"
"""Stands for bytes that make no character."""
LED = re.compile(r"^(?:(?:of|on|in|at|by|to|from|as|is|with) )+")
"""Words that lead to a value and are none of it; where they are the value's own, it is found with them."""
ALIKE = 0.7
"""Share of letters in common (Indel similarity) from which an answer is a garbled value."""
BEGUN, MOSTLY = 10, 0.6
"""Letters of a value that an answer begins with, and the share of the answer that they are, to be one that went astray on the way."""

COPIED, CUT = 0.75, 5
"""Share of the words said that are the subject's, to be a copy of the wrong part; and letters of a word that is taken for cut off."""
WORD = re.compile(r"\w+")


def spelt(answer: str, values: Sequence[str], names: Sequence[str] = ()) -> str:
    """The answer; or the value that it garbles, is a part of or leads up to ("of Oslo"), as the fact has it; or the first value if nothing was said, no text, or
    what a fact is about.

    Args:
        answer: what the reader said.
        values: the targets of the facts that it was given, the best one first.
        names: their subjects, in the same order.
    """
    said = fold(answer.strip())
    bare = LED.sub("", said)
    if (meant := next((value for value in values if fold(value) in (said, bare)), None)) is not None:
        return answer if fold(meant) == said else meant
    content = [word for word in WORD.findall(said) if word not in SMALL]
    if content and (meant := next((value for value in values if set(content) <= set(WORD.findall(fold(value)))), None)) is not None:
        return meant
    if not values or any(fold(value) in said for value in values):
        return answer
    lost = not said or UNKNOWN in answer or any(bare == fold(name) or _copied(content, WORD.findall(fold(name))) for name in names)
    return next((value for value in values if said and _garbled(said, fold(value))), values[0] if lost else answer)


def _copied(content: Sequence[str], name: Sequence[str]) -> bool:
    """Whether most of what was said are words of a name of several, the last one perhaps cut off."""
    own = [word in name or (word is content[-1] and len(word) >= CUT and any(each.startswith(word) for each in name)) for word in content]
    return len(name) > 1 and bool(own) and sum(own) >= COPIED * len(own)


def _garbled(said: str, value: str) -> bool:
    begun = Prefix.similarity(said, value)
    return Indel.normalized_similarity(said, value) >= ALIKE or (begun >= BEGUN and begun >= MOSTLY * len(said))
