"""Attributes beyond the lexicon, in fixed frames: breadth for the scope classifier where the lexicon gives depth."""

from __future__ import annotations

import random
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from hybrid.lexicon import relations

STATEMENTS = (
    "The {a} of {s} is", "{s}'s {a} is", "The {a} for {s} is", "{s} has as {a}", "As for {s}, the {a} is", "When it comes to {s}, the {a} is",
    "For {s} we note as {a}:", "{s}, {a}:", "{s} {a}:", "The current {a} of {s} is", "We know that the {a} of {s} is", "{s} is listed with the {a}",
    "On the data sheet of {s}, the {a} is given as", "The register gives for {s} the {a}", "According to the files, the {a} of {s} is", "In the case of {s}, the {a} is",
)  # fmt: skip
QUERIES = (
    "What is the {a} of {s}?", "What is {s}'s {a}?", "What's the {a} of {s}?", "Which {a} does {s} have?", "Do you know the {a} of {s}?", "Can you tell me {s}'s {a}?",
    "Tell me the {a} of {s}", "I need the {a} for {s}", "{s} {a}", "{a} of {s}", "{a} {s}?", "the {a} of {s} is", "{s}'s {a} is", "What do we have as the {a} of {s}?",
    "Has {s} got a {a}, and which?", "Please look up the {a} of {s}.", "What would you say is the {a} of {s}?", "What {a} is on record for {s}?", "Remind me: {s}'s {a}?",
    "Which is the {a} of {s}?", "The {a} for {s} is", "How about the {a} of {s}?", "In the case of {s}, the {a} is", "Speaking of {s}, its {a} is", "Where do I find the {a} of {s}, and what is it?",
)  # fmt: skip


@dataclass(frozen=True)
class Attribute:
    """Names for one thing that may be known about subjects of some lexicon types."""

    names: tuple[str, ...]
    types: frozenset[str]


@lru_cache(maxsize=1)
def attributes() -> tuple[Attribute, ...]:
    """All that the lexicon has no name for."""
    known = {name.casefold() for relation in relations().values() for name in relation.names}
    found = []
    for group in tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")).values():
        for line in group["nouns"]:
            names = tuple(line.split(" / "))
            if not known & {name.casefold() for name in names}:
                found.append(Attribute(names, frozenset(group["types"])))
    return tuple(found)


def pick(rng: random.Random, kind: str, avoid: Sequence[str] = ()) -> Attribute:
    """An attribute that subjects of a type may have, sharing no word with the names to avoid."""
    taken = {word for name in avoid for word in name.casefold().split()}
    fitting = [a for a in attributes() if kind in a.types] or list(attributes())
    for _ in range(20):
        chosen = rng.choice(fitting)
        if not taken & {word for name in chosen.names for word in name.casefold().split()}:
            break
    return chosen


def statement(rng: random.Random, attribute: Attribute, subject: str, target: str) -> str:
    """The attribute as somebody would store it."""
    return f"{rng.choice(STATEMENTS).format(a=rng.choice(attribute.names), s=subject)} {target}"


def query(rng: random.Random, attribute: Attribute, subject: str) -> str:
    """A query for the attribute's value."""
    return rng.choice(QUERIES).format(a=rng.choice(attribute.names), s=subject)
