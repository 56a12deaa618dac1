"""One method on some cases: alone, together, in sequence; with what it took."""

from __future__ import annotations

import ctypes
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from cases import Board, Case, shares
from torch import Tensor
from tqdm import tqdm

from hybrid.adapters.base import adapt, attached
from hybrid.consolidation.verify import perplexity
from hybrid.editing import applied, apply, edit, revert
from hybrid.editors import ADAPTERS, adapter_class
from hybrid.editors.published import configured
from hybrid.model import LanguageModel
from stores.adapters import Adapter
from stores.deltas import Delta
from stores.errors import BadRequest
from stores.records import Fact

PEAK = "MB (10^6 bytes): the process's highest resident memory (VmHWM of /proc) while edits are made, less that of the loaded model"


class Method:
    """One editing method with its settings, and the cost of its edits so far."""

    def __init__(self, model: LanguageModel, name: str, settings: dict[str, Any]):
        self.model, self.name, self.settings = model, name, settings
        self.seconds, self.edits, self.peak = 0.0, 0, 0
        reset()
        self.loaded = resident()

    def make(self, facts: Sequence[Fact], onto: Adapter | None = None) -> Delta | Adapter:
        """An edit; its time is this process's on the processor, so that other processes do not count."""
        reset()
        started = time.process_time()
        if self.name in ADAPTERS:
            made: Delta | Adapter = adapt(self.model, facts, self.name, onto=onto, **self.settings)
        else:
            made = edit(self.model, facts, self.name, **self.settings)
        self.seconds, self.edits = self.seconds + time.process_time() - started, self.edits + len(facts)
        self.peak = max(self.peak, resident("VmHWM") - self.loaded)
        return made

    def on(self, made: Delta | Adapter) -> AbstractContextManager[None]:
        """The model with an edit."""
        return attached(self.model, made) if isinstance(made, Adapter) else applied(self.model, made)

    @property
    def costs(self) -> dict[str, Any]:
        """For the row."""
        return {"seconds a fact": round(self.seconds / self.edits, 4), "peak MB": round(self.peak / 1e6, 1)}


Ask = Callable[[Sequence[Case]], None]
"""Asks cases of the model as it is, and keeps what it said."""


def one_by_one(method: Method, cases: Sequence[Case], ask: Ask) -> dict[str, Any]:
    """Each case alone, on the unedited model."""
    about: dict[str, Any] = {}
    for case in tqdm(cases, desc=method.name, unit="edit", disable=None):
        made = method.make([case.fact])
        about = described([made])
        with method.on(made):
            ask([case])
    return about


def together(method: Method, cases: Sequence[Case], ask: Ask) -> dict[str, Any]:
    """All cases in one edit."""
    made = method.make([case.fact for case in cases])
    with method.on(made):
        ask(cases)
    return described([made])


def in_sequence(method: Method, cases: Sequence[Case], ask: Ask) -> dict[str, Any]:
    """Each case on what the edits before left; asked after the last. What those made the model say already is left out, and counted."""
    known, adapter = 0, None
    about: dict[str, Any] = {}
    with given_back(method.model) as apply_on:
        for case in tqdm(cases, desc=method.name, unit="edit", disable=None):
            try:
                made = method.make([case.fact], adapter)
            except BadRequest:
                known += 1
                continue
            about = described([made])
            if isinstance(made, Adapter):
                adapter = made
            else:
                apply_on(made)
        if adapter is not None:
            with method.on(adapter):
                ask(cases)
        else:
            ask(cases)
    return about | ({"said already": known} if known else {})


Course = Callable[[Method, Sequence[Case], Ask], dict[str, Any]]


def measured(board: Board, name: str, settings: dict[str, Any], course: Course, texts: Sequence[str] = (), calm: float | None = None) -> dict[str, Any]:
    """What a method came to: shares by kind of query, the relative change of perplexity on texts about other things, costs.

    Args:
        calm: the unedited model's perplexity on the texts; of several edits that are asked about, the mean change is given.
    """
    method = Method(board.model, name, settings)
    found: dict[str, list[bool]] = {}
    drifts: list[float] = []

    def ask(some: Sequence[Case]) -> None:
        for kind, rights in board.count(some).items():
            found.setdefault(kind, []).extend(rights)
        if calm is not None:
            drifts.append(perplexity(board.model, texts) / calm - 1)

    about = course(method, board.cases, ask)
    return shares(found) | ({"perplexity drift": round(sum(drifts) / len(drifts), 5)} if drifts else {}) | method.costs | about


def configuration(model: LanguageModel, name: str, given: dict[str, Any]) -> dict[str, Any]:
    """A method's settings for a model, as JSON gives them back; without what does not bear on the result."""
    made = configured(adapter_class(name), name, model, given)
    used: dict[str, Any] = {field.name: getattr(made, field.name) for field in fields(made) if field.name not in ("cache", "batch_size", "weights", "text")}
    plain: dict[str, Any] = json.loads(json.dumps(used))
    return plain


def described(made: Sequence[Delta | Adapter]) -> dict[str, Any]:
    """What a reader would want to know of a result besides."""
    last = made[-1]
    if isinstance(last, Adapter):
        return {"bytes a fact": sum(array.nbytes for array in last.tensors.values()) // len(last.edits)}
    network = last.extra.get("hypernetwork")
    return {"network": network[:12], "trained steps": last.extra["trained_steps"]} if network else {}


@contextmanager
def given_back(model: LanguageModel) -> Iterator[Callable[[Delta], None]]:
    """A way to add deltas to the model; it is as it was afterwards."""
    originals: dict[str, Tensor] = {}

    def add(delta: Delta) -> None:
        for parameter, tensor in apply(model, delta).items():
            originals.setdefault(parameter, tensor)

    try:
        yield add
    finally:
        revert(model, originals)


def resident(kind: str = "VmRSS") -> int:
    """Bytes of this process in memory, now or ("VmHWM") at most since the last `reset`."""
    line = next(line for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines() if line.startswith(f"{kind}:"))
    return 1024 * int(line.split()[1])


def reset() -> None:
    """Give what is free back to the system, and begin the high-water mark anew."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
