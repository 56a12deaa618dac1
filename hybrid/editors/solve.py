"""Closed forms, in float64: what to add to a rewrite weight so that keys get new values and old keys keep theirs.

Letters as in the papers: K keys (d_in, n), R residuals (d_out, n), C = E[k kT] (d_in, d_in) uncentred, and a
result as factors (left (d_out, n), right (d_in, n)), the change being left @ right.T.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from stores.errors import HybridError


class Covariance:
    """C with what is computed from it once: its Cholesky factor and its eigenvectors."""

    def __init__(self, matrix: Tensor):
        self.matrix = matrix.double()

    @cached_property
    def factor(self) -> Tensor:
        """Lower Cholesky factor of C.

        Raises:
            HybridError: if C is singular.
        """
        factor, failed = torch.linalg.cholesky_ex(self.matrix)
        if int(failed):
            size = len(self.matrix)
            raise HybridError(
                f"the statistics are singular (minor {int(failed)} of {size}): they come from too few tokens; repeat `hybrid stats` with more text"
            )
        lower: Tensor = factor
        return lower

    def solve(self, right: Tensor) -> Tensor:
        """C^-1 right, (d_in, n)."""
        return torch.cholesky_solve(right.double(), self.factor)

    @cached_property
    def spectrum(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues, ascending, and eigenvectors in columns."""
        values, vectors = torch.linalg.eigh(self.matrix)
        return values, vectors

    def null_space(self, threshold: float) -> Tensor:
        """Orthonormal basis (d_in, k) of the eigenvectors whose eigenvalue is below `threshold` times the largest.

        Raises:
            HybridError: if there are none, for then no edit is possible.
        """
        values, vectors = self.spectrum
        basis = vectors[:, values < threshold * values[-1]]
        if not basis.shape[1]:
            smallest = float(values[0] / values[-1])
            raise HybridError(f"no direction is free of old keys: the smallest eigenvalue is {smallest:.2g} of the largest; --set threshold above that")
        return basis


def least_squares(residual: Tensor, keys: Tensor, covariance: Covariance, weight: float) -> tuple[Tensor, Tensor]:
    """MEMIT's normal equations: R K^T (weight * C + K K^T)^-1 (Meng et al. 2023, equation 14).

    With fewer facts than dimensions through Woodbury's identity and the factor of C, else directly.

    Args:
        residual: R, target minus current value, (d_out, n).
        keys: K, (d_in, n).
        covariance: C.
        weight: how many average old keys C counts for, > 0.
    Returns:
        (left, right): (d_out, n) and (d_in, n), float64.
    Raises:
        HybridError: if the system is singular (too few samples in C).
    """
    k = keys.double()
    if k.shape[1] < k.shape[0]:
        y = covariance.solve(k) / weight
        small = torch.eye(k.shape[1], dtype=torch.float64, device=k.device) + k.T @ y
        return residual.double(), torch.linalg.solve(small, y, left=False)
    factor, failed = torch.linalg.cholesky_ex(weight * covariance.matrix + k @ k.T)
    if int(failed):
        raise HybridError("the normal equations are singular: the statistics come from too few tokens; repeat `hybrid stats` with more text")
    return residual.double(), torch.cholesky_solve(k, factor)


def null_space_least_squares(residual: Tensor, keys: Tensor, covariance: Covariance, threshold: float, ridge: float) -> tuple[Tensor, Tensor]:
    """AlphaEdit's solution R K^T P (K K^T P + ridge I)^-1, P = B B^T projecting on the null space of old keys (Fang et al. 2025).

    In the basis B it is ordinary ridge regression on B^T K, solved with whichever of facts and dimensions are fewer.

    Returns:
        (left, right) with right in the null space, float64.
    """
    basis = covariance.null_space(threshold)
    inside = basis.T @ keys.double()  # (k, n)
    if inside.shape[1] < inside.shape[0]:
        small = inside.T @ inside + ridge * torch.eye(inside.shape[1], dtype=torch.float64, device=inside.device)
        return residual.double(), basis @ torch.linalg.solve(small, inside, left=False)
    large = inside @ inside.T + ridge * torch.eye(inside.shape[0], dtype=torch.float64, device=inside.device)
    return residual.double(), basis @ torch.linalg.solve(large, inside)


def equality_constrained(residual: Tensor, keys: Tensor, covariance: Covariance) -> tuple[Tensor, Tensor]:
    """EMMET: every key gets its value exactly, old keys change least: R (K^T C^-1 K)^-1 K^T C^-1 (Gupta et al. 2024).

    Raises:
        HybridError: if two keys are the same, so that the constraints contradict each other.
    """
    y = covariance.solve(keys)
    small = keys.double().T @ y
    factor, failed = torch.linalg.cholesky_ex(small)
    if int(failed) or float(torch.diagonal(factor).min()) < 1e-7 * float(torch.diagonal(factor).max()):
        raise HybridError("two requests have the same key (the same subject in the same place); edit them apart, or use memit, which weighs them")
    return residual.double(), torch.cholesky_solve(y.T, factor).T


def rank_one(value: Tensor, current: Tensor, key: Tensor, mean_key: Tensor, covariance: Covariance) -> tuple[Tensor, Tensor]:
    """ROME: the rank-one change in the direction C^-1 k* that maps the key to the value exactly (Meng et al. 2022, equation 2).

    Args:
        value, current: v* and what the key gets now, (d_out,).
        key: the bare prompt's key, (d_in,).
        mean_key: k*, averaged over contexts, (d_in,).
    Returns:
        (left, right): (d_out, 1) and (d_in, 1), float64.
    Raises:
        HybridError: if the direction is orthogonal to the key.
    """
    direction = covariance.solve(mean_key[:, None])
    direction = direction / direction.norm()
    along = key.double() @ direction[:, 0]
    if abs(float(along)) < 1e-10 * float(key.double().norm()):
        raise HybridError("the key is orthogonal to its update direction; the statistics do not fit this model")
    return ((value.double() - current.double()) / along)[:, None], direction
