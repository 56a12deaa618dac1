"""ROME (Meng et al. 2022, arXiv:2202.05262): one fact, one layer, one rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from hybrid.architecture import Architecture
from hybrid.editors.keys import Walk
from hybrid.editors.locate_and_edit import Run, given_back
from hybrid.editors.published import default_layers
from hybrid.editors.solve import rank_one
from hybrid.editors.values import Values, ValueSettings
from stores.deltas import Delta, Factors
from stores.records import Fact

if TYPE_CHECKING:
    from hybrid.model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class Rome(ValueSettings):
    """ROME. Several requests are edited one after the other, each on the weights that the last one left."""

    steps: int = 20
    clamp: float = 4.0
    layers: tuple[int, ...] = ()
    """The rewrite layer; a third of the depth if empty."""
    prefixes: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.layers) > 1:
            raise ValueError(f"ROME rewrites one layer, not {list(self.layers)}; memit rewrites several")

    def edit(self, model: LanguageModel, requests: Sequence[Fact]) -> Delta:
        """One rank-one change a request."""
        layers = self.layers or default_layers(len(Architecture(model.model)), 1)
        run = Run("rome", self, model, requests, layers, at="rewrite")
        (layer,) = run.layers
        arch, weight = run.arch, run.arch.weight(layer)
        covariance = run.covariance(layer)
        lefts, rights, losses, steps = [], [], [], []
        with given_back([weight]):
            for request in run.requests:
                value = run.optimise([request])
                walk = Walk(model, arch, [request], run.prefixes, self.questions, self.wordings)
                mean_key = walk.keys(layer)[0]
                key, current = walk.bare_keys(layer)[0], walk.current(layer, "rewrite")[0]
                left, right = rank_one(value.targets[0].to(arch.device), current, key, mean_key, covariance)
                with torch.no_grad():
                    weight.copy_((weight.double() + left @ right.T).to(weight.dtype))
                lefts.append(left.cpu().numpy())
                rights.append(right.cpu().numpy())
                losses.append(value.losses)
                steps.append(value.steps)
        change = Factors(np.concatenate(lefts, 1), np.concatenate(rights, 1))
        return run.delta({arch.weight_name(layer): change}, Values(torch.empty(0), torch.cat(losses), torch.cat(steps)))
