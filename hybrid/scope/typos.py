"""Slips in ordinary words ("the captial of", "who desigened"): put right, so that a wording is compared as it was meant."""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import lru_cache

from rapidfuzz import process
from rapidfuzz.distance import OSA

from hybrid.embedder import minilm_folder
from hybrid.scope.ordinary import worded, written

LONG, LONGER = 6, 9
"""Letters of a word in which two letters that changed places show, and in which one that is missing, too many or another does; shorter words are one letter
from too many others."""
WORD = re.compile(rf"(?<![\w'’{{-])[a-z]{{{LONG},}}(?![\w'’}}-])")
"""A whole word in small letters."""
ENDING = re.compile(r"(?:s|es|d|ed|ing|er|or|ers|ors)$")
"""What an inflected word has beyond one that is known."""


def mended(text: str, names: Collection[str] = ()) -> str:
    """The text with slips of one letter in words of small letters put right.

    Only words that neither this project's sentences nor the embedder's vocabulary have are taken for slips, and only of words that the lexicon is
    phrased with.

    Args:
        names: words, folded, that may be somebody's name and stay.
    """
    return WORD.sub(lambda found: found.group() if found.group() in names else _meant(found.group()), text)


@lru_cache(maxsize=65536)
def _meant(word: str) -> str:
    if any(form in written() or form in _vocabulary() for form in (word, ENDING.sub("", word), ENDING.sub("e", word))):
        return word
    near = [found for found, *_ in process.extract(word, _long(), scorer=OSA.distance, score_cutoff=1, limit=None)]
    likely = [found for found in near if (found[0], found[-1]) == (word[0], word[-1]) and (len(word) >= LONGER or sorted(found) == sorted(word))]
    return str(likely[0]) if len(likely) == 1 else word


@lru_cache(maxsize=1)
def _vocabulary() -> frozenset[str]:
    return frozenset((minilm_folder() / "vocab.txt").read_text(encoding="utf-8").split())


@lru_cache(maxsize=1)
def _long() -> tuple[str, ...]:
    """Words that a slip may have been meant for."""
    return tuple(sorted(word for word in worded() if len(word) >= LONG))
