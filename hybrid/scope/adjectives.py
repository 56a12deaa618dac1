"""Countries called by their adjective: "the Peruvian capital" is Peru's."""

from __future__ import annotations

import re
import tomllib
from functools import lru_cache
from pathlib import Path

FILE = Path(__file__).with_suffix(".toml")
TONGUE = "language|word|words|translation|version|edition|name|spelling|alphabet|is|are|was|were|and|or|by|in|on|at|of|to|as|for|from|with|spoken|speaking|speakers|born|descent"
"""What follows where no country is meant, but a language or where somebody is from."""

NAMED = re.compile(r"(?<=[^\s.:!?] )[A-Z]|\d")
"""A capital that begins no sentence."""
FEW = 3
"""Words of a text without capitals that may call something after a country."""


@lru_cache(maxsize=1)
def adjectives() -> dict[str, tuple[str, ...]]:
    """Of each country what is called after it."""
    table = tomllib.loads(FILE.read_text(encoding="utf-8"))
    return {country: tuple(each.replace("_", " ") for each in several.split()) for country, several in table.items()}


@lru_cache(maxsize=1)
def _countries() -> dict[str, tuple[str, ...]]:
    """Of each adjective in small letters the countries, in small letters."""
    found: dict[str, tuple[str, ...]] = {}
    for country, several in adjectives().items():
        for each in several:
            found[each.lower()] = (*found.get(each.lower(), ()), country.lower())
    return found


@lru_cache(maxsize=1)
def _pattern() -> re.Pattern[str]:
    """An adjective before a noun; a capital's may be missing in a text without any."""
    some = "|".join(sorted(map(re.escape, _countries()), key=len, reverse=True))
    return re.compile(rf"(?i)(?<!\w)({some})(?= (?-i:[a-z]))(?! (?:{TONGUE})\b)")


def called(adjective: str) -> str | None:
    """The first country in the table that is called so, by the name that most use."""
    return next((country for country, several in adjectives().items() if adjective.casefold() in map(str.casefold, several)), None)


@lru_cache(maxsize=256)
def _found(text: str) -> tuple[re.Match[str], ...]:
    """Adjectives of countries that stand for them: where nothing else is named ("the French composer Ravel"), and in a text without capitals if it is short."""
    found = [each for each in _pattern().finditer(text) if each.group()[0].isupper() or (text.islower() and text.count(" ") < FEW)]
    rest = text
    for each in reversed(found):
        rest = rest[: each.start()] + rest[each.end() :]
    return () if NAMED.search(rest) else tuple(found)


def called_after(country: str, text: str) -> tuple[int, int] | None:
    """Where a text calls something after a country, and names nothing else."""
    name = country.lower().removeprefix("the ")
    return next((each.span() for each in _found(text) if name in _countries()[each.group().lower()]), None)


def countries(text: str) -> list[str]:
    """The countries, in small letters, that a text calls something after."""
    return [country for each in _found(text) for country in _countries()[each.group().lower()]]
