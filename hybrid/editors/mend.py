"""MEND (Mitchell et al. 2022, arXiv:2110.11309): a small network, trained beforehand, turns a fact's gradient into an edit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hybrid.editors.hypernetwork import HyperEditor, Hypernetwork, Sides

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


class GradientTransforms(Hypernetwork):
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

    def changes(self, model: LanguageModel, factors: Sides, conditions: Sequence[str]) -> dict[str, tuple[Tensor, Tensor]]:
        """Each matrix's change from each row's factors; tokens without any gradient are left out. See `Hypernetwork`."""
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
    def normalise(self, samples: Sequence[Sides]) -> None:
        """Take means and standard deviations from factors of training edits."""
        for key, names in self.groups.items():
            for at, name in enumerate(names):
                z = torch.cat([torch.cat(sample[name], -1)[(sample[name][1] != 0).any(-1)] for sample in samples])
                transform: Any = self.transforms[key]
                transform.mean[at, 0], transform.spread[at, 0] = z.mean(0), z.std(0) + 1e-7

    def objective(self, edit: Tensor, drift: Tensor, weight: float) -> Tensor:
        """Equation 5: c_e times the edit's loss, and locality's."""
        return weight * edit + drift


@dataclass(frozen=True, kw_only=True)
class Mend(HyperEditor):
    """MEND with a network that `hybrid train mend` made for this very model."""

    method = "mend"
