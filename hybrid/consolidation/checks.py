"""What is asked to see whether the weights hold a fact, and whether they kept everything else.

All of it is chosen by the fact's content, so the same fact is always asked the same.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import IO

from hybrid.editors.kept import agreed, rivals
from hybrid.formats import rows
from hybrid.lexicon import fill, find
from policies.consolidation import content
from stores.errors import FormatError
from stores.records import Fact

PHRASINGS, QUESTIONS, NEIGHBOURS, SHARED, ATTRIBUTES = 3, 3, 3, 8, 3
"""Queries of each kind, at most: statements and questions that a fact answers, other subjects in its prompt, and in a statement of its relation that all facts of
the relation share, other relations of its subject."""


@dataclass(frozen=True)
class Checks:
    """The queries of one fact.

    `neighbours` are about other subjects; they are put together for the whole set, and those of which the base weights are sure must keep their answers.
    `rivals` are pairs of phrasings of the subject's other relations; where the base weights answer both alike, they know
    something, and the first becomes one of the `attributes`, which must keep their answers, too.
    """

    fact: Fact
    phrasings: tuple[str, ...]
    neighbours: tuple[str, ...]
    rivals: tuple[tuple[str, str], ...]
    attributes: tuple[str, ...] = ()

    @property
    def asked(self) -> tuple[str, ...]:
        """Queries whose answer is the target, the fact's own prompt first."""
        return (self.fact.cloze, *self.phrasings)

    @property
    def before(self) -> tuple[str, ...]:
        """All that the base weights are asked."""
        return (self.fact.cloze, *self.neighbours, *(query for pair in self.rivals for query in pair))

    def knowing(self, base: Mapping[str, str]) -> Checks:
        """With the attributes that the base weights know, given their answers."""
        known = [one for one, other in self.rivals if agreed(base, one, other)]
        return replace(self, attributes=tuple(known[:ATTRIBUTES]))


def checks(fact: Fact, others: Collection[tuple[str, str]] = ()) -> Checks:
    """The queries of a fact. `others`: (subject, relation), casefolded, of facts that may change answers rightly."""
    relation = find(fact.relation)
    known = {fact.cloze}
    statements = [] if relation is None else _shuffled([fill(s, fact.subject) for s in relation.statements], fact)
    questions = [*fact.questions, *([] if relation is None else _shuffled([fill(q, fact.subject) for q in relation.questions], fact))]
    phrasings = [*_new(statements, known, PHRASINGS), *_new(questions, known, QUESTIONS)]
    around = [*(fill(fact.prompt, subject) for subject in _shuffled(_near(fact, others), fact)[:NEIGHBOURS]), *shared(fact, others)]
    pairs = [(fill(q, fact.subject), fill(s, fact.subject)) for other, q, s in rivals(fact) if (fact.subject.casefold(), other.casefold()) not in others]
    return Checks(fact, tuple(phrasings), tuple(dict.fromkeys(around)), tuple(pairs))


def shared(fact: Fact, others: Collection[tuple[str, str]] = ()) -> list[str]:
    """The neighbours of a fact that all facts of its relation have; `others` as for `checks`."""
    relation = find(fact.relation)
    return [] if relation is None else [fill(relation.statements[0], subject) for subject in _near(fact, others)[:SHARED]]


def _near(fact: Fact, others: Collection[tuple[str, str]]) -> list[str]:
    """Other subjects of the kind, every other one of the project's list, whose answers may not change."""
    relation, kinds, name = find(fact.relation), subjects(), fact.relation.casefold()
    near = kinds[relation.subject_type] if relation else [each for several in kinds.values() for each in several[:2]]
    return [s for s in near[1::2] if (s.casefold(), name) not in others and s.casefold() != fact.subject.casefold()]


def checks_of(facts: Sequence[Fact]) -> list[Checks]:
    """The queries of several facts that are consolidated together."""
    said = {(fact.subject.casefold(), fact.relation.casefold()) for fact in facts}
    return [checks(fact, said) for fact in facts]


def says(text: str, fact: Fact, *, chat: bool = False) -> bool:
    """Whether an answer is the fact's target: it begins with it as whole words; in a chat the target may stand anywhere."""
    target = r"\s+".join(map(re.escape, fact.target_new.rstrip(".").split()))
    pattern = rf"(?<!\w){target}(?!\w)"
    return bool((re.search if chat else re.match)(pattern, text.lstrip(" \"'“"), re.IGNORECASE))


@lru_cache(maxsize=1)
def subjects() -> dict[str, list[str]]:
    """The project's own neighbours by kind."""
    table: dict[str, list[str]] = tomllib.loads(Path(__file__).with_name("neighbours.toml").read_text(encoding="utf-8"))
    return table


@lru_cache(maxsize=1)
def prose() -> tuple[str, ...]:
    """The fixed text on which perplexity is measured, a passage a line."""
    return tuple(Path(__file__).with_name("prose.txt").read_text(encoding="utf-8").splitlines())


@dataclass(frozen=True)
class Probe:
    """A test that the user supplied: a query, and its answer; without one, the answer must stay the base model's."""

    query: str
    answer: str | None = None

    def holds(self, before: str, after: str) -> bool:
        """Whether the answer is as demanded."""
        return after == before if self.answer is None else self.answer.casefold() in after.casefold()


def read_probes(file: IO[str]) -> list[Probe]:
    """Probes of an open file: JSON lines (or a list, or CSV) of `query` and, if the answer is not to stay, `answer`.

    Raises:
        FormatError: naming the record.
    """
    name = getattr(file, "name", "the probes")
    found = []
    for number, row in enumerate(rows(file.read(), Path(name).suffix.lstrip(".").lower()), start=1):
        if not isinstance(row, dict) or not str(row.get("query") or "").strip():
            raise FormatError(f"record {number} of {name} is {json.dumps(row)}; a probe needs a `query`, and an `answer` unless it is to stay as it is")
        found.append(Probe(str(row["query"]).strip(), str(row["answer"]).strip() if row.get("answer") else None))
    return found


def _new(texts: Iterable[str], known: set[str], most: int) -> list[str]:
    """The first texts that are not known yet; they are then."""
    found = list(islice((text for text in dict.fromkeys(texts) if text not in known), most))
    known.update(found)
    return found


def _shuffled(texts: Iterable[str], fact: Fact) -> list[str]:
    """In an order that depends on the fact's content alone."""
    return sorted(texts, key=lambda each: hashlib.sha256(f"{content(fact)}|{each}".encode()).digest())
