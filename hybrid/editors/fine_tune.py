"""Fine-tuning of single weights, free ("ft") or in a box around the originals ("ft-l"): the editors that others are compared with.

What an editor trains is a float32 change that is added to the weight in each forward pass, so the model itself, whatever its
precision, is never written to.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call
from tqdm import tqdm

from hybrid.architecture import Architecture, frozen
from hybrid.editors.requests import Passage, check, passage, refuse_known
from stores.deltas import Delta, Factors
from stores.errors import HybridError, NotFound
from stores.records import Fact

if TYPE_CHECKING:
    from hybrid.model import LanguageModel

Forward = Callable[..., Any]
"""Called like the model, with the change in place."""


class Batch(NamedTuple):
    """Some requests, padded on the right; each row has up to `t` target tokens."""

    ids: Tensor
    """Tokens (rows, length) without the last one, which is only predicted."""
    mask: Tensor
    """(rows, length), 1 where there is a token."""
    positions: Tensor
    """Positions (p,) whose scores are needed by any row."""
    at: Tensor
    """Indices into `positions` (rows, t) of what predicts each target token."""
    target: Tensor
    """Target tokens (rows, t)."""
    share: Tensor
    """Weights (rows, t) that make a row's mean: 1 / its number of target tokens, 0 where there is none."""

    @classmethod
    def of(cls, passages: Sequence[Passage], device: torch.device) -> Batch:
        """Lay out passages that end with their targets."""
        longest, most = max(len(p.ids) - 1 for p in passages), max(len(p.target_ids) for p in passages)
        positions = sorted({i for p in passages for i in range(p.target - 1, len(p.ids) - 1)})
        index = {position: i for i, position in enumerate(positions)}
        ids, mask = padded([p.ids[:-1] for p in passages], longest), padded([[1] * (len(p.ids) - 1) for p in passages], longest)
        at = padded([[index[i] for i in range(p.target - 1, len(p.ids) - 1)] for p in passages], most)
        target = padded([p.target_ids for p in passages], most)
        counts = torch.tensor([len(p.target_ids) for p in passages])[:, None]
        share = (torch.arange(most) < counts) / counts
        return cls(*(tensor.to(device) for tensor in (ids, mask, torch.tensor(positions), at, target, share)))


