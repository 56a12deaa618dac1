"""EMMET (Gupta et al. 2024, arXiv:2403.14236): ROME's equality constraint for many facts at once."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hybrid.editors.memit import BatchEditor
from hybrid.editors.solve import Covariance, equality_constrained


@dataclass(frozen=True, kw_only=True)
class Emmet(BatchEditor):
    """EMMET: every key gets its value exactly; the statistics decide in which directions."""

    method = "emmet"

    def solve(self, residual: Tensor, keys: Tensor, covariance: Covariance) -> tuple[Tensor, Tensor]:
        """R (K^T C^-1 K)^-1 K^T C^-1."""
        return equality_constrained(residual, keys, covariance)
