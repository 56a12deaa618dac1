"""Names cut short: an acronym, initials beside a family name, a person's family name alone, a character by its code point, a minor planet by its number or
name alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from hybrid.scope.ordinary import opening, written
from hybrid.scope.words import SMALL, same, words

CODE = re.compile(r"\b[Uu]\+([0-9A-Fa-f]{4,6})\b")
INITIALS = re.compile(r"[A-Z]{1,3}")
PLANET = re.compile(r"(\d{3,6}) ([A-Z]\w{4,})")
"""A minor planet's number and name."""
ARTICLE = re.compile(r"(?i)\b(?:the|an?) $")
FAMILY = 4
"""Letters that a family name has at least, to stand for a person alone."""


def shortened(name: str, text: str) -> tuple[int, int] | None:
    """Where a short form of a name stands in a text.

    An acronym of three letters or more ("NAP" for "Nuclei Armati Proletari"), initials together beside the last word ("RF Hashimoto", "Hashimoto RF",
    "Hashimoto R"), the code point of a character ("U+B9E6"), a minor planet's number in brackets, with its designation, or its name.
    """
    if (planet := PLANET.fullmatch(name)) is not None:
        return _planet(planet.group(1), planet.group(2), text)
    if len(name) == 1 and not name.isascii():
        return next((found.span() for found in CODE.finditer(text) if int(found.group(1), 16) == ord(name)), None)
    own, there = _several(name), words(text)
    if not own:
        return None
    acronyms = {"".join(word[0] for word in own).upper(), "".join(word[0] for word in own if word.lower() not in SMALL)}
    for word, place in there:
        if len(word) >= 3 and word.isupper() and word in acronyms:
            return place
    for (a, first), (b, second) in pairwise(there):
        if _cited(own, a, b, 2) or _cited(own, b, a, 1):
            return first[0], second[1]
    return None


def _planet(number: str, called: str, text: str) -> tuple[int, int] | None:
    numbered = re.search(rf"\({number}\)(?: \d{{4}} [A-Z]{{2}}\d*\b)?", text)
    if numbered is not None or called.casefold() in written():
        return None if numbered is None else numbered.span()
    named = re.search(rf"(?<!\w){called}(?!\w)", text)
    return None if named is None or _beside(text, *named.span()) else named.span()


def characters(text: str) -> list[str]:
    """The characters whose code points a text has."""
    return [chr(point) for found in CODE.finditer(text) if (point := int(found.group(1), 16)) <= 0x10FFFF and chr(point).isprintable()]


def partly(name: str, text: str) -> tuple[int, int] | None:
    """Where a person is called by the family name alone, or by a long name's first words; with no other capitalised word beside it."""
    own, there = _several(name), words(text)
    if not own:
        return None
    parts = [own[:-1]] if len(own) >= 3 and own[-2].lower() not in SMALL else []
    parts += [own[-1:]] if len(own[-1]) >= FAMILY else []
    for part in parts:
        for at in range(len(there) - len(part) + 1):
            window = there[at : at + len(part)]
            if all(same(a, b) and b[0].isupper() for a, (b, _) in zip(part, window, strict=True)) and not _beside(text, window[0][1][0], window[-1][1][1]):
                return window[0][1][0], window[-1][1][1]
    return None


def _several(name: str) -> list[str]:
    """The words of a name of several, all of them with capitals but for small ones; none of any other name."""
    own = [word for word, _ in words(name)]
    return own if len(own) >= 2 and all(word[0].isupper() or word.lower() in SMALL for word in own) else []


def _cited(own: Sequence[str], initials: str, family: str, least: int) -> bool:
    given = "".join(word[0] for word in own[:-1])
    return len(initials) >= least and INITIALS.fullmatch(initials) is not None and given.startswith(initials) and family[0].isupper() and same(own[-1], family)


def _beside(text: str, start: int, end: int) -> bool:
    """Whether another capitalised word, a number or an article ("the King") stands right beside; an ordinary word that a sentence begins with has a capital
    anyway."""
    before = re.search(r"(?<=[^\s.:!?] )[A-Z]\S* $", text[:start]) or opening(text[:start]) or ARTICLE.search(text[:start])
    return before is not None or re.match(r"[ -](?:[A-Z]|\d)", text[end:]) is not None
