"""`hybrid train`: networks that some editors need beforehand. Heavy imports happen inside."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hybrid.commands.options import model_options, read_requests

if TYPE_CHECKING:
    from hybrid.model import LanguageModel


@click.group()
def train() -> None:
    """Train what an editor needs before it can edit a model.

    \b
    Example:
      hybrid train mend --facts known-facts.jsonl
    """


def training_options(command: Callable[..., None]) -> Callable[..., None]:
    """What both networks' training is told."""
    for option in reversed(
        [
            click.option(
                "--facts", "file", type=click.File("r", encoding="utf-8"), required=True, help="Facts that the model knows, in any format that add-facts reads."
            ),
            click.option("--format", "form", default="hybrid", show_default=True, help="Format of FILE, as for add-facts."),
            click.option("--limit", type=click.IntRange(1), help="Only the first N facts."),
            click.option(
                "--out", type=click.Path(file_okay=False, path_type=Path), help="Folder of the result.  [default: where `hybrid edit --method mend` looks]"
            ),
            click.option("--steps", type=click.IntRange(1), default=1000, show_default=True, help="Optimiser steps in all."),
            click.option("--batch-size", type=click.IntRange(1), default=16, show_default=True, help="Single edits a step."),
            click.option("--layers", help="Blocks whose feed-forward matrices are edited, such as 3,4,5.  [default: the last three]"),
            click.option("--rank", type=click.IntRange(1), default=128, show_default=True, help="Rank of the network's layers."),
            click.option("--lr", type=float, default=1e-3, show_default=True, help="Highest learning rate."),
            click.option("--first-rate", type=float, help="What the edits' own learning rates begin with; they are learnt.  [default: 1e-4; of ke 0.5]"),
            click.option("--edit-weight", type=float, default=0.1, show_default=True, help="Weight of the edits' loss beside that of what must stay."),
            click.option("--seed", type=int, default=0, show_default=True),
            click.option("--compact", is_flag=True, help="Write the network's large matrices in float16, at half the size."),
        ]
    ):
        command = option(command)
    return model_options(command)


def run(
    method: str, model: LanguageModel, file: Any, form: str, limit: int | None, out: Path | None, steps: int, layers: str | None, compact: bool,
    as_json: bool, **given: Any,
) -> None:  # fmt: skip
    """Train, and say what came of it."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("hybrid.editors").setLevel(logging.INFO)
    from hybrid.editors.hypernetwork_files import default_folder
    from hybrid.editors.meta_training import Training
    from hybrid.editors.meta_training import train as train_network

    try:
        blocks = () if layers is None else tuple(int(part) for part in layers.split(","))
    except ValueError as error:
        raise click.BadParameter(f"{layers!r}; write whole numbers, such as 3,4,5", param_hint="--layers") from error
    requests = read_requests(file, form, limit)
    folder = out or default_folder(method, model)
    try:
        about = train_network(method, model, requests, folder, steps, Training(layers=blocks, **given), compact=compact)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if as_json:
        click.echo(json.dumps({"weights": str(folder), **about}))
        return
    held_out = about["held_out"]
    click.echo(f"{about['steps']} steps on {about['facts']} facts. Of edits of held-out facts {held_out['rephrased']:.0%} hold in other words;", nl=False)
    click.echo(f" others' predictions drift by {held_out['drift']:.4f} nats.")
    click.echo(f"Use it: hybrid edit --method {method} facts.jsonl{'' if out is None else f' --set weights={folder}'}")


@train.command()
@training_options
def mend(model: LanguageModel, **given: Any) -> None:
    """Train MEND's network for a model; afterwards `hybrid edit --method mend` makes an edit with one backward pass.

    Edits are made of the facts, with targets of other facts; their other wordings are the lexicon's. Run again after an interruption
    (or with more steps), it goes on where it stopped.

    \b
    Example:
      hybrid train mend --facts known-facts.jsonl --out mend-pocket
      hybrid edit --method mend --set weights=mend-pocket facts.jsonl
    """
    run("mend", model, **given)


@train.command()
@training_options
def ke(model: LanguageModel, **given: Any) -> None:
    """Train KnowledgeEditor's network for a model, as `hybrid train mend` does MEND's.

    \b
    Example:
      hybrid train ke --facts known-facts.jsonl
      hybrid edit --method ke facts.jsonl
    """
    run("ke", model, **given)
