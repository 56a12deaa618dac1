"""What the methods share that add parameters: settings, lessons, and the door by which they are made and attached."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hybrid.architecture import Architecture, captured, frozen
from hybrid.editors import ADAPTERS, adapter_class
from hybrid.editors.fine_tune import Batch
from hybrid.editors.published import configured
from hybrid.editors.requests import Passage, check, contexts, passage, refuse_known
from stores.adapters import Adapter
from stores.errors import Conflict, HybridError, NotFound
from stores.records import Fact

if TYPE_CHECKING:
    from hybrid.model import LanguageModel


class Lesson(NamedTuple):
    """One wording of a request, with its target."""

    request: int
    """Number of the request."""
    label: str
    passage: Passage

    @property
    def end(self) -> int:
        """Position of the prompt's last token."""
        return self.passage.target - 1


class Fitted(NamedTuple):
    """What a method learnt, and each lesson's loss."""

    tensors: Mapping[str, Tensor]
    extra: Mapping[str, Any]
    losses: Sequence[float]


@dataclass(frozen=True, kw_only=True)
class AdapterMethod(ABC):
    """Settings that all of them have, and the course of a run."""

    layer: int = -1
    """The block; the method's default if -1."""
    steps: int = 100
    """Adam steps at most."""
    lr: float = 0.1
    stop: float = 0.05
    """Loss of the target under which a lesson is learnt."""
    questions: int = 0
    """Lessons made of the request's own questions, beside its prompt; the papers have none."""
    wordings: int = 0
    """Lessons made of the lexicon's other statements of the request's relation; the papers have none."""
    batch_size: int = 32
    """Lessons that are learnt at once, where a step runs the model; they do not bear on each other."""

    method = "?"

    def __post_init__(self) -> None:
        whole = min(self.steps, self.batch_size) >= 1 and min(self.questions, self.wordings) >= 0 and self.layer >= -1
        if not whole or not (math.isfinite(self.lr) and self.lr > 0) or not self.stop >= 0:
            raise ValueError(f"steps and batch_size must be at least 1, lr positive, stop, questions and wordings not negative, layer a block or -1: {self}")

    @abstractmethod
    def default_layer(self, blocks: int) -> int:
        """The block when none is given."""

    @abstractmethod
    def fit(self, model: LanguageModel, arch: Architecture, layer: int, requests: Sequence[Fact], lessons: Sequence[Lesson], onto: Adapter | None) -> Fitted:
        """Learn the lessons; weights need no gradients and must not change."""

    @staticmethod
    @abstractmethod
    def attached(arch: Architecture, adapter: Adapter) -> AbstractContextManager[None]:
        """The model with an adapter of this method while the context lasts."""

    def adapt(self, model: LanguageModel, requests: Sequence[Fact], onto: Adapter | None = None) -> Adapter:
        """Learn an adapter with which the model says the targets; the model is as it was, to the bit.

        Args:
            onto: an adapter of the same method that is gone on with; it stays as it is.
        Raises:
            BadRequest: if a request cannot be carried out.
            Conflict: if `onto` is of another method, model or layer.
            HybridError: if training diverges.
        """
        started = time.perf_counter()
        check(requests)
        arch = Architecture(model.model)
        layer = self.default_layer(len(arch)) if self.layer < 0 else self.layer
        arch.check_layers([layer])
        if onto is not None:
            hold_to(model, onto)
            if (onto.method, onto.settings["layer"]) != (self.method, layer):
                raise Conflict(f"that adapter is {onto.method} at layer {onto.settings['layer']}, and this {self.method} at layer {layer}; make a new one")
        refuse_known(model, enumerate(requests, start=1))
        lessons = [
            Lesson(number, request.target_new, passage(model.tokenizer, form, request.subject, request.target_new, prefix))
            for number, request in enumerate(requests)
            for form, prefix in dict.fromkeys(contexts(request, ("",), self.questions, self.wordings))
        ]
        with frozen(arch.model):
            fitted = self.fit(model, arch, layer, requests, lessons, onto)
        if not all(bool(torch.isfinite(tensor).all()) for tensor in fitted.tensors.values()):
            raise HybridError(f"{self.method} diverged; use a smaller --set lr=...")
        worst = [max((loss for loss, lesson in zip(fitted.losses, lessons, strict=True) if lesson.request == n), default=0.0) for n in range(len(requests))]
        edits = [
            {"subject": r.subject, "prompt": r.prompt, "target_new": r.target_new, "loss": round(loss, 4)} for r, loss in zip(requests, worst, strict=True)
        ]
        settings = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()} | {"layer": layer}
        tensors = {name: np.array(tensor.detach().cpu().numpy(), order="C", copy=True) for name, tensor in fitted.tensors.items()}
        before = onto.edits if onto is not None else ()
        return Adapter(
            method=self.method, model=model.identity, settings=settings, tensors=tensors, edits=(*before, *edits),
            seconds=time.perf_counter() - started, extra=fitted.extra,
        )  # fmt: skip


