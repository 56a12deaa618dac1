"""Token rows that begin alike, run through a part of the model together.

Attention is causal: what rows have in common at their beginning cannot depend on what follows, so it is computed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from hybrid.architecture import Architecture, captured

Pairs = list[tuple[Tensor, Tensor] | None]
"""Keys and values (rows, heads, length, d) by block; None for blocks that do not run."""


@dataclass(frozen=True)
class Rows:
    """Rows of tokens, padded on the right: ids and mask (n, length), after `common` tokens that all of them begin with."""

    common: Tensor
    ids: Tensor
    mask: Tensor

    @classmethod
    def of(cls, rows: Sequence[tuple[int, ...]], common: int, device: torch.device) -> Rows:
        """Lay out rows whose first `common` tokens are the same."""
        rest = [row[common:] for row in rows]
        longest = max(map(len, rest))
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rest], device=device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rest], device=device)
        return cls(torch.tensor([rows[0][:common]], device=device), ids, mask)


def common_length(rows: Sequence[tuple[int, ...]], limit: int) -> int:
    """How many tokens all rows begin with, `limit` at most."""
    least, greatest = min(rows), max(rows)  # what these two share, all share
    differ = (i for i, (a, b) in enumerate(zip(least, greatest, strict=False)) if a != b)
    return min(next(differ, len(least)), limit)


def cache_of(pairs: Pairs, length: int, rows: int, like: Tensor) -> DynamicCache | None:
    """A transformers cache of `length` earlier positions; pairs of one row serve all `rows`."""
    if not length:
        return None
    empty = like.new_zeros(1, 1, 1, 1).expand(rows, 1, length, 1)
    return DynamicCache([(empty, empty) if pair is None else (pair[0].expand(rows, -1, -1, -1), pair[1].expand(rows, -1, -1, -1)) for pair in pairs])


def run(
    arch: Architecture,
    ids: Tensor,
    mask: Tensor,
    *,
    first: int = 0,
    last: int | None = None,
    hidden: Tensor | None = None,
    pairs: Pairs | None = None,
    keep: bool = False,
) -> tuple[Tensor, Pairs]:
    """Run blocks `first` to `last` over rows (n, length) that go on after the positions in `pairs`.

    Args:
        mask: (n, length), 1 where there is a token; what precedes is whole.
        hidden: states that enter block `first`; the embeddings' if None.
        keep: whether the keys and values of all positions are wanted.
    Returns:
        The final norm's outputs, and the pairs (empty if not wanted).
    """
    last = len(arch) - 1 if last is None else last
    known = next((pair for pair in pairs or () if pair is not None), None)
    past = 0 if known is None else known[0].shape[2]
    cache = cache_of(pairs or [], past, len(ids), arch.weight(0)) or (DynamicCache() if keep else None)
    places = past + torch.arange(ids.shape[1], device=ids.device)[None].expand(len(ids), -1)
    whole = torch.cat([mask.new_ones(len(mask), past), mask], 1)
    with arch.only(first, last, hidden):
        out = arch.model.base_model(input_ids=ids, attention_mask=whole, position_ids=places, past_key_values=cache, use_cache=cache is not None)
    kept: Pairs = []
    if keep and cache is not None:
        layers: list[Any] = list(cache.layers)
        kept = [(layers[i].keys, layers[i].values) if first <= i <= last else None for i in range(len(arch))]
    return out.last_hidden_state, kept


class Beginning:
    """The states of what a group of rows has in common, for the weights as they are; none if it is empty."""

    def __init__(self, arch: Architecture, common: Tensor, *, first: int = 0, last: int | None = None, hidden: Tensor | None = None, enter: int | None = None):
        self.pairs: Pairs | None = None
        self.entering: Tensor | None = None
        if common.shape[1]:
            watched = {} if enter is None else {"in": arch.blocks[enter]}
            with captured(watched, inputs=True) as seen:
                _, self.pairs = run(arch, common, torch.ones_like(common), first=first, last=last, hidden=hidden, keep=True)
            self.entering = seen.get("in")
