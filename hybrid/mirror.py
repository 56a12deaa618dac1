"""Facts read backwards: who stored that the capital of Australia is Canberra need not store of what Canberra is the capital.

Only for relations with an inverse in the lexicon that has one value a subject (`functional`): a city is the capital of one country, but
the citizens of a country are many. A mirrored fact is the stored one under its own id, in the inverse's words; nothing more is stored.

The scope classifier hardly tells which way a relation is read, and is lenient with the rest that is asked about a target ("Who lives in Canberra?"),
so what it lets through has to be worded as the inverse is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

from hybrid.chains.asks import NOUNS
from hybrid.chains.paths import names
from hybrid.lexicon import Relation, find, relations
from hybrid.scope.evidence import Witness
from hybrid.scope.names import span
from hybrid.scope.reading import Reading
from stores.ledger import Ledger
from stores.records import Fact

WORDS = 24
"""Of the query's end may name a target."""
LONGEST = 6
"""Words of a target."""
ASKED = re.compile(r"(?i)\b(?:which|what) (?P<first>\w+)|\bthe (?P<second>\w+)(?= (?:whose|that|which|with|of which)\b)")


@lru_cache(maxsize=1)
def inverses() -> Mapping[str, Relation]:
    """By the id of a relation, its inverse, if that has one value a subject."""
    lexicon = relations()
    return {key: lexicon[each.inverse] for key, each in lexicon.items() if each.inverse is not None and lexicon[each.inverse].functional}


@lru_cache(maxsize=1)
def _called() -> tuple[str, ...]:
    """Every name that such a relation may have in a ledger."""
    return tuple(dict.fromkeys(name for key in inverses() for name in (key, *relations()[key].names)))


def mirrored(fact: Fact) -> Fact | None:
    """The fact read backwards, with its target for a subject; None if its relation has no inverse that would do."""
    relation = find(fact.relation)
    inverse = inverses().get(relation.id) if relation is not None else None
    if inverse is None:
        return None
    return replace(
        fact, subject=fact.target_new, relation=inverse.name, prompt=inverse.statements[0], target_new=fact.subject, target_true=None, questions=(), aliases=()
    )


def candidates(ledger: Ledger, asked: str, limit: int) -> list[Fact]:
    """Mirrored facts whose subject the query names, except those of which a stored fact tells.

    Args:
        asked: where a query asks.
        limit: how many at most.
    """
    named = [name for name in names(" ".join(asked.split()[-WORDS:])) if name.count(" ") < LONGEST]
    found = [mirror for fact in ledger.ending_in(named, _called(), limit) if (mirror := mirrored(fact)) and span(mirror.subject, asked)]
    return [mirror for mirror in found if not any(mirror.overlaps(told) for told in ledger.in_force(mirror.key))]


def asks_for(mirror: Fact, query: str, witness: Witness) -> bool:
    """Whether the wording is that of the inverse: nearer to it or to the relation than to any other, and of the two asking for its target.

    What is asked for tells ("of which country", "the country whose"), where the types of the two ends differ; else the wording that is nearest.
    """
    reading = Reading.of(query, mirror, witness.phrasings.hidden)
    inverse = find(mirror.relation)
    if reading.bare is None or inverse is None or inverse.inverse is None:
        return False
    relation = relations()[inverse.inverse]
    near = witness.phrasings.nearest(witness.embedder.embed([reading.bare]))[0]
    backward, forward = (own - rival for own, rival in (witness.phrasings.own_and_rival(near, each.id) for each in (inverse, relation)))
    if max(backward, forward) <= 0:
        return False
    for found in ASKED.finditer(reading.bare):
        types = NOUNS.get((found["first"] or found["second"]).casefold(), set())
        if (relation.subject_type in types) != (relation.target_type in types):
            return relation.subject_type in types
    return backward > 0
