"""Facts by the names of their subjects: full-text search whose cost is bounded, however many facts there are.

Ranking (BM25) visits every row that a word is in, and counts it first. Words that are in too many names ("of", "New" in a million) are therefore
left out, alone; they count together with their neighbours in the query, as "New York" does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import pairwise

from sqlite_utils import Database

COMMON = 500
"""A word or phrase that is in more names than this says too little alone."""
SMALL = frozenset("a an and at by for from in is of on or the to what which who".split())
"""These say nothing, and are in so many names that looking for them takes long; they count between two others only ("Bank of Ghent")."""
FURTHEST = 3
"""How far apart two words of a phrase may stand, so many less one small words between them."""
WORDS = 40
"""Of the query's end are looked up."""


def search(db: Database, query: str, limit: int) -> list[int]:
    """Row numbers of active facts whose subject or alias shares the rarest words, or runs of words, with the query; best first."""
    words = re.findall(r"\w+", query)[-WORDS:]
    telling = list(_telling(db, words))
    if not telling:
        return []
    match = " OR ".join(f'"{phrase}"' for phrase in telling)
    rows = db.execute("SELECT rowid FROM subject_names WHERE subject_names MATCH ? ORDER BY rank LIMIT ?", [match, limit])
    return [row[0] for row in rows]


def having(db: Database, names: Iterable[str]) -> list[int]:
    """Row numbers of active facts with all words of one of these names, in their order, in their subject or an alias; `COMMON` at most."""
    phrases = [" ".join(words) for name in names if (words := re.findall(r"\w+", name))]
    if not phrases:
        return []
    match = " OR ".join(f'"{phrase}"' for phrase in phrases)
    return [row[0] for row in db.execute("SELECT rowid FROM subject_names WHERE subject_names MATCH ? LIMIT ?", [match, COMMON])]


def _telling(db: Database, words: list[str]) -> Iterator[str]:
    """The words that few names have, and those that many have with the next ones that are not small."""
    found = {word: _frequency(db, word) for word in dict.fromkeys(words)}
    yield from (word for word, count in found.items() if 0 < count <= COMMON)
    content = [at for at, word in enumerate(words) if found[word] and word.lower() not in SMALL]
    tried = set()
    for order, (first, last) in enumerate(pairwise(content)):
        phrase = " ".join(words[first : last + 1])
        if last - first > FURTHEST or max(found[words[first]], found[words[last]]) <= COMMON or phrase in tried:
            continue
        tried.add(phrase)
        count = _frequency(db, phrase)
        if count > COMMON and order + 2 < len(content) and content[order + 2] - last <= FURTHEST:
            phrase = " ".join(words[first : content[order + 2] + 1])
            count = _frequency(db, phrase)
        if 0 < count <= COMMON:
            yield phrase


def _frequency(db: Database, phrase: str) -> int:
    """How many names have a phrase; one more than `COMMON` stands for all that are more."""
    rows = db.execute("SELECT count(*) FROM (SELECT 1 FROM subject_names WHERE subject_names MATCH ? LIMIT ?)", [f'"{phrase}"', COMMON + 1])
    return int(rows.fetchone()[0])
