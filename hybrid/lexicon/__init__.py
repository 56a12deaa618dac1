"""The relation lexicon: how English speaks about four hundred relations.

One table serves three rooms: cues are understood with it (`hybrid.cue`), the pocket model's corpus is
phrased with it (`hybrid.pocket.corpus`), and pairs for the scope classifier are drawn from it
(`hybrid.scope.pairs`). Each relation lists prompts (`{}` is the subject, the target follows), questions,
sentences with the target first (`[]` is the target) and oblique prompts that only imply the relation.
Phrasings under `held_out_*` are never trained on; they score what was.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

SUBJECT = "{}"
TARGET = "[]"


@dataclass(frozen=True, kw_only=True)
class Relation:
    """One relation and its phrasings; field meanings are in the module docstring."""

    id: str
    name: str
    synonyms: tuple[str, ...]
    subject_type: str
    target_type: str
    functional: bool
    inverse: str | None = None
    statements: tuple[str, ...]
    held_out_statements: tuple[str, ...] = ()
    questions: tuple[str, ...]
    held_out_questions: tuple[str, ...] = ()
    target_first: tuple[str, ...] = ()
    held_out_target_first: tuple[str, ...] = ()
    oblique: tuple[str, ...] = ()
    held_out_oblique: tuple[str, ...] = ()

    @property
    def plentiful(self) -> bool:
        """Whether there are phrasings enough to train on, and some to score with."""
        return len(self.statements) >= 12 and len(self.questions) >= 6 and len(self.held_out_statements) >= 4 and len(self.oblique) >= 5

    @property
    def phrased(self) -> bool:
        """Whether there are phrasings enough to train on; what has no held-out ones is never scored on."""
        return self.plentiful or (len(self.statements) >= 8 and len(self.questions) >= 6 and len(self.target_first) >= 3 and len(self.oblique) >= 4)

    @property
    def names(self) -> tuple[str, ...]:
        """The name and its synonyms, the name first."""
        return (self.name, *self.synonyms)


def fill(template: str, subject: str, target: str | None = None) -> str:
    """Put a subject (and a target) into a template. The values are data: braces in them stay as they are."""
    before, _, after = template.partition(SUBJECT)
    if target is not None:
        before, after = before.replace(TARGET, target, 1), after.replace(TARGET, target, 1)
    return before + subject + after


def read(path: Path) -> Iterator[Relation]:
    """Relations of one TOML file.

    Raises:
        ValueError: naming the file and the relation, if a field is missing or unknown.
    """
    for key, table in tomllib.loads(path.read_text(encoding="utf-8")).items():
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in table.items()}
        try:
            yield Relation(id=key, **fields)
        except TypeError as error:
            raise ValueError(f"{path.name}: relation {key!r}: {error}") from error


@lru_cache(maxsize=1)
def relations() -> Mapping[str, Relation]:
    """Every relation of the shipped lexicon by id, in file order."""
    found: dict[str, Relation] = {}
    for path in sorted(Path(__file__).parent.glob("*.toml")):
        for relation in read(path):
            if relation.id in found:
                raise ValueError(f"{path.name}: relation {relation.id!r} is defined twice")
            found[relation.id] = relation
    return found


@lru_cache(maxsize=1)
def plentiful() -> Mapping[str, Relation]:
    """The relations that models are trained on and scored with."""
    return {key: relation for key, relation in relations().items() if relation.plentiful}


@lru_cache(maxsize=1)
def phrased() -> Mapping[str, Relation]:
    """The relations that models are trained on: the plentiful ones, and more that are not scored with."""
    return {key: relation for key, relation in relations().items() if relation.phrased}


@lru_cache(maxsize=1)
def named() -> Mapping[str, Relation]:
    """Relations by name and synonym in lower case; a relation's own name wins over another's synonym."""
    found: dict[str, Relation] = {}
    for relation in relations().values():
        for name in relation.synonyms:
            found.setdefault(name.casefold(), relation)
    return found | {relation.name.casefold(): relation for relation in relations().values()}


@lru_cache(maxsize=1)
def _by_id() -> Mapping[str, Relation]:
    return {key.casefold(): relation for key, relation in relations().items()}


def find(name: str) -> Relation | None:
    """The relation of a name, a synonym or an id, whatever the case; None if the lexicon has none."""
    folded = name.casefold()
    return named().get(folded) or _by_id().get(folded)
