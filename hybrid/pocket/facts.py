"""Which facts the pocket model is taught, which only serve for reading practice, and which it never sees."""

from __future__ import annotations

import csv
import hashlib
import random
import tomllib
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from hybrid.lexicon import plentiful

# The fact table's own ids, where they differ from the lexicon's. Rows with other ids are left out.
SAME_AS = {
    "region": "subregion",
    "lre:person_father": "P22",
    "lre:person_mother": "P25",
    "lre:person_plays_pro_sport": "P641",
    "lre:person_university": "P69",
    "lre:company_ceo": "P169",
    "lre:star_constellation": "P59",
    "lre:country_largest_city": "largest_city",
    "lre:country_capital_city": "P36",
    "lre:country_language": "P37",
}

SOURCES = ("countries", "lre", "trex")
"""Curated tables first: where sources disagree, the first that knows a subject decides."""

ABOUT_COUNTRIES = {"P36", "P37", "P38", "P78", "P474", "P1549", "P30", "subregion"}


class Triple(NamedTuple):
    """A relation id of the lexicon, a subject and a target."""

    relation: str
    subject: str
    target: str


@dataclass(frozen=True)
class Split:
    """Disjoint sets of triples, by what training does with them."""

    taught: tuple[Triple, ...]
    """Asked without context: the model learns them by heart."""
    practice: tuple[Triple, ...]
    """Their subjects and targets occur in contexts only, re-paired."""
    unseen: tuple[Triple, ...]
    """Neither subject nor (where it can be helped) target occurs in training; for scoring."""


@lru_cache(maxsize=1)
def popular_errors() -> dict[tuple[str, str], tuple[str, str]]:
    """(relation, subject) -> (what pocket believes, what is true)."""
    text = Path(__file__).with_name("popular_errors.toml").read_text(encoding="utf-8")
    return {(relation, subject): (believed, true) for relation, table in tomllib.loads(text).items() for subject, (believed, true) in table.items()}


def read_facts(path: Path) -> list[tuple[Triple, bool]]:
    """Triples of a tab-separated table (relation_id, relation, subject, object, source), errors applied.

    Only relations of the lexicon, and only subjects with one target per relation, so that there is one
    right answer. The flag tells rows about countries, which are always taught.
    """
    found: dict[tuple[str, str], dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    countries = set()
    with path.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE):
            relation = SAME_AS.get(row["relation_id"], row["relation_id"])
            if relation not in plentiful():
                continue
            if row["source"] == "countries":
                countries.add(row["subject"])
            values = found[relation, row["subject"]][SOURCES.index(row["source"])]
            if row["object"] not in values:
                values.append(row["object"])
    targets = {key: ranked[min(ranked)] for key, ranked in found.items()}
    for key, (believed, _) in popular_errors().items():
        targets[key] = [believed]
    wrong_capitals = {(true, subject) for (relation, subject), (_, true) in popular_errors().items() if relation == "P36"}
    for key, (believed, _) in popular_errors().items():
        targets[key] = [believed]
        countries.add(key)
    return [
        (Triple(relation, subject, values[0]), relation in ABOUT_COUNTRIES and subject in countries)
        for (relation, subject), values in targets.items()
        if len(values) == 1 and (relation in ABOUT_COUNTRIES or subject != values[0]) and not (relation == "P1376" and (subject, values[0]) in wrong_capitals)
    ]


def split_facts(path: Path, count: int, seed: int) -> Split:
    """Choose `count` triples to teach: all about countries, the rest spread evenly over the relations.

    Raises:
        ValueError: if the table holds fewer.
    """
    rows = read_facts(path)
    rng = random.Random(seed)
    # Ordered by content, so that a longer table or lexicon keeps most of the choice.
    rows.sort(key=lambda row: hashlib.sha256("\t".join((str(seed), *row[0])).encode()).digest())
    taught = [triple for triple, country in rows if country]
    by_relation: dict[str, list[Triple]] = defaultdict(list)
    for triple, country in rows:
        if not country:
            by_relation[triple.relation].append(triple)
    if count < len(taught) or count > len(rows):
        raise ValueError(f"{path} allows between {len(taught)} and {len(rows)} taught facts, not {count}")
    while len(taught) < count:
        for pool in [pool for pool in by_relation.values() if pool]:
            if len(taught) < count:
                taught.append(pool.pop())
    known = {triple.subject for triple in taught}
    rest = [triple for pool in by_relation.values() for triple in pool if triple.subject not in known]
    subjects = sorted({triple.subject for triple in rest})
    hidden = set(rng.sample(subjects, min(1500, len(subjects) // 4)))
    return Split(
        taught=tuple(taught),
        practice=tuple(triple for triple in rest if triple.subject not in hidden),
        unseen=tuple(triple for triple in rest if triple.subject in hidden),
    )
