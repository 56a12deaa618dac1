"""The reliability plot: how often facts governed that were said to govern with some probability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from stores.errors import HybridError


def draw(bins: Sequence[Mapping[str, float]], error: float, path: Path) -> None:
    """Draw `said` against `was`, with the number of queries (DeGroot and Fienberg 1983, doi:10.2307/2987588).

    Raises:
        HybridError: if there is nothing to draw, or matplotlib is not installed.
    """
    if not bins:
        raise HybridError("no query had a candidate, so there is no reliability to draw; add facts first")
    try:
        from matplotlib.figure import Figure
    except ImportError as missing:
        raise HybridError("drawing needs matplotlib; pip install matplotlib") from missing
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=1)
    axes.scatter([b["said"] for b in bins], [b["was"] for b in bins], s=[20 + 2 * min(b["queries"], 150) for b in bins], color="#0b6fb8")
    for b in bins:
        axes.annotate(f"{b['queries']:.0f}", (b["said"], b["was"]), textcoords="offset points", xytext=(8, -10), fontsize=8)
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xlabel="probability", ylabel="share that is right", title=f"calibration error {100 * error:.1f}%")
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=130)