@dataclass(frozen=True, kw_only=True)
class GradientEditor(ABC):
    """Settings and the course of a run that the editors share which learn by gradient descent on the targets' loss."""

    layers: tuple[int, ...] = ()
    """Blocks that are changed, ascending; the editor's default if empty."""
    steps: int = 25
    """Passes over all requests; one Adam step a mini-batch."""
    lr: float = 5e-4
    batch_size: int = 32
    """Requests in a mini-batch; always the same ones, in the order given."""
    stop: float = 1e-2
    """Mean loss of a pass under which training ends."""
    decay: float = 0.0
    """Adam's weight decay of what is trained, which is the change: it pulls the weights back to the originals."""

    method = "?"

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1 or not (math.isfinite(self.lr) and self.lr > 0) or not min(self.stop, self.decay) >= 0:
            raise ValueError(f"steps and batch_size must be at least 1, lr positive, stop and decay not negative: {self}")

    def edit(self, model: LanguageModel, requests: Sequence[Fact]) -> Delta:
        """Train a change with which the model says the targets.

        Raises:
            BadRequest: if a request cannot be carried out.
            ValueError: if this model does not have the layers.
            HybridError: if training diverges.
        """
        started = time.perf_counter()
        check(requests)
        self.prepare()
        arch = Architecture(model.model)
        layers = self.layers or self.default_layers(len(arch))
        arch.check_layers(layers)
        refuse_known(model, enumerate(requests, start=1))
        passages = [passage(model.tokenizer, r.prompt, r.subject, r.target_new) for r in requests]
        batches = [Batch.of(passages[i : i + self.batch_size], arch.device) for i in range(0, len(passages), self.batch_size)]
        with frozen(arch.model), self.trainable(arch, layers) as trained:
            passes = self._descend(trained, batches, self.penalty(model, trained, requests))
            with torch.no_grad():
                losses = torch.cat([target_losses(trained.forward, batch) for batch in batches]).tolist()
            changes = trained.changes()
            finite = all(bool(torch.isfinite(parameter).all()) for parameter in trained.parameters)
        if not finite or not all(map(math.isfinite, losses)):
            raise HybridError(f"{self.method} diverged; use a smaller --set lr=...")
        edits = tuple(
            {"subject": r.subject, "prompt": r.prompt, "target_new": r.target_new, "loss": round(loss, 4)} for r, loss in zip(requests, losses, strict=True)
        )
        settings = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()} | {"layers": list(layers)}
        return Delta(
            method=self.method, model=model.identity, settings=settings, changes=changes, edits=edits,
            seconds=time.perf_counter() - started, extra={"passes": passes},
        )  # fmt: skip

    def prepare(self) -> None:  # noqa: B027
        """What can fail before the model is looked at."""

    @abstractmethod
    def default_layers(self, blocks: int) -> tuple[int, ...]:
        """Layers when none are given."""

    @abstractmethod
    def trainable(self, arch: Architecture, layers: Sequence[int]) -> AbstractContextManager[Trained]:
        """What to train, while the context lasts; the model is as it was afterwards."""

    def penalty(self, model: LanguageModel, trained: Trained, requests: Sequence[Fact]) -> Callable[[], Tensor] | None:
        """What a step's loss has beside the targets' loss."""
        return None

    def constrain(self, parameters: Sequence[Tensor]) -> None:  # noqa: B027
        """Called after each step, without gradients."""

    def _descend(self, trained: Trained, batches: Sequence[Batch], penalty: Callable[[], Tensor] | None, optimizer: Any = None) -> int:
        """Adam until `steps` or `stop`; returns the number of passes."""
        optimizer = optimizer or torch.optim.Adam(trained.parameters, lr=self.lr, weight_decay=self.decay)
        requests, passes = sum(len(batch.ids) for batch in batches), 0
        with tqdm(total=self.steps, desc=self.method, unit="pass", disable=None) as bar:
            for _ in range(self.steps):
                passes += 1
                total = 0.0
                for batch in batches:
                    each = target_losses(trained.forward, batch)
                    loss = each.mean() if penalty is None else each.mean() + penalty()
                    optimizer.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
                    with torch.no_grad():
                        self.constrain(trained.parameters)
                    total += float(each.detach().sum())
                bar.update()
                bar.set_postfix(loss=f"{total / requests:.3f}")
                if total / requests < self.stop or not math.isfinite(total):
                    break
        return passes


@dataclass(frozen=True)
class Trained:
    """What is being trained: the parameters, the model with them in place, and what they come to."""

    parameters: list[Tensor]
    forward: Forward
    changes: Callable[[], dict[str, Factors | np.ndarray]]


