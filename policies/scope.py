"""Which stored facts govern a query: calibrated probabilities, a threshold, and what stays of several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from stores.records import Hit


@dataclass(frozen=True, kw_only=True)
class ScopePolicy:
    """How candidates become governing facts.

    A fact governs when its calibrated probability reaches `threshold`; of several, those stay whose
    probability is within `margin` of the best, at most `most`.
    """

    threshold: float = 0.5
    margin: float = 0.25
    most: int = 3
    candidates: int = 8
    """How many facts of the index are looked at."""

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1 or self.most < 1 or self.candidates < 1 or self.margin < 0:
            raise ValueError(f"threshold must lie between 0 and 1, most and candidates be at least 1, margin at least 0: {self}")

    def govern(self, hits: Sequence[Hit], moment: str, namespaces: Sequence[str] | None = None) -> list[Hit]:
        """The facts that govern, best first; facts that are not valid at the moment or belong to others never do."""
        allowed = [h for h in hits if h.fact.valid_at(moment) and (namespaces is None or h.fact.namespace in namespaces)]
        firing = sorted((h for h in allowed if h.score >= self.threshold), key=lambda h: (-h.score, h.fact.id))
        return [h for h in firing if h.score >= firing[0].score - self.margin][: self.most]


def probability(logit: float, temperature: float, bias: float) -> float:
    """The calibrated probability of a logit."""
    x = max(-60.0, min(60.0, logit / temperature + bias))
    return 1 / (1 + math.exp(-x))


def fit_temperature(logits: Sequence[float], labels: Sequence[bool], rounds: int = 200) -> tuple[float, float]:
    """Temperature and bias that minimise the log loss on held-out pairs (Platt scaling by Newton steps).

    Raises:
        ValueError: if the pairs are not of both kinds.
    """
    if len(set(labels)) < 2:
        raise ValueError("calibration needs pairs in scope and out of scope")
    a, b = 1.0, 0.0
    for _ in range(rounds):
        g_a = g_b = h_aa = h_ab = h_bb = 0.0
        for x, label in zip(logits, labels, strict=True):
            p = probability(a * x + b, 1.0, 0.0)
            error, weight = p - label, max(p * (1 - p), 1e-9)
            g_a, g_b = g_a + error * x, g_b + error
            h_aa, h_ab, h_bb = h_aa + weight * x * x, h_ab + weight * x, h_bb + weight
        h_aa, h_bb = h_aa + 1e-6, h_bb + 1e-6
        determinant = h_aa * h_bb - h_ab * h_ab
        step_a, step_b = (h_bb * g_a - h_ab * g_b) / determinant, (h_aa * g_b - h_ab * g_a) / determinant
        scale = min(1.0, 0.5 / max(abs(step_a), abs(step_b), 1e-12))
        a, b = max(1e-3, a - scale * step_a), b - scale * step_b
        if max(abs(step_a), abs(step_b)) < 1e-7:
            break
    return 1 / a, b
