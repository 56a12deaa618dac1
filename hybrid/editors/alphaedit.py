"""AlphaEdit (Fang et al. 2025, arXiv:2410.02355): MEMIT's values, solved in the null space of old keys."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hybrid.editors.memit import BatchEditor
from hybrid.editors.solve import Covariance, null_space_least_squares


@dataclass(frozen=True, kw_only=True)
class AlphaEdit(BatchEditor):
    """AlphaEdit. The threshold is relative to the largest eigenvalue, so that it means the same for every model."""

    threshold: float = 1e-3
    """Eigenvalues of the statistics below this share of the largest count as zero."""
    ridge: float = 10.0
    """Weight of the change's own norm."""

    method = "alphaedit"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.threshold < 1 or self.ridge <= 0:
            raise ValueError(f"threshold must lie between 0 and 1 and ridge be positive: {self.threshold}, {self.ridge}")

    def solve(self, residual: Tensor, keys: Tensor, covariance: Covariance) -> tuple[Tensor, Tensor]:
        """R K^T P (K K^T P + ridge I)^-1."""
        return null_space_least_squares(residual, keys, covariance, self.threshold, self.ridge)
