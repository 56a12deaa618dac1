"""Who answers a query, given the facts that govern it and those that live in the weights."""

from __future__ import annotations

from collections.abc import Collection


def route(governing: Collection[str], in_weights: Collection[str]) -> str:
    """`base` if no fact governs, `weights` if all that govern passed their check in the live generation, else memory (`ike`)."""
    if not governing:
        return "base"
    return "weights" if set(governing) <= set(in_weights) else "ike"
