"""What kind of thing a question asks for, by its question word: "who" for no city, "which city" for no country."""

from __future__ import annotations

import re

PLACES = {"place", "city", "country", "continent", "building"}
GROUPS = {"organization", "company", "team", "band"}
TIMES = {"date", "year"}
AMOUNTS = {"number", "amount"}
WORDS = {
    "language",
    "currency",
    "religion",
    "occupation",
    "position",
    "sport",
    "instrument",
    "genre",
    "color",
    "domain",
    "text",
    "field",
    "species",
    "chemical",
}
NOUNS = {
    "city": {"city", "place"}, "town": {"city", "place"}, "country": {"country", "place"}, "nation": {"country", "place"}, "state": {"country", "place"},
    "continent": {"continent", "place"}, "language": {"language"}, "currency": {"currency"}, "religion": {"religion"}, "sport": {"sport"},
    "instrument": {"instrument"}, "year": TIMES, "date": TIMES, "person": {"person"}, "man": {"person"}, "woman": {"person"},
    "company": GROUPS, "firm": GROUPS, "organization": GROUPS, "university": GROUPS, "school": GROUPS, "team": GROUPS, "club": GROUPS, "band": GROUPS,
}  # fmt: skip
"""Nouns behind "which" and "what", and the lexicon's types of things that they allow."""
ASKS = re.compile(r"(?i)^\W*(?:(?:in|on|at|from|to|of|by|for|with|under|after) )?(?P<word>who|whom|whose|when|where|what|which)\b(?:'s)? *(?P<noun>\w+)?")
NAMED = re.compile(r"(?i)^\W*what (?:is|was|are|were) the names? of the (?P<noun>\w+) (?:that|which|where|at|in|of|to|from|whose)\b")


def noun(question: str) -> str | None:
    """The noun behind "which", "what" or "what is the name of the", if it is one that tells a type."""
    named, match = NAMED.match(question), ASKS.match(question)
    found = named or (match if match is not None and match["word"].casefold() in ("which", "what") else None)
    said = (found["noun"] or "").casefold() if found is not None else ""
    return said if said in NOUNS else None


def agrees(question: str, target_type: str | None) -> bool:
    """Whether a thing of a type may be the answer; anything may if the type or the kind of question is not known."""
    match = ASKS.match(question)
    if match is None or target_type is None:
        return True
    word, told = match["word"].casefold(), noun(question)
    if word in ("who", "whom"):
        return target_type not in (PLACES - {"place"}) | TIMES | AMOUNTS | WORDS
    if word == "when":
        return target_type in TIMES
    if word == "where":
        return target_type not in TIMES | AMOUNTS | WORDS | {"person"}
    return told is None or target_type in NOUNS[told]
