"""MEND (Mitchell et al. 2022, arXiv:2110.11309): a small network, trained beforehand, turns a fact's gradient into an edit."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from hybrid.architecture import Architecture
from hybrid.editors.fine_tune import Batch, target_losses
from hybrid.editors.gradients import changed_by, feed_forward_modules, token_gradients
from hybrid.editors.pretrained import load
from hybrid.editors.requests import check, passage, refuse_known
from stores.deltas import Delta, Factors
from stores.errors import Corrupt
from stores.records import Fact

if TYPE_CHECKING:
    from hybrid.model import LanguageModel

Shapes = Mapping[str, tuple[int, int]]
"""(d_in, d_out) by weight name."""


class Transform(nn.Module):
    """The editor network of all matrices of one shape (equation 3): two residual layers of low rank, with a scale and a shift for each matrix.

    It begins as the identity, on factors that are normalised to zero mean and unit variance.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, inputs: int, outputs: int, matrices: int, rank: int, step: float, generator: torch.Generator):
        super().__init__()
        size, self.inputs = inputs + outputs, inputs
        self.up = nn.Parameter(torch.zeros(2, size, rank))
        self.down = nn.Parameter(torch.randn(2, rank, size, generator=generator) * (2 / (rank + size)) ** 0.5)
        self.bias = nn.Parameter(torch.zeros(size))
        self.scale = nn.Parameter(torch.ones(2, matrices, 1, size))
        self.shift = nn.Parameter(torch.zeros(2, matrices, 1, size))
        self.log_rate = nn.Parameter(torch.full((matrices, 1, 1), step).log())
        self.register_buffer("mean", torch.zeros(matrices, 1, size))
        self.register_buffer("spread", torch.ones(matrices, 1, size))

    def forward(self, u: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
        """Pseudo-factors of n tokens: (matrices, n, d_in) and (matrices, n, d_out), the second times minus the matrix's learning rate."""
        z = (torch.cat([u, delta], -1) - self.mean) / self.spread
        for number in range(2):
            inner = z @ self.down[number].T @ self.up[number].T
            if number == 0:
                inner = inner + self.bias
            # clamp and not relu: its gradient at zero is one, and zero is where training begins
            z = z + (self.scale[number] * inner + self.shift[number]).clamp(min=0)
        return z[..., : self.inputs], -self.log_rate.exp() * z[..., self.inputs :]


class Hypernetwork(nn.Module):
    """A transform for each shape among the edited matrices."""

    def __init__(self, shapes: Shapes, rank: int, step: float = 1e-4, seed: int = 0):
        super().__init__()
        self.groups: dict[str, list[str]] = {}
        for name, (inputs, outputs) in shapes.items():
            self.groups.setdefault(f"{inputs}x{outputs}", []).append(name)
        generator = torch.Generator().manual_seed(seed)
        self.transforms = nn.ModuleDict(
            {key: Transform(*shapes[names[0]], len(names), min(rank, sum(shapes[names[0]])), step, generator) for key, names in self.groups.items()}
        )

    def forward(self, factors: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, tuple[Tensor, Tensor]]:
        """Each matrix's change from each row's factors.

        Args:
            factors: u (rows, length, d_in) and delta (rows, length, d_out); tokens without any gradient are left out.
        Returns:
            right (rows, length, d_in) and left (rows, length, d_out): row r changes the matrix by left[r]^T right[r].
        """
        found: dict[str, tuple[Tensor, Tensor]] = {}
        for key, names in self.groups.items():
            u, delta = (torch.stack([factors[name][side] for name in names]) for side in (0, 1))
            rows = u.shape[1:3]
            transform: Any = self.transforms[key]
            right, left = transform(u.flatten(1, 2), delta.flatten(1, 2))
            some = (delta != 0).any(-1, keepdim=True)
            for name, r, s, there in zip(names, right, left, some, strict=True):
                found[name] = r.unflatten(0, rows) * there, s.unflatten(0, rows) * there
        return {name: found[name] for name in factors}

    @torch.no_grad()
    def normalise(self, samples: Sequence[Mapping[str, tuple[Tensor, Tensor]]]) -> None:
        """Take means and standard deviations from factors of training edits."""
        for key, names in self.groups.items():
            for at, name in enumerate(names):
                z = torch.cat([torch.cat(sample[name], -1)[(sample[name][1] != 0).any(-1)] for sample in samples])
                transform: Any = self.transforms[key]
                transform.mean[at, 0], transform.spread[at, 0] = z.mean(0), z.std(0) + 1e-7


@dataclass(frozen=True, kw_only=True)
class Mend:
    """MEND with a hypernetwork that `hybrid train mend` made for this very model. Made for single edits: the changes of several requests add up."""

    weights: str | None = None
    """Folder of the hypernetwork; where `hybrid train mend` puts it unless told otherwise, or what ships, if None."""
    batch_size: int = 32
    """Requests whose gradients are computed together; no change of the result."""

    method = "mend"

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {self.batch_size}")

    def edit(self, model: LanguageModel, requests: Sequence[Fact]) -> Delta:
        """One backward pass, and the network.

        Raises:
            BadRequest: if a request cannot be carried out.
            NotFound: if no hypernetwork has been trained.
            Conflict: if it was trained for other weights.
        """
        started = time.perf_counter()
        check(requests)
        network, about = load_network(model, self.weights)
        arch = Architecture(model.model)
        modules = feed_forward_modules(arch, about["layers"])
        refuse_known(model, enumerate(requests, start=1))
        passages = [passage(model.tokenizer, r.prompt, r.subject, r.target_new) for r in requests]
        parts: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in modules}
        for start in range(0, len(passages), self.batch_size):
            factors, _ = token_gradients(arch, modules, Batch.of(passages[start : start + self.batch_size], arch.device))
            with torch.no_grad():
                for name, (right, left) in network(factors).items():
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


def shapes_of(modules: Mapping[str, nn.Module]) -> dict[str, tuple[int, int]]:
    """(d_in, d_out) of linear modules."""
    from hybrid.architecture import oriented

    return {name: (oriented(module).shape[1], oriented(module).shape[0]) for name, module in modules.items()}


def load_network(model: LanguageModel, given: str | None) -> tuple[Hypernetwork, dict[str, Any]]:
    """The hypernetwork of a model, on its device, and what its manifest says.

    Raises:
        NotFound, Conflict, Corrupt: see `hybrid.editors.pretrained.load`.
    """
    tensors, about = load("mend", model, given)
    arch = Architecture(model.model)
    network = Hypernetwork(shapes_of(feed_forward_modules(arch, about["layers"])), about["rank"])
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise Corrupt(f"the hypernetwork does not fit the model ({error}); train it again: hybrid train mend --facts FILE --model {model.name}") from error
    return network.to(arch.device).eval(), about


def _change(right: Tensor, left: Tensor) -> Factors | np.ndarray:
    """As factors where that is smaller."""
    if len(right) * 2 > min(right.shape[1], left.shape[1]):
        return np.ascontiguousarray((left.T @ right).cpu().numpy())
    return Factors(np.ascontiguousarray(left.T.cpu().numpy()), np.ascontiguousarray(right.T.cpu().numpy()))
