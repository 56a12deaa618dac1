"""Demonstrations for in-context answers: IKE's three kinds, from the neighbours of the query.

Copy repeats the new fact's own prompt, update asks it in other words, retain asks about something else and
keeps the true answer (Zheng et al. 2023, arXiv:2305.12740).
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hybrid.embedder import Embedder
from hybrid.lexicon import fill, relations
from hybrid.prompts import demonstration
from stores.records import Hit


class Example(NamedTuple):
    """A neighbour: its new statement, its own prompt, other wording, the new target, and the true one."""

    statement: str
    prompt: str
    wording: str
    target_new: str
    target_true: str


def shipped() -> list[Example]:
    """The project's own examples."""
    table = tomllib.loads(Path(__file__).with_name("demonstrations.toml").read_text(encoding="utf-8"))["examples"]
    lexicon = relations()
    return [
        Example(
            f"{fill(lexicon[key].statements[0], subject)} {new}", fill(lexicon[key].statements[0], subject),
            fill(lexicon[key].questions[0], subject), new, true,
        )
        for key, subject, true, new in table
    ]  # fmt: skip


class Demonstrator:
    """Chooses and writes demonstrations for a query."""

    def __init__(self, embedder: Embedder, count: int):
        if count < 0:
            raise ValueError(f"the number of demonstrations must not be negative: {count}")
        self.embedder, self.count = embedder, count

    @cached_property
    def _pool(self) -> tuple[list[Example], NDArray[np.float32]]:
        examples = shipped()
        return examples, self.embedder.embed([example.statement for example in examples])

    def write(self, query: str, governing: Sequence[Hit], neighbours: Sequence[Hit]) -> list[str]:
        """Demonstrations, the farthest neighbour first, each a text that precedes the new facts."""
        if self.count == 0:
            return []
        inside = {hit.fact.id for hit in governing}
        subjects = {hit.fact.subject.casefold() for hit in governing}
        own = [
            Example(hit.fact.statement, hit.fact.cloze, hit.fact.questions[0] if hit.fact.questions else hit.fact.cloze, hit.fact.target_new, "")
            for hit in neighbours
            if hit.fact.id not in inside and hit.fact.subject.casefold() not in subjects
        ]
        examples, vectors = self._pool
        order = np.argsort(-(vectors @ self.embedder.embed([query])[0]), kind="stable")
        near = [examples[i] for i in order if examples[i].statement.casefold() not in subjects]
        chosen = [*own[: self.count // 2], *near][: self.count]
        written = []
        for number, example in enumerate(chosen):
            other = near[(number + 1) % len(near)]
            kind = ("update", "retain", "copy")[number % 3]
            if kind == "retain" and other.statement != example.statement:
                written.append(demonstration(example.statement, other.wording, other.target_true))
            elif kind == "copy":
                written.append(demonstration(example.statement, example.prompt, example.target_new))
            else:
                written.append(demonstration(example.statement, example.wording, example.target_new))
        return written[::-1]
