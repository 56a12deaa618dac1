"""Questions for the other end of what a fact tells: "Who reports to it?", beside "it reports to".

A sentence and its reverse have the same words, which embeddings and a small classifier hardly keep apart; the order of the words does. Of the authored
sentences (`hybrid.scope.authored`) one of 24,000 queries that a fact governs is taken for its reverse, and 38 of 36,000 that ask something else are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from hybrid.lexicon import Relation, fill, relations

WH = r"(?:who|whom|what|which)"
AGENT = re.compile(rf"^(?:.*[,;:] )?{WH}(?: [\w'’-]+){{0,3}}? ((?:(?:is|was|are|were|has|had) )?[\w'’-]+(?: [\w'’-]+){{0,3}}) it$")
"""Whoever does something to it, or is something of it: "which river flows into it"."""
OBJECT = re.compile(rf"^(?:.*[,;:] )?({WH}(?: [\w'’-]+){{0,3}}) (?:does|did|do|has|had) it ([\w'’-]+)$")
"""What it does something to: "which companies does it own"."""
WHOSE = re.compile(r"^(?:.*[,;:] )?whose ((?:[\w'’-]+ ){0,2}?[\w'’-]+(?<!tion)(?<!ery)(?<!ment)(?<!ing)(?<!ure)) (?:is|was) it$")
"""Whoever has it for something: "whose mother is it", but not "whose invention"."""
ROLE = re.compile(rf"^(?:.*[,;:] )?{WH}(?: [\w'’-]+){{0,3}} (?:is|was) it (?:the |an? )?([\w'’-]+(?: [\w'’-]+){{0,2}}) (?:of|to|for)$")
"""What it is something of: "which country is it the capital of"."""
OWNERS = frozenset("person company organization team".split())
"""Kinds of values that somebody is something of."""
IRREGULAR = frozenset(
    "is was are were has had led taught wrote made built bought sold won beat drove ran sang drew began became gave took held kept fed bore sent".split()
)
MUTUAL = frozenset(
    "married wed weds border borders bordered abuts shares met meets resembles equals joins joined partnered allied twinned linked connected adjoins near beside opposite "
    "next like with between and sibling siblings brother sister cousin neighbour neighbor neighbours spouse partner colleague rival friend born belongs crosses aired".split()
)
"""Words of what holds both ways, or is loosely said of both ends ("which family belongs to it")."""
PREPOSITIONS = tuple("by on in at under with for to from as of into onto over through about against".split())
FEW = frozenset(("is", "was", "are", "were", "has", "had", "been", "be", "the", "a", "an", *PREPOSITIONS))
"""Words that do not tell what is done."""


def turned(query: str, prompt: str, relation: str | None = None) -> bool:
    """Whether a query asks which other thing stands to the subject as the fact says that the subject stands to its value.

    Args:
        query, prompt: with "it" for the subject.
        relation: the fact's, if the lexicon knows it: its statements are the fact's, too.
    """
    said = _plain(query)
    forms, known = _forms(prompt, relation), relations()[relation] if relation is not None else None
    if said in forms:
        return False
    if found := AGENT.match(said):
        acts = found.group(1).split()
        start = next((start for start in range(len(acts)) if _does(acts[start:], forms)), None)
        return start is not None and not _called((said[: found.start(1)].split() + acts[:start])[-1], forms[0], known)
    if found := OBJECT.match(said):
        noun, verb = found.group(1).split()[-1], found.group(2)
        stem = verb.rstrip("e")
        acted_on = len(stem) > 2 and _any(rf"\bit (?:is|was|are|were) (?:\w+ )?{re.escape(stem)}\w{{0,3}} by\b", forms)
        return acted_on and verb not in MUTUAL and not _called(noun, forms[0], known)
    whose = WHOSE.match(said) if known is None or known.target_type in OWNERS else None
    found = whose or ROLE.match(said)
    if found is None or MUTUAL & set(found.group(1).split()):
        return False
    name = re.escape(found.group(1))
    named = whose is not None and known is not None and found.group(1) in known.names
    return named or _any(rf"(?:^|\bthe ){name} of it(?: is| was|$)|\bit['’]s {name}(?: is| was|$)", forms)


def _called(noun: str, prompt: str, known: Relation | None) -> bool:
    """Whether this is what the fact's value is called ("which architect did it design" is loosely said for who designed it)."""
    return noun in prompt.split() or (known is not None and (noun == known.target_type or any(noun in name.split() for name in known.names)))


def _does(verb: list[str], forms: Iterable[str]) -> bool:
    """Whether the fact says that the subject itself does this to its value."""
    acts = verb[0].endswith(("s", "ed")) or verb[0] in IRREGULAR
    if not acts or "it" in verb or MUTUAL & set(verb) or set(verb) <= FEW:
        return False
    alone = "" if verb[-1] in PREPOSITIONS else rf"(?! (?:{'|'.join(PREPOSITIONS)})\b)"
    return _any(rf"\bit {re.escape(' '.join(verb))}(?=\s|$){alone}", forms)


def _any(pattern: str, forms: Iterable[str]) -> bool:
    return any(re.search(pattern, form) for form in forms)


def _plain(text: str) -> str:
    """Small letters, of marks only those within a sentence, and no article before the subject."""
    kept = " ".join(re.sub(r"[^\w\s,;:'’-]", " ", text.lower()).split()).rstrip(" ,;:")
    return re.sub(r"\bthe it\b", "it", kept)


@lru_cache(maxsize=4096)
def _forms(prompt: str, relation: str | None) -> tuple[str, ...]:
    """How a fact may be told, its own prompt first."""
    statements = () if relation is None else relations()[relation].statements
    return tuple(_plain(each) for each in (prompt, *(fill(statement, "it") for statement in statements)))
