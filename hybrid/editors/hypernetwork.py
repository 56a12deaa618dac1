"""What the meta-learned editors share: a network, trained beforehand for one model, turns the factors of a request's gradient into an edit."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from hybrid.architecture import Architecture, oriented
from hybrid.editors.fine_tune import Batch, target_losses
from hybrid.editors.gradients import changed_by, feed_forward_modules, token_gradients
from hybrid.editors.hypernetwork_files import load
from hybrid.editors.requests import check, passage, refuse_known
from hybrid.prompts import query_text
from stores.deltas import Delta, Factors
from stores.errors import Corrupt
from stores.records import Fact

if TYPE_CHECKING:
    from hybrid.model import LanguageModel

Sides = Mapping[str, tuple[Tensor, Tensor]]
"""By weight name: u (rows, length, d_in) and delta (rows, length, d_out) of a gradient, or right and left of a change."""


class Hypernetwork(nn.Module, ABC):
    """A network that makes a change of each matrix from the factors of its gradient."""

    @abstractmethod
    def changes(self, model: LanguageModel, factors: Sides, conditions: Sequence[str]) -> dict[str, tuple[Tensor, Tensor]]:
        """Each row's changes.

        Args:
            factors: u (rows, length, d_in) and delta (rows, length, d_out) of each matrix.
            conditions: what is asked of each row, see `condition`.
        Returns:
            right (rows, tokens, d_in) and left (rows, tokens, d_out): row r changes the matrix by left[r]^T right[r].
        """

    def normalise(self, samples: Sequence[Sides]) -> None:
        """Called once, before training, with factors of training edits."""

    @abstractmethod
    def objective(self, edit: Tensor, drift: Tensor, weight: float) -> Tensor:
        """The loss from the mean loss of edits in other words, and the mean divergence of what must stay."""


@dataclass(frozen=True, kw_only=True)
class HyperEditor:
    """The course of an edit: one backward pass, and the network. Made for single edits: the changes of several requests add up."""

    weights: str | None = None
    """Folder of the network; where `hybrid train` puts it unless told otherwise, or what ships, if None."""
    batch_size: int = 32
    """Requests whose gradients are computed together; no change of the result."""

    method: ClassVar[str] = "?"

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {self.batch_size}")

    def edit(self, model: LanguageModel, requests: Sequence[Fact]) -> Delta:
        """Turn requests into a delta.

        Raises:
            BadRequest: if a request cannot be carried out.
            NotFound: if no network has been trained.
            Conflict: if it was trained for other weights.
        """
        started = time.perf_counter()
        check(requests)
        network, about = load_network(self.method, model, self.weights)
        arch = Architecture(model.model)
        modules = feed_forward_modules(arch, about["layers"])
        refuse_known(model, enumerate(requests, start=1))
        passages = [passage(model.tokenizer, r.prompt, r.subject, r.target_new) for r in requests]
        conditions = [condition(r, r.target_true or said) for r, said in zip(requests, said_now(model, requests), strict=True)]
        parts: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in modules}
        for start in range(0, len(passages), self.batch_size):
            factors, _ = token_gradients(arch, modules, Batch.of(passages[start : start + self.batch_size], arch.device))
            with torch.no_grad():
                for name, (right, left) in network.changes(model, factors, conditions[start : start + self.batch_size]).items():
                    some = (left != 0).any(-1)
                    parts[name].append((right[some], left[some]))
        whole = {name: (torch.cat([r for r, _ in several]), torch.cat([s for _, s in several])) for name, several in parts.items()}
        losses: list[float] = []
        with torch.no_grad(), changed_by(modules, {name: (r[None], s[None]) for name, (r, s) in whole.items()}):
            for start in range(0, len(passages), self.batch_size):
                losses += target_losses(model.model, Batch.of(passages[start : start + self.batch_size], arch.device)).tolist()
        edits = tuple(
            {"subject": r.subject, "prompt": r.prompt, "target_new": r.target_new, "loss": round(loss, 4)} for r, loss in zip(requests, losses, strict=True)
        )
        return Delta(
            method=self.method, model=model.identity, settings=asdict(self) | {"layers": about["layers"], "rank": about["rank"]},
            changes={name: _change(right, left) for name, (right, left) in whole.items()}, edits=edits,
            seconds=time.perf_counter() - started, extra={"hypernetwork": about["sha256"], "trained_steps": about["steps"]},
        )  # fmt: skip


def condition(request: Fact, old: str) -> str:
    """What is asked, in the form of De Cao et al.'s code."""
    return f"{old} >> {request.target_new} || {query_text(request.cloze)}"


def said_now(model: LanguageModel, requests: Sequence[Fact], tokens: int = 16) -> list[str]:
    """The model's answers to the requests' prompts."""
    from hybrid.model import Prompt

    return model.complete_all([Prompt(query_text(request.cloze)) for request in requests], tokens)


def shapes_of(modules: Mapping[str, nn.Module]) -> dict[str, tuple[int, int]]:
    """(d_in, d_out) of linear modules."""
    return {name: (oriented(module).shape[1], oriented(module).shape[0]) for name, module in modules.items()}


def build(method: str, model: LanguageModel, layers: Sequence[int], rank: int, **settings: Any) -> Hypernetwork:
    """An untrained network for a model's feed-forward matrices."""
    from hybrid.editors.ke import Conditioned
    from hybrid.editors.mend import GradientTransforms

    arch = Architecture(model.model)
    shapes = shapes_of(feed_forward_modules(arch, layers))
    if method == "mend":
        return GradientTransforms(shapes, rank, **settings).to(arch.device)
    return Conditioned(shapes, rank, model.model.get_input_embeddings().weight.shape[1], **settings).to(arch.device)


def load_network(method: str, model: LanguageModel, given: str | None) -> tuple[Hypernetwork, dict[str, Any]]:
    """The network of a model, on its device, and what its manifest says.

    Raises:
        NotFound, Conflict, Corrupt: see `hybrid.editors.hypernetwork_files.load`.
    """
    tensors, about = load(method, model, given)
    try:
        network = build(method, model, about["layers"], about["rank"])
        network.load_state_dict(tensors)
    except (RuntimeError, KeyError) as error:
        raise Corrupt(f"the network does not fit the model ({error}); train it again: hybrid train {method} --facts FILE --model {model.name}") from error
    return network.eval(), about


def _change(right: Tensor, left: Tensor) -> Factors | np.ndarray:
    """As factors where that is smaller."""
    if len(right) * 2 > min(right.shape[1], left.shape[1]):
        return np.ascontiguousarray((left.T @ right).cpu().numpy())
    return Factors(np.ascontiguousarray(left.T.cpu().numpy()), np.ascontiguousarray(right.T.cpu().numpy()))