@dataclass(frozen=True, kw_only=True)
class FineTune(GradientEditor):
    """Fine-tuning of the rewrite weight of one layer (or several) with Adam (Zhu et al. 2020, arXiv:2012.00363, without their constraint).

    The defaults are those with which Meng et al. (2022) compare. The middle block is changed if no layer is given.
    """

    kl: float = 0.0
    """Weight of KL(original || now) a token of unrelated text."""
    text: str | None = None
    """File of unrelated text, a passage a line; needed if `kl` is above zero."""
    ewc: float = 0.0
    """Weight of elastic weight consolidation (Kirkpatrick et al. 2017, arXiv:1612.00796): half of it times the change squared, times the Fisher information."""
    ewc_texts: int = 64
    """Texts, sampled from the model itself, that the Fisher information is measured on."""

    method = "ft"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.kl >= 0:
            raise ValueError(f"kl must not be negative: {self.kl}")
        if not (math.isfinite(self.ewc) and self.ewc >= 0) or self.ewc_texts < 1:
            raise ValueError(f"ewc must not be negative, and ewc_texts at least 1: {self.ewc}, {self.ewc_texts}")
        if self.kl > 0 and self.text is None:
            raise ValueError("kl > 0 needs unrelated text: name a file with --set text=...")

    def prepare(self) -> None:
        """The text must be there."""
        if self.kl > 0 and not Path(self.text or "").is_file():
            raise NotFound(f"there is no text file {self.text!r}; --set text=... names the unrelated text of the KL term")

    def default_layers(self, blocks: int) -> tuple[int, ...]:
        """The middle block."""
        return (blocks // 2,)

    @contextmanager
    def trainable(self, arch: Architecture, layers: Sequence[int]) -> Iterator[Trained]:
        """A change a layer, stored as the module stores its weight."""
        yield added_to(arch, {arch.weight_name(layer): arch.rewrite(layer) for layer in layers})

    def penalty(self, model: LanguageModel, trained: Trained, requests: Sequence[Fact]) -> Callable[[], Tensor] | None:
        """The terms that hold the model: divergence on text, elastic weight consolidation."""
        from hybrid.editors.penalties import divergence, elastic, own_text, text_rows

        terms: list[Callable[[], Tensor]] = []
        if self.kl > 0:
            terms.append(divergence(model, trained.forward, text_rows(model, Path(self.text or "")), self.kl))
        if self.ewc > 0:
            terms.append(elastic(trained, own_text(model, self.ewc_texts), self.ewc))
        return (lambda: torch.stack([term() for term in terms]).sum()) if terms else None


@dataclass(frozen=True, kw_only=True)
class ConstrainedFineTune(FineTune):
    """Fine-tuning in which no weight may move further than `epsilon` (Zhu et al. 2020, arXiv:2012.00363, the L-infinity constraint)."""

    epsilon: float = 5e-4
    """Largest change of a single weight."""

    method = "ft-l"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.epsilon > 0:
            raise ValueError(f"epsilon must be positive, not {self.epsilon}")

    def constrain(self, parameters: Sequence[Tensor]) -> None:
        """Back into the box."""
        for change in parameters:
            change.clamp_(-self.epsilon, self.epsilon)


def added_to(arch: Architecture, modules: Mapping[str, Any]) -> Trained:
    """A change of zero for each module, stored as the module stores its weight, and the model with the changes added."""
    originals = {name: module.weight.detach() for name, module in modules.items()}
    added = {name: torch.zeros_like(weight, dtype=torch.float32, requires_grad=True) for name, weight in originals.items()}

    def forward(**inputs: Any) -> Any:
        now = {name: (weight + added[name]).to(weight.dtype) for name, weight in originals.items()}
        return functional_call(arch.model, now, (), inputs)

    def changes() -> dict[str, Factors | np.ndarray]:
        oriented = {name: change.detach().T if type(modules[name]).__name__ == "Conv1D" else change.detach() for name, change in added.items()}
        return {name: np.ascontiguousarray(change.cpu().numpy()) for name, change in oriented.items()}

    return Trained(list(added.values()), forward, changes)


def target_scores(forward: Forward, batch: Batch) -> Tensor:
    """log p of every token at each target position, (rows, t, vocabulary) float32."""
    scores = forward(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False, logits_to_keep=batch.positions).logits
    rows = torch.arange(len(scores), device=scores.device)[:, None]
    chosen: Tensor = scores[rows, batch.at].float().log_softmax(-1)
    return chosen


def losses_of(scores: Tensor, batch: Batch) -> Tensor:
    """-mean log p of each row's target tokens, (rows,), from what `target_scores` gives."""
    return -(scores.gather(-1, batch.target[..., None])[..., 0] * batch.share).sum(1)


def target_losses(forward: Forward, batch: Batch) -> Tensor:
    """-mean log p of each row's target tokens given what precedes them, (rows,) float32."""
    return losses_of(target_scores(forward, batch), batch)


def padded(rows: Sequence[Sequence[int]], length: int) -> Tensor:
    """(rows, length), zeros on the right."""
    return torch.tensor([[*row, *[0] * (length - len(row))] for row in rows])
