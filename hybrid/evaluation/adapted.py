"""The methods that add parameters: one adapter of all edits, one that goes on edit by edit, or one for each record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from hybrid.adapters.base import adapt, attach
from hybrid.evaluation.methods import Mode
from hybrid.evaluation.records import Record
from hybrid.evaluation.weights import Weights, distinct, editable
from hybrid.model import LanguageModel
from stores.adapters import Adapter
from stores.errors import BadRequest
from stores.records import Fact


class Adapted(Weights):
    """One method on one model. A finished adapter is kept in the folder, so that a run that goes on need not make it again."""

    def __init__(self, name: str, model: LanguageModel, folder: Path, mode: Mode, settings: dict[str, Any]):
        super().__init__(name, model, folder, mode, settings)
        self.attached = ExitStack()

    def _batch(self, facts: Sequence[Fact]) -> tuple[int, int]:
        kept = None if self._done() else editable(self.model, facts)
        made = self._finish(adapt(self.model, kept, self.name, **self.settings) if kept else None)
        return made, len(facts) - made

    def _sequence(self, facts: Sequence[Fact]) -> tuple[int, int]:
        adapter: Adapter | None = None
        for fact in () if self._done() else tqdm(facts, desc=self.name, unit="edit", disable=None):
            try:
                adapter = adapt(self.model, [fact], self.name, onto=adapter, **self.settings)
            except BadRequest:
                continue
        made = self._finish(adapter)
        return made, len(facts) - made

    def _done(self) -> bool:
        return (self.folder / "adapter" / "manifest.json").exists()

    def _finish(self, adapter: Adapter | None) -> int:
        """Keep what was made, or take up what an interrupted run kept; returns its edits."""
        if self._done():
            adapter = Adapter.load(self.folder / "adapter")
        elif adapter is not None:
            adapter.save(self.folder / "adapter")
        if adapter is not None:
            self._attach(adapter)
        return len(adapter.edits) if adapter is not None else 0

    def _attach(self, adapter: Adapter) -> None:
        self.used = dict(adapter.settings)
        self.attached.enter_context(attach(self.model, adapter))

    @contextmanager
    def only(self, record: Record) -> Iterator[None]:
        """The record's edits alone."""
        kept = editable(self.model, distinct(record.requests))
        try:
            if kept:
                self._attach(adapt(self.model, kept, self.name, **self.settings))
            yield
        finally:
            self.close()

    def close(self) -> None:
        """The model alone again."""
        self.attached.close()
