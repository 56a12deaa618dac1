"""MEMIT (Meng et al. 2023, arXiv:2210.07229): many facts at once, spread over several layers by least squares."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from hybrid.architecture import Architecture
from hybrid.editors.locate_and_edit import Run
from hybrid.editors.published import default_layers
from hybrid.editors.solve import Covariance, least_squares
from hybrid.editors.values import ValueSettings
from stores.deltas import Delta
from stores.records import Fact
from stores.values import ValueStore

if TYPE_CHECKING:
    from hybrid.model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class BatchEditor(ValueSettings, ABC):
    """Settings that the editors with one value a fact and several layers share."""

    layers: tuple[int, ...] = ()
    """Rewrite layers, ascending; the residual is spread across them. Five layers that end at a third of the depth if empty."""
    prefixes: int = 5
    """Generated contexts that keys and values are averaged over, beside the bare prompt."""
    batch_size: int = 0
    """Facts whose values are optimised at once; chosen by memory if 0."""
    cache: ValueStore | None = None
    """Keeps values by content between runs."""

    method = "?"

    @abstractmethod
    def solve(self, residual: Tensor, keys: Tensor, covariance: Covariance) -> tuple[Tensor, Tensor]:
        """One layer's change as factors."""

    def edit(self, model: LanguageModel, requests: Sequence[Fact]) -> Delta:
        """Values for all requests, then one solve a layer."""
        layers = self.layers or default_layers(len(Architecture(model.model)), 5)
        run = Run(self.method, self, model, requests, layers, at="block", cache=self.cache)
        values = run.values()
        return run.delta(run.spread(values.targets, self.solve), values)


@dataclass(frozen=True, kw_only=True)
class Memit(BatchEditor):
    """MEMIT: values in the residual stream, solved layer by layer against the statistics of old keys."""

    weight: float = 15000.0
    """How many average old keys the statistics count for (the paper's lambda)."""

    method = "memit"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weight <= 0:
            raise ValueError(f"weight must be positive, not {self.weight}")

    def solve(self, residual: Tensor, keys: Tensor, covariance: Covariance) -> tuple[Tensor, Tensor]:
        """R K^T (weight C + K K^T)^-1."""
        return least_squares(residual, keys, covariance, self.weight)
