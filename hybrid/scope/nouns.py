"""What a query asks for in so many words: "the mother of it", "its mother", "it mother", "what year ... it".

A query in such a frame names the relation. A fact that is about something else in name does not govern it, however alike the two sentences are.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from hybrid.chains.wording import content
from hybrid.lexicon import Relation, relations
from hybrid.lexicon.ambiguous import ambiguous
from hybrid.scope.attributes import attributes
from hybrid.scope.names import fold

FILLERS = frozenset("a an the of in on at for to by with and or is was are were its his her their name names it what which who whose that".split())
RULED_OUT = r"\b(?:not|other than|apart from|aside from|besides|except|except for|excluding|rather than|instead of|different from|leaving)"
LEAD = r"\b(?:tell me|know|knows|wonder|wondered|wondering|ask|asked|asks|remember|sure|question|quiz|please)[,:.]? "
VERB = r"(?='s\b| (?:is|was|are|were|did|does|do|has|have|had|can|could|will|would|should|may|might)\b)"
MEASURED = "many|much|long|old|tall|high|deep|big|large|heavy|fast|wide|hot|cold"
MUCH = rf"how (?:{MEASURED}|often)"
QUESTION = re.compile(rf"(?:{LEAD}(where|when|who|whom|{MUCH})|^(where{VERB}|when{VERB}|who|whom|{MUCH}))\b", re.IGNORECASE)
"""A question, or one within a sentence; "When it was built, ..." is none."""
NEVER = {
    "where": frozenset("person date color species award language currency".split()),
    "when": frozenset("person city country continent place building company organization team language color species award chemical software product work currency position".split()),
    "who": frozenset("date amount number color chemical language currency building".split()),
    "how": frozenset("person city country continent building company organization team language color species award chemical software work currency".split()),
}  # fmt: skip
"""Kinds of values that no question of a sort asks for; of the lexicon's questions, 1 in 1,000 does."""
TIME = re.compile(
    rf"(?:{LEAD}|^)(?:(?:in|on|at|from|since|during|by|until|around) )?(?:what|which) (?:exact |calendar )?(?:year|date|day|month|century|decade|time)\b"
    rf"|{LEAD}when\b|^when{VERB}",
    re.IGNORECASE,
)
"""A question for a time."""
COUNT = re.compile(rf"(?:{LEAD}|^)how (?:{MEASURED}|far)\b", re.IGNORECASE)
"""A question for a number."""
DATED = re.compile(r"\d{3,4}|\d[:./-]\d|\d+(?:st|nd|rd|th|s|h|am|pm)\b|\d ?(?:[ap]\.?m\b|BC|BCE|AD|CE|o.clock)|^[\W\d]+$", re.IGNORECASE)
"""A value that can be a time; "Pier 7" is none."""
TIMES = frozenset(
    "january february march april may june july august september october november december monday tuesday wednesday thursday friday saturday sunday mondays tuesdays wednesdays thursdays fridays saturdays sundays "
    "spring summer autumn winter fall century centuries age ages era period war eve day days night week weekend month year years decade noon midnight morning evening afternoon dawn dusk "
    "easter christmas lent ramadan today tomorrow yesterday quarter half never antiquity renaissance medieval prehistoric".split()
)
NUMBERS = frozenset(
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty "
    "seventy eighty ninety hundred hundreds thousand thousands million millions billion billions trillion dozen dozens half quarter none no nil zero a an single once "
    "twice several few many much very little".split()
)
"""Words that a time, or a number, may be given in."""
PHRASE = r"((?:[^\W\d_][\w'’-]*(?:\([a-z]+\))? ){0,4}?[^\W\d_][\w'’-]*(?:\([a-z]+\))?)"


class Noun(NamedTuple):
    """What a query asks for in so many words."""

    phrase: str
    """In lower case, without article."""
    alone: bool
    """Whether the query asks for nothing else."""
    curt: bool = False
    """Whether it is no more than the subject and this name."""


@lru_cache(maxsize=4)
def _frames(pronoun: str) -> tuple[tuple[re.Pattern[str], bool], ...]:
    """Frames, and whether a query that has one asks for nothing else, whatever the noun phrase is."""
    it, the = re.escape(pronoun), "(?:(?:the|an|a) )?"
    return tuple(
        (re.compile(frame), alone)
        for frame, alone in (
            (rf"^(?:(?:what|who|which) (?:is|was|are|were) )?{the}(?:names? of {the})?{PHRASE} (?:of|for|in) {it}(?: is| was| are| were)?$", True),
            (rf"^{the}names? of {the}{PHRASE} (?:(?:that|which|with which|by) )?{it}\b.*$", True),
            (rf"^(?:(?:what|who|which) (?:is|was|are|were) )?{it}['’]s {PHRASE}(?: is| was| are| were)?$", True),
            (rf"^(?:.* )?(?:the|an|a) {PHRASE} (?:of|for|that|which) {it}\b", False),
            (rf"^(?:.* )?{it}['’]s {PHRASE}(?: is| was| are| were)?$", False),
            (rf"^(?:.* )?(?:what|which) {PHRASE} (?:does|did|do|has|had|is|was|were|are) {the}{it}\b", False),
        )
    )


