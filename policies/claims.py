"""Whether a fact decides a claim: what it makes of it must be clear, and the clearer the less the claim has of the fact's name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ClaimPolicy:
    """From which probability that a fact decides a claim at all (supports or refutes it) it does.

    Raises:
        ValueError: if one of them is no probability.
    """

    governing: float = 0.7
    """For a fact that governs the query as it stands."""
    named: float = 0.75
    """For one whose name stands in the claim."""
    partly: float = 0.8
    """For one of whose name a third of the words or more stand there."""
    alike: float = 0.85
    """For one of whose name less stands there, whose statement is about as near to the claim as `near`."""
    near: float = 0.5
    """Cosine of the two."""
    most: int = 4
    """How many facts are compared with a claim."""

    def __post_init__(self) -> None:
        if not all(0 <= each <= 1 for each in (self.governing, self.named, self.partly, self.alike, self.near)) or self.most < 1:
            raise ValueError(f"governing, named, partly, alike and near must lie between 0 and 1, most be at least 1: {self}")

    def bar(self, evidence: Mapping[str, float], similarity: float, governs: bool) -> float | None:
        """From where a fact with such evidence (`policies.scope.Evidence`) decides a claim; None if it is not even compared."""
        if governs:
            return self.governing
        if not evidence or evidence["longer"]:
            return None
        if evidence["named"] or evidence["variant"]:
            return self.named
        return self.partly if evidence["shared"] >= 1 / 3 else self.alike if similarity >= self.near else None
