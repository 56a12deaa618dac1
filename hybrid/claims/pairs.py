"""Pairs of a statement and a claim, with what the one makes of the other: written one by one (`hybrid/claims/authored/`), and drawn from the lexicon."""

from __future__ import annotations

import json
import random
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from hybrid.lexicon import Relation, fill, phrased
from hybrid.lexicon.ambiguous import ambiguous
from hybrid.pocket.names import invent

FOLDER = Path(__file__).parent / "authored"
APART = 8
"""Of so many records, one is not trained on."""
REFUTED, SUPPORTED, OPEN = range(3)
"""Labels, in the order of `hybrid.claims.verifier.Verdict`."""
VERB = re.compile(r"^(?P<verb>is|are|was|were|has|have|had|can|will)\b")
"""Of a statement that begins with its subject, the verb behind it, which can stand before it in a question."""
ENDING = re.compile(r"^(?P<rest>.+) (?P<verb>is|are|was|were)$")
"""A statement that ends with its verb, the value behind it."""


class Pair(NamedTuple):
    """A statement, a claim, and its label."""

    statement: str
    claim: str
    label: int


@dataclass(frozen=True)
class Record:
    """A sentence that counts as true, and claims beside it."""

    statement: str
    subject: str
    """What it is about, word for word as there."""
    yes: tuple[str, ...]
    no: tuple[str, ...]
    ask_yes: tuple[str, ...]
    ask_no: tuple[str, ...]
    open: tuple[str, ...]
    """Claims and questions about the same subject that the sentence does not decide."""

    @property
    def apart(self) -> bool:
        """Whether it is kept from training."""
        return zlib.crc32(self.subject.casefold().encode()) % APART == 0

    @property
    def pairs(self) -> list[Pair]:
        """The sentence beside each of its claims."""
        labelled = ((SUPPORTED, (*self.yes, *self.ask_yes)), (REFUTED, (*self.no, *self.ask_no)), (OPEN, self.open))
        return [Pair(self.statement, claim, label) for label, claims in labelled for claim in claims]


@lru_cache(maxsize=1)
def records() -> tuple[Record, ...]:
    """All that were written."""
    rows = [json.loads(line) for file in sorted(FOLDER.glob("*.jsonl")) for line in file.read_text(encoding="utf-8").splitlines()]
    return tuple(_record({key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}) for row in rows)


def _record(row: dict[str, Any]) -> Record:
    return Record(**row)


class Drawer:
    """Draws pairs for training.

    Args:
        held: relations of the lexicon that are left out.
        share: of the pairs, how many are authored.
    """

    def __init__(self, held: Sequence[str], share: float = 0.75, chosen: Sequence[Record] | None = None):
        self.share = share
        self.chosen = [each for each in records() if not each.apart] if chosen is None else list(chosen)
        self.lexicon = [each for key, each in phrased().items() if key not in held]

    def draw(self, rng: random.Random) -> Pair:
        """A pair, authored or of the lexicon."""
        return self.authored(rng) if rng.random() < self.share else self.phrased(rng)

    def authored(self, rng: random.Random) -> Pair:
        """A pair of a record, now and then turned round, about another subject, or with another name in both."""
        record, form = rng.choice(self.chosen), rng.random()
        pair = rng.choice(record.pairs)
        if form < 0.08:  # what contradicts is contradicted
            pair = Pair(rng.choice(record.no), record.statement, REFUTED)
        elif form < 0.11:
            pair = Pair(record.statement, record.statement, SUPPORTED)
        elif form < 0.13:
            pair = Pair(record.statement, rng.choice(rng.choice(self.chosen).pairs).claim, OPEN)
        other = rng.choice(self.chosen).subject
        if form > 0.92 and record.subject in pair.claim and other != record.subject:
            return Pair(pair.statement, pair.claim.replace(record.subject, other), OPEN)
        if 0.6 < form < 0.85 and record.subject in pair.claim:
            pair = Pair(pair.statement.replace(record.subject, other), pair.claim.replace(record.subject, other), pair.label)
        return pair

    def phrased(self, rng: random.Random) -> Pair:
        """A pair of two wordings of a relation, or of two relations of a subject."""
        relation = rng.choice(self.lexicon)
        subject, target = invent(relation.subject_type, rng), invent(relation.target_type, rng)
        template = rng.choice(relation.statements)
        stated = _sentence(relation, template, subject, target, rng)
        label = rng.choices((REFUTED, SUPPORTED, OPEN), (4, 4, 2))[0]
        if label == OPEN:
            others = [each for each in self.lexicon if each.subject_type == relation.subject_type and each is not relation]
            others = [each for each in others if not ambiguous(relation.id, each.id)]
            if not others or rng.random() < 0.4:  # of somebody else
                return Pair(stated, _claim(relation, invent(relation.subject_type, rng), target, rng), label)
            told = rng.choice(others)
            return Pair(stated, _claim(told, subject, target if rng.random() < 0.5 else invent(told.target_type, rng), rng), label)
        said = target if label == SUPPORTED else invent(relation.target_type, rng)
        if said != target and said.casefold() in target.casefold():
            return self.phrased(rng)
        if label == REFUTED and relation.subject_type == relation.target_type and relation.inverse != relation.id and rng.random() < 0.3:
            return Pair(stated, _claim(relation, target, subject, rng), label)  # the other way round
        if rng.random() < 0.3:  # in the very words
            return Pair(stated, f"{fill(template, subject)} {said}.", label)
        return Pair(stated, _claim(relation, subject, said, rng), label)


def _sentence(relation: Relation, template: str, subject: str, target: str, rng: random.Random) -> str:
    if relation.target_first and rng.random() < 0.2:
        return fill(rng.choice(relation.target_first), subject, target)
    return f"{fill(template, subject)} {target}"


def _claim(relation: Relation, subject: str, target: str, rng: random.Random) -> str:
    """A sentence or a question about a value."""
    if relation.target_first and rng.random() < 0.25:
        return f"{fill(rng.choice(relation.target_first), subject, target)}."
    template = rng.choice(relation.oblique if relation.oblique and rng.random() < 0.2 else relation.statements)
    asked = question(template, subject, target, rng) if rng.random() < 0.5 else None
    return asked or f"{fill(template, subject)} {target}."


def question(template: str, subject: str, target: str, rng: random.Random) -> str | None:
    """A yes/no question made of a statement's wording, if its verb can stand first."""
    before, _, after = template.partition("{}")
    if not before and (found := VERB.match(after.strip())) is not None:
        return f"{found['verb'].capitalize()} {subject} {after.strip()[found.end() :].strip()} {target}?"
    ending = ENDING.match(fill(template, subject))
    if ending is None or " is" in after.strip():
        return None
    rest = ending["rest"]
    rest = rest[:1].lower() + rest[1:] if rest.startswith("The ") else rest
    return f"{ending['verb'].capitalize()} {target} {rest}?" if rng.random() < 0.6 else f"{ending['verb'].capitalize()} {rest} {target}?"