def asked(bare: str, pronoun: str) -> Noun | None:
    """The noun phrase that a query asks for; None if it has no such frame.

    Args:
        bare: the query with a pronoun for the subject.
    """
    text = " ".join(re.sub(r"[?.!,;:]+", " ", bare.lower()).split())
    for frame, alone in _frames(pronoun):
        if (found := frame.match(text)) and found.group(1).split()[0] not in FILLERS:
            return Noun(found.group(1), alone)
    bare_name = re.match(rf"^{re.escape(pronoun)} {PHRASE}(?: is| was)?$", text)
    return Noun(bare_name.group(1), False, True) if bare_name and bare_name.group(1) in _named() else None


@lru_cache(maxsize=1)
def _named() -> dict[str, frozenset[str]]:
    """Ids of the relations that have a name, and the number of a knowledge base's attribute that is none of them; other attributes beyond the lexicon have none."""
    labels = tomllib.loads(Path(__file__).with_name("labels.toml").read_text(encoding="utf-8"))
    found: dict[str, set[str]] = {name.casefold(): set() for attribute in attributes() for name in attribute.names}
    for relation in relations().values():
        for name in relation.names:
            found.setdefault(name.casefold(), set()).add(relation.id)
    for key, names in labels.items():
        ids = {key} | {each for name in names for each in found.get(name.casefold(), ())}  # a label that a relation has as a name speaks of that relation
        for name in names:
            found.setdefault(name.casefold(), set()).update(ids)
    return {name: frozenset(ids) for name, ids in found.items()}


def told_by_name(prompt: str, pronoun: str, hidden: Collection[str] = ()) -> str | None:
    """The relation of the lexicon that a fact's prompt names, if it names one and no other: "The chief executive officer of it is"."""
    noun = asked(prompt, pronoun)
    found = [each for each in _named().get(noun.phrase, ()) if each in relations() and each not in hidden] if noun is not None and noun.alone else []
    return found[0] if len(found) == 1 else None


def elsewhere(noun: Noun | None, relation: Relation | None, told: Sequence[str], hidden: Collection[str] = ()) -> int:
    """Whether a query asks by name for something else than a fact tells (1), and for that alone where the relations of both are known (2).

    A name that nobody knows proves nothing.

    Args:
        noun: what is asked for, see `asked`.
        relation: the fact's, None if the lexicon does not know it.
        told: the fact's prompt, and its relation, as they were stored; what is asked in the prompt's own words ("the affiliation of", beside "is
            affiliated with") is not elsewhere, whatever the relation is taken for.
        hidden: relations whose names are not known.
    """
    named = _named().get(noun.phrase) if noun is not None else None
    if noun is None or named is None or (named and named <= set(hidden)):
        return 0
    words = set(content(noun.phrase))
    if words and words == set(content(told[0])):
        return 0
    if relation is not None and named:
        return 0 if any(ambiguous(each, relation.id) for each in named) else 2 if noun.alone or noun.curt else 1
    return int(not words & set(content(" ".join((*told, *(relation.names if relation else ()))))))


def another_value(bare: str, target: str) -> bool:
    """Whether a question asks for a time or a number, and a value can be neither: "When was it launched?" beside the rocket."""
    said = set(re.findall(r"\w+", target.casefold()))
    if re.fullmatch(r"[IVXLCDM]+", target) or said & (TIMES | NUMBERS):
        return False
    return bool((TIME.search(bare) and not DATED.search(target)) or (COUNT.search(bare) and not re.search(r"\d", target)))


def another_kind(bare: str, relation: Relation) -> bool:
    """Whether a question asks for another kind of value than a relation has: "Where was it born?" beside its mother."""
    found = QUESTION.search(bare)
    word = "" if found is None else (found.group(1) or found.group(2)).lower().split()[0]
    return found is not None and relation.target_type in NEVER["who" if word == "whom" else word]


def excluded(target: str, query: str) -> bool:
    """Whether a query rules a value out: "which is not Oslo", "other than Oslo"."""
    return bool(re.search(rf"{RULED_OUT} (?:being )?(?:the |an? )?{re.escape(fold(target))}(?!\w)", fold(query)))
