"""The parametric editors as methods: all edits in one batch, one after another on the edited weights, or each alone."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from hybrid.answer import Decision
from hybrid.editing import apply, edit, revert
from hybrid.editors import EDITORS, editor_class
from hybrid.editors.requests import refuse_known
from hybrid.evaluation.methods import Loaded, Mode, plain_prompt
from hybrid.evaluation.records import Record
from hybrid.model import LanguageModel, Prompt
from hybrid.request import Request
from stores.deltas import Delta
from stores.errors import BadRequest, HybridError
from stores.records import Fact
from stores.values import ValueStore


class Weights:
    """One editor on one model. Finished deltas are kept in the folder, so that a run that goes on need not make them again."""

    same_weights = False

    def __init__(self, name: str, model: LanguageModel, folder: Path, mode: Mode, settings: dict[str, Any]):
        self.name, self.model, self.folder, self.mode, self.settings = name, model, folder, mode, settings
        self.originals: dict[str, Tensor] = {}
        self.used: dict[str, Any] = {}

    def load(self, records: Sequence[Record], loads: Sequence[Request]) -> Loaded:
        """Edit and leave the deltas applied."""
        started = time.perf_counter()
        if self.mode == "single":
            return Loaded(0)
        wanted = [*loads, *(request for record in records for request in record.requests)]
        facts = distinct(wanted)
        if self.mode == "batch":
            made, refused = self._batch(facts)
        else:
            made, refused = self._sequence(facts)
        return Loaded(made, contradicted(wanted), refused, time.perf_counter() - started)

    def _batch(self, facts: Sequence[Fact]) -> tuple[int, int]:
        if (self.folder / "batch" / "manifest.json").exists():
            delta = Delta.load(self.folder / "batch")
            self._apply(delta)
            return len(delta.edits), len(facts) - len(delta.edits)
        kept = editable(self.model, facts)
        if kept:
            delta = edit(self.model, kept, self.name, **self.settings)
            delta.save(self.folder / "batch")
            self._apply(delta)
        return len(kept), len(facts) - len(kept)

    def _sequence(self, facts: Sequence[Fact]) -> tuple[int, int]:
        refused = 0
        for number, fact in enumerate(tqdm(facts, desc=self.name, unit="edit", disable=None), start=1):
            folder = self.folder / f"{number:06d}"
            if (folder / "manifest.json").exists():
                self._apply(Delta.load(folder))
            elif (folder / "refused").exists():
                refused += 1
            else:
                try:
                    delta = edit(self.model, [fact], self.name, **self.settings)
                except BadRequest as error:
                    refused += 1
                    folder.mkdir(parents=True, exist_ok=True)
                    (folder / "refused").write_text(f"{error}\n", encoding="utf-8")
                else:
                    delta.save(folder)
                    self._apply(delta)
        return len(facts) - refused, refused

    def _apply(self, delta: Delta) -> None:
        self.used = dict(delta.settings)
        for name, tensor in apply(self.model, delta).items():
            self.originals.setdefault(name, tensor)

    @contextmanager
    def only(self, record: Record) -> Iterator[None]:
        """The record's edits on the unedited weights."""
        kept = editable(self.model, distinct(record.requests))
        try:
            if kept:
                self._apply(edit(self.model, kept, self.name, **self.settings))
            yield
        finally:
            self.close()

    def decide(self, query: str) -> Decision:
        """Weights do not decide."""
        return Decision("weights")

    def prompt(self, query: str, decision: Decision) -> Prompt:
        """The model alone."""
        return plain_prompt(self.model, query)

    def answering(self, decision: Decision) -> LanguageModel:
        """The edited model."""
        return self.model

    def put_right(self, text: str, decision: Decision) -> str:
        """As it is: weights say what they say."""
        return text

    def governed(self, record: Record, fact: int | None) -> frozenset[str]:
        """No fact fires."""
        return frozenset()

    def close(self) -> None:
        """The original weights again."""
        revert(self.model, self.originals)
        self.originals = {}


def kept_values(method: str, path: Path) -> ValueStore:
    """The store of a method's values, which several runs and methods may share.

    Raises:
        HybridError: if the method optimises none.
    """
    valued = [name for name in EDITORS if "cache" in {each.name for each in fields(editor_class(name))}]
    if method not in valued:
        raise HybridError(f"{method} has no values that could be kept; leave --values out (it is for {', '.join(valued)})")
    return ValueStore(path)


def distinct(requests: Sequence[Request]) -> list[Fact]:
    """Facts to edit, one a subject and prompt: the last, as a store would keep it."""
    found: dict[tuple[str, str], Fact] = {}
    for request in requests:
        found.pop((request.subject, request.prompt), None)
        found[request.subject, request.prompt] = request.to_fact("", "", "")
    return list(found.values())


def contradicted(requests: Sequence[Request]) -> int:
    """Requests for a subject and relation of which a later one asks for something else, as a store counts them."""
    last = {(r.subject.casefold(), r.relation.casefold()): r.target_new for r in requests}
    return sum(last[r.subject.casefold(), r.relation.casefold()] != r.target_new for r in requests)


def editable(model: LanguageModel, facts: Sequence[Fact]) -> list[Fact]:
    """Facts that the editors do not refuse."""
    kept = []
    for fact in facts:
        try:
            refuse_known(model, [(1, fact)])
        except BadRequest:
            continue
        kept.append(fact)
    return kept
