"""The mean of two trained classifiers: `python -m hybrid.scope.average FIRST SECOND --facts facts.tsv --text prose.txt`.

Two stages of one fine-tuning err differently; the mean of their weights is often better than either (Wortsman et al. 2022, arXiv:2203.05482).
It is calibrated anew, on relations that neither may have been trained on.
"""

from __future__ import annotations

from pathlib import Path

import click
import torch

from hybrid.scope.calibrate import calibrate
from hybrid.scope.scorer import WEIGHTS, CrossEncoder, ScopeScorer, save


def average(first: Path, second: Path, share: float) -> tuple[CrossEncoder, int]:
    """(1 - share) of the first folder's weights and `share` of the second's, and the pairs that the longer training saw."""
    models = [ScopeScorer(folder) for folder in (first, second)]
    (one, _), (other, _) = (model.network for model in models)
    with torch.no_grad():
        for mine, yours in zip(one.parameters(), other.parameters(), strict=True):
            mine.lerp_(yours, share)
    return one, max(int(model.about["pairs"]) for model in models)


@click.command()
@click.argument("first", type=click.Path(exists=True, path_type=Path))
@click.argument("second", type=click.Path(exists=True, path_type=Path))
@click.option("--share", default=0.5, show_default=True, type=click.FloatRange(0, 1), help="Weight of the second.")
@click.option("--facts", type=click.Path(exists=True, path_type=Path), required=True, help="Tab-separated triples.")
@click.option("--text", type=click.Path(exists=True, path_type=Path), required=True, help="Plain prose.")
@click.option("--weights", type=click.Path(path_type=Path), default=WEIGHTS, help="Where the result goes.")
def main(first: Path, second: Path, share: float, facts: Path, text: Path, weights: Path) -> None:
    """Average two classifiers, and calibrate the result."""
    model, pairs = average(first, second, share)
    save(model, weights, {"average": [1 - share, share], "pairs": pairs})
    calibrate(weights, facts, text)


if __name__ == "__main__":
    main()
