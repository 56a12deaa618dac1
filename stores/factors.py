"""Low-rank factors whose product is exact: every machine, thread count and order of summation gives the same bits.

Entries are rounded to whole multiples of a power of two, so few bits that products and their sums stay whole numbers
below 2^53, which float64 adds without rounding. They fit into float32, so adapters hold them unchanged, too.
"""

from __future__ import annotations

import math

import numpy as np

from stores.deltas import Factors

MOST_BITS = 23
"""Of an entry, so that float32 holds it."""


def exact(factors: Factors) -> Factors:
    """The factors, balanced column by column and rounded; the product changes by a relative 1e-6 or so.

    Args:
        factors: left (d_out, rank), right (d_in, rank), any float type.
    Returns:
        float32 factors with the same shape, in the same order of columns.
    Raises:
        ValueError: if an entry is not finite.
    """
    left, right = np.asarray(factors.left, dtype=np.float64), np.asarray(factors.right, dtype=np.float64)
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        raise ValueError("the factors hold entries that are not finite")
    high, low = np.abs(left).max(0, initial=0.0), np.abs(right).max(0, initial=0.0)
    used = (high > 0) & (low > 0)
    shift = np.zeros(left.shape[1])
    shift[used] = np.round((np.log2(low[used]) - np.log2(high[used])) / 2)  # whole powers of two change no bit of the product
    left, right = left * np.exp2(shift), right * np.exp2(-shift)
    bits = min(MOST_BITS, (53 - math.ceil(math.log2(max(2, left.shape[1])))) // 2)
    return Factors(_rounded(left, bits), _rounded(right, bits))


def _rounded(entries: np.ndarray, bits: int) -> np.ndarray:
    """Entries as multiples of a power of two, at most 2^bits of it."""
    largest = float(np.abs(entries).max(initial=0.0))
    if not largest:
        return np.zeros_like(entries, dtype=np.float32)
    unit = 2.0 ** (math.ceil(math.log2(largest)) - bits)
    whole: np.ndarray = (np.round(entries / unit) * unit).astype(np.float32)
    return whole
