"""The least change of the last block's second matrix with which tokens are predicted by some margin: a support vector machine on the block's keys.

Every column (see `hybrid.editors.columns`) asks that its token score above every other by what it wants; the squared hinge of what is missing
(Crammer and Singer 2001, JMLR 2) is added to what the change costs other text by the layer's Kronecker-factored curvature (Martens and Grosse 2015,
arXiv:1503.05671; as a penalty against forgetting: Ritter et al. 2018, arXiv:1805.07810), in nats. In coordinates in which that cost is a plain square
the sum is minimised by L-BFGS (Liu and Nocedal 1989) from no change at all, so many steps, so it is a function of what goes in.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from hybrid.architecture import Architecture
from hybrid.editors.columns import Columns
from stores.errors import HybridError

MEMORY = 400_000_000
"""Bytes that the scores of some columns may take."""
NEAR, MOST = 2.0, 48
"""Rivals are heeded up to so far beyond the wanted margin, and so many of each column, until they are looked up anew."""
PAST = 20
"""Steps of which L-BFGS remembers the curvature."""
RIDGE = 0.01
"""Of its mean diagonal, added to the Fisher information."""


Near = tuple[Tensor, Tensor, Tensor, Tensor]
"""Columns (m,) that may fall short, and their rivals: pairs of a place among those columns (p,) with what the rival's row of the head has beyond the own
token's (p, d), and its bias (p,)."""


class Fit:
    """Columns with the margins that they want (n,), and how much each counts (n,).

    Args:
        moment: C = E[k kT], (d_in, d_in); fisher: F, (d_out, d_out), of other text.
        weight: for how many tokens of other text they stand.
    Raises:
        HybridError: if a matrix is singular.
    """

    def __init__(self, arch: Architecture, columns: Columns, wanted: Tensor, counts: Tensor, moment: Tensor, fisher: Tensor, weight: float):
        self.arch, self.columns, self.weight = arch, columns, weight
        kind = arch.precise
        self.wanted, self.counts = wanted.to(kind), counts.to(kind)
        self.inner = _root(moment.to(arch.device))
        fisher = fisher.double().to(arch.device)
        self.outer = _root(fisher + RIDGE * fisher.diagonal().mean() * torch.eye(len(fisher), dtype=torch.float64, device=arch.device))
        self.keys = (columns.keys.double() @ self.inner).to(kind)
        self.head, self.bias = arch.head.weight.detach(), getattr(arch.head, "bias", None)

    def solved(self, rounds: int, steps: int) -> Tensor:
        """The change (d_in, d_out), float64: `rounds` times `steps` steps; between rounds it is looked up which columns and rivals matter.

        Half as many rounds are added while a column that counts in full does not score above every other.
        """
        found = self.keys.new_zeros(self.keys.shape[1], len(self.outer))
        for number in range(rounds + rounds // 2):
            margins, near = self._near(found)
            if number >= rounds and bool((margins[self.counts >= 1] > 0).all()):
                break
            found = self._stepped(found, near, steps)
        change = self.inner @ found.double() @ self.outer.T
        if not torch.isfinite(change).all():
            raise HybridError("the change diverged; use a larger --set weight=...")
        return change

    def _near(self, found: Tensor) -> tuple[Tensor, Near]:
        """Margins of all columns (n,), and what is near to those wanted."""
        change = self.inner @ found.double() @ self.outer.T
        margins, rows, tokens = [], [], []
        for part, own, others in _scores(self.arch, self.columns, change):
            best = others.topk(min(MOST, others.shape[1]), -1)
            margins.append(own - best.values[:, 0])
            near = (best.values > (own - self.wanted[part] - NEAR)[:, None]) & (self.counts[part] > 0)[:, None]
            row, place = near.nonzero(as_tuple=True)
            rows.append(row + part.start)
            tokens.append(best.indices[row, place])
        every, rival = torch.cat(rows), torch.cat(tokens)
        used, column = torch.unique(every, return_inverse=True)
        own = self.columns.tokens[every]
        offset = self.keys.new_zeros(len(every)) if self.bias is None else (self.bias[rival] - self.bias[own]).to(self.keys.dtype)
        return torch.cat(margins), (used, column, (self.head[rival] - self.head[own]).to(self.keys.dtype), offset)

    def _short(self, moved: Tensor, near: Near) -> Tensor:
        """The sum of squared hinges of columns whose states are moved (m, d)."""
        rows, column, difference, offset = near
        normed = self.arch.normed(self.columns.states[rows] + moved).to(moved.dtype)
        short = ((normed[column] * difference).sum(1) + offset + self.wanted[rows][column]).clamp_min(0)
        return (self.counts[rows][column] * short.square()).sum()

    def _stepped(self, found: Tensor, near: Near, steps: int) -> Tensor:
        keys, outer = self.keys[near[0]], self.outer.T.to(found)
        found = found.clone().requires_grad_()
        optimizer = torch.optim.LBFGS(
            [found], max_iter=steps, max_eval=4 * steps, history_size=PAST, line_search_fn="strong_wolfe", tolerance_grad=0, tolerance_change=0
        )

        def loss() -> Tensor:
            optimizer.zero_grad()
            with torch.enable_grad():
                total = self.weight / 2 * found.square().sum() + self._short(keys @ found @ outer, near)
                (found.grad,) = torch.autograd.grad(total, found)
            return total.detach()

        optimizer.step(loss)  # type: ignore[no-untyped-call]
        return found.detach()


def margins(arch: Architecture, columns: Columns, change: Tensor | None = None) -> Tensor:
    """By how much each column's token is likelier than any other (n,), in nats, with a change (d_in, d_out) of the weight."""
    return torch.cat([own - others.max(-1).values for _, own, others in _scores(arch, columns, change)])


def _scores(arch: Architecture, columns: Columns, change: Tensor | None) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Some columns at a time: which, their own token's scores (n,), and all others' (n, vocabulary), the own one's at minus infinity."""
    room = max(1, MEMORY // (8 * arch.head.weight.shape[0]))
    for start in range(0, len(columns.tokens), room):
        part = slice(start, start + room)
        states, token = columns.states[part], columns.tokens[part, None]
        if change is not None:
            states = states + columns.keys[part] @ change.to(states)
        scores = arch.read(states)
        own = scores.gather(1, token)[:, 0]
        yield part, own, scores.scatter_(1, token, -torch.inf)


def _root(matrix: Tensor) -> Tensor:
    """R with R R^T the inverse of a matrix, float64."""
    factor, failed = torch.linalg.cholesky_ex(matrix.double())
    if int(failed):
        raise HybridError("the statistics are singular: they come from too few tokens; repeat `hybrid stats` with more text")
    unit = torch.eye(len(factor), dtype=torch.float64, device=factor.device)
    inverse: Tensor = torch.linalg.solve_triangular(factor, unit, upper=False)
    return inverse.T.contiguous()
