"""Sparse contrastive fine-tuning: a thousandth of the weights, those with the largest gradients, learns the new answer and unlearns the old one.

The choice of weights is that of SIFT (Song et al. 2024, arXiv:2312.11875), once and of each matrix the same share (the largest of all
matrices together lie, of pocket and a hundred requests, to 93% in the first block); the old answer's loss is unlikelihood, -log(1 - p)
(Welleck et al. 2020, arXiv:1908.04319).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hybrid.architecture import Architecture
from hybrid.editors.fine_tune import Batch, GradientEditor, Trained, added_to, target_losses, target_scores
from hybrid.editors.gradients import feed_forward_modules
from hybrid.editors.requests import Passage, passage
from hybrid.prompts import query_text
from stores.errors import BadRequest
from stores.records import Fact

if TYPE_CHECKING:
    from hybrid.model import LanguageModel

OLD_TOKENS = 16
"""How much of the old answer is unlearnt."""


@dataclass(frozen=True, kw_only=True)
class SparseFineTune(GradientEditor):
    """Fine-tuning of the few weights of the feed-forward matrices that matter most to the requests."""

    lr: float = 5e-3
    share: float = 1e-3
    """Share of each feed-forward matrix that may change, by the size of the gradients."""
    contrast: float = 1.0
    """Weight of the old answer's unlikelihood; the old answer is the request's `target_true`, or what the model says."""

    method = "sparse-ft"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.share <= 1 or not (math.isfinite(self.contrast) and self.contrast >= 0):
            raise ValueError(f"share must lie between 0 and 1, and contrast not be negative: {self.share}, {self.contrast}")

    def default_layers(self, blocks: int) -> tuple[int, ...]:
        """All blocks."""
        return tuple(range(blocks))

    @contextmanager
    def trainable(self, arch: Architecture, layers: Sequence[int]) -> Iterator[Trained]:
        """A change for every feed-forward matrix; which of its weights move is decided by the first gradient."""
        yield added_to(arch, feed_forward_modules(arch, layers))

    def penalty(self, model: LanguageModel, trained: Trained, requests: Sequence[Fact]) -> Callable[[], Tensor] | None:
        """The unlikelihood of the old answers of each mini-batch in turn."""
        if self.contrast == 0:
            return None
        parts = [requests[i : i + self.batch_size] for i in range(0, len(requests), self.batch_size)]
        several = [[old for old in (old_answer(model, request) for request in part) if old is not None] for part in parts]
        batches = [Batch.of(part, model.model.device) if part else None for part in several]
        turn = iter(range(1 << 62))

        def term() -> Tensor:
            batch = batches[next(turn) % len(batches)]
            if batch is None:
                return torch.zeros((), device=model.model.device)
            likely = target_scores(trained.forward, batch).gather(-1, batch.target[..., None])[..., 0]
            unlikely = -torch.log1p(-likely.exp().clamp(max=1 - 1e-6))
            return self.contrast * (unlikely * batch.share).sum(1).mean()

        return term

    def _descend(self, trained: Trained, batches: Sequence[Batch], penalty: Callable[[], Tensor] | None, optimizer: Any = None) -> int:
        """Choose the weights by the gradient over all requests, then Adam on those."""
        for batch in batches:
            loss = target_losses(trained.forward, batch).sum()
            (loss if penalty is None else loss + len(batch.ids) * penalty()).backward()  # type: ignore[no-untyped-call]
        places = largest([_gradient(parameter) for parameter in trained.parameters], self.share)
        return super()._descend(trained, batches, penalty, Chosen(trained.parameters, places, self.lr, self.decay))


class Chosen:
    """Adam on some places of dense parameters; its state is as small as they are few."""

    def __init__(self, parameters: Sequence[Tensor], places: Sequence[Tensor], lr: float, decay: float):
        self.parameters, self.places = parameters, places
        self.values = [parameter.detach().reshape(-1)[at].clone().requires_grad_() for parameter, at in zip(parameters, places, strict=True)]
        self.adam = torch.optim.Adam(self.values, lr=lr, weight_decay=decay)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Move the chosen weights."""
        for parameter, at, value in zip(self.parameters, self.places, self.values, strict=True):
            value.grad = _gradient(parameter).reshape(-1)[at]
        self.adam.step()
        for parameter, at, value in zip(self.parameters, self.places, self.values, strict=True):
            parameter.view(-1)[at] = value


def largest(gradients: Sequence[Tensor], share: float) -> list[Tensor]:
    """Flat indices, ascending, of the `share` largest entries of each tensor, at least one of each."""
    return [gradient.abs().reshape(-1).topk(max(1, round(share * gradient.numel()))).indices.sort().values for gradient in gradients]


def old_answer(model: LanguageModel, request: Fact) -> Passage | None:
    """The prompt with the old answer, whose target are the tokens in which it differs from the new one; None if there is no such answer."""
    from hybrid.model import Prompt

    said = (request.target_true or model.complete(Prompt(query_text(request.cloze)), OLD_TOKENS)).strip().rstrip(".").strip()
    if not said or "�" in said:
        return None
    try:
        old = passage(model.tokenizer, request.prompt, request.subject, said)
    except BadRequest:
        return None
    new = passage(model.tokenizer, request.prompt, request.subject, request.target_new)
    common = next((i for i, (a, b) in enumerate(zip(old.target_ids, new.target_ids, strict=False)) if a != b), min(len(old.target_ids), len(new.target_ids)))
    return replace(old, target=old.target + common) if common < len(old.target_ids) else None


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad
