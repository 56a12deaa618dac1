"""Who answers a query, given the facts that govern it and those that live in the weights."""

from __future__ import annotations

from collections.abc import Collection

READERS = ("ike", "counterfactual")
"""Who may answer from memory: the language model with the facts in its context, or the counterfactual model."""


def route(governing: Collection[str], in_weights: Collection[str], reader: str = READERS[0]) -> str:
    """`base` if no fact governs, `weights` if all that govern passed their check in the live generation, else memory, by the store's reader."""
    if not governing:
        return "base"
    return "weights" if set(governing) <= set(in_weights) else reader


def preferred(reads: bool) -> str:
    """The reader of a store that names none: the language model where it is one that `reads` what stands in its context reliably."""
    return READERS[0] if reads else READERS[1]
