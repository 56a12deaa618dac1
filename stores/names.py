"""Facts by the names of their subjects: full-text search whose cost is bounded, however many facts there are.

Ranking (BM25) visits every row that a word is in, and counts it first. Words that are in too many names ("of", "New" in a million) are therefore
left out, alone; they count together with their neighbours in the query, as "New York" does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

from sqlite_utils import Database

COMMON = 500
"""A word or phrase that is in more names than this says too little alone."""
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


def _telling(db: Database, words: list[str]) -> Iterator[str]:
    """The words that few names have, and the runs of two or three words around those that many have."""
    found = {word: _frequency(db, word) for word in dict.fromkeys(words)}
    yield from (word for word, count in found.items() if 0 < count <= COMMON)
    pairs = {(a, b) for a, b in pairwise(words) if found[a] and found[b] and max(found[a], found[b]) > COMMON}
    for at, pair in enumerate(pairwise(words)):
        if pair not in pairs:
            continue
        pairs.discard(pair)
        count = _frequency(db, " ".join(pair))
        if 0 < count <= COMMON:
            yield " ".join(pair)
        elif count and at + 2 < len(words) and 0 < _frequency(db, " ".join(words[at : at + 3])) <= COMMON:
            yield " ".join(words[at : at + 3])


def _frequency(db: Database, phrase: str) -> int:
    """How many names have a phrase; one more than `COMMON` stands for all that are more."""
    rows = db.execute("SELECT count(*) FROM (SELECT 1 FROM subject_names WHERE subject_names MATCH ? LIMIT ?)", [f'"{phrase}"', COMMON + 1])
    return int(rows.fetchone()[0])