def adapt(model: LanguageModel, requests: Sequence[Fact], method: str = "grace", *, onto: Adapter | None = None, **settings: Any) -> Adapter:
    """Turn requests into an adapter; see `AdapterMethod.adapt`.

    Args:
        method: a name from `hybrid edit --list` that makes an adapter.
        settings: override the method's own.
    Raises:
        NotFound: if there is no such method.
    """
    if method not in ADAPTERS:
        raise NotFound(f"there is no adapter {method!r}; choose one of {', '.join(ADAPTERS)}")
    made: Adapter = configured(adapter_class(method), method, model, settings).adapt(model, requests, onto)
    return made


def hold_to(model: LanguageModel, adapter: Adapter) -> None:
    """Raises Conflict if an adapter was made for other weights."""
    if adapter.model.weights_hash != model.identity.weights_hash:
        raise Conflict(f"the adapter was made for {adapter.model}, and this model is {model.identity}; use it with the model it was made for")


@contextmanager
def attached(model: LanguageModel, adapter: Adapter) -> Iterator[None]:
    """The model with an adapter, while the context lasts.

    Raises:
        Conflict: if it was made for other weights.
    """
    hold_to(model, adapter)
    with adapter_class(adapter.method).attached(Architecture(model.model), adapter):
        yield


def attach(model: LanguageModel, adapter: Adapter) -> ExitStack:
    """The model with an adapter until the `close` of what is returned.

    Raises:
        Conflict: if it was made for other weights.
    """
    with ExitStack() as stack:
        stack.enter_context(attached(model, adapter))
        return stack.pop_all()


def tensor(adapter: Adapter, name: str, arch: Architecture) -> Tensor:
    """One of an adapter's tensors, where the model is, as float32 or finer."""
    made: Tensor = torch.from_numpy(adapter.tensors[name]).to(arch.device)
    return made.to(arch.precise) if made.is_floating_point() else made


@torch.no_grad()
def states(arch: Architecture, rows: Sequence[tuple[int, ...]], modules: Mapping[str, tuple[Any, bool]], batch_size: int = 32) -> list[dict[str, Tensor]]:
    """What modules get (True) or give (False) in a pass over each row, (length, d) by key."""
    found: list[dict[str, Tensor]] = []
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        longest = max(map(len, part))
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in part], device=arch.device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in part], device=arch.device)
        takes, gives = ({key: module for key, (module, inputs) in modules.items() if inputs == wanted} for wanted in (True, False))
        with captured(takes, inputs=True) as one, captured(gives) as two:
            arch.model.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
        seen = one | two
        found += [{key: seen[key][n, : len(row)].to(arch.precise) for key in seen} for n, row in enumerate(part)]
    return found


def state_losses(arch: Architecture, out: Tensor, batch: Batch) -> Tensor:
    """-mean log p of each row's target tokens, (rows,), from the final norm's outputs (rows, length, d)."""
    rows = torch.arange(len(out), device=out.device)[:, None]
    scores = arch.logits(out[rows, batch.positions[batch.at]]).log_softmax(-1)
    return -(scores.gather(-1, batch.target[..., None])[..., 0] * batch.share).sum(1)


def batches(lessons: Sequence[Lesson], size: int, arch: Architecture) -> Iterator[tuple[slice, Batch, Tensor]]:
    """Lessons in batches: which, their tokens, and where their prompts end."""
    for start in range(0, len(lessons), size):
        part = lessons[start : start + size]
        yield slice(start, start + len(part)), Batch.of([each.passage for each in part], arch.device), torch.tensor([p.end for p in part], device=arch.device)
