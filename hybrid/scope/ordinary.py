"""Ordinary words, as against words of names: those that this project's own sentences have in small letters (`python -m hybrid.scope.authored` writes them anew)."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from hybrid.lexicon import relations

FILE = Path(__file__).with_suffix(".txt")
OPENING = re.compile(r"(?:^|[.:!?] +|[\"“(])([A-Z]\w*)\.? $")
OPENERS = frozenset(
    "summarize summarise elaborate discuss google regarding despite amid versus shall ok nor therefore meanwhile moreover furthermore honestly surely perhaps maybe apparently reportedly historically "
    "politically lately eventually imagine suppose assuming considering hi hello hey dear wow hmm oh ah nope aren concerning although except okay hence however swimmer footballer chancellor striker chef wrestler skater skier golfer i a o".split()
)
"""Further words that sentences begin with."""


@lru_cache(maxsize=1)
def worded() -> frozenset[str]:
    """Words that the lexicon's phrasings are made of."""
    templates = (t for each in relations().values() for t in (*each.statements, *each.questions, *each.oblique))
    return frozenset(word for template in templates for word in re.findall(r"\w+", template) if word.islower())


@lru_cache(maxsize=1)
def written() -> frozenset[str]:
    """Words that sentences have in small letters."""
    return worded() | OPENERS | frozenset(FILE.read_text(encoding="utf-8").split())


def opening(start: str) -> re.Match[str] | None:
    """The word (group 1) of a name that a sentence begins with, right before where `start` ends: of "Victoria " in "Victoria Land", not of "Does " or "Singer "."""
    found = OPENING.search(start)
    return found if found is not None and found.group(1).casefold() not in written() else None
