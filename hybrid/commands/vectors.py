"""`hybrid vectors`: arithmetic of weight changes. Heavy imports happen inside."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hybrid.commands.options import default_store, model_options
from stores.errors import Conflict, NotFound

if TYPE_CHECKING:
    from hybrid.model import LanguageModel
    from stores.deltas import Delta


@click.group()
def vectors() -> None:
    """Task vectors: differences of weights, made, negated, added and merged; each is a delta that `hybrid edit apply` takes.

    A SOURCE is a folder with a delta, a PEFT LoRA adapter or a fine-tuned checkpoint, or generation:N of the store.

    \b
    Example:
      hybrid vectors make my-fine-tune --model my-base --out tuned
      hybrid vectors negate tuned --model my-base --out unlearnt
      hybrid edit apply unlearnt --model my-base --out model
    """


def out_option(command: Callable[..., None]) -> Callable[..., None]:
    """--out and --store."""
    command = click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder of the delta.")(command)
    return click.option("--store", type=click.Path(file_okay=False, path_type=Path), envvar="HYBRID_HOME", help="Store of generation:N.  [env: HYBRID_HOME]")(
        command
    )


@vectors.command()
@click.argument("source")
@click.option("--scale", type=float, default=1.0, show_default=True, help="Times this number.")
@out_option
@model_options
def make(model: LanguageModel, source: str, scale: float, out: Path, store: Path | None, as_json: bool) -> None:
    """The vector from the base (--model) to SOURCE.

    \b
    Example:
      hybrid vectors make my-fine-tune --model my-base --out tuned
      hybrid vectors make generation:3 --scale 0.5 --out half
    """
    from hybrid.vectors import scaled

    (found,) = _read(model, (source,), store, out)
    _save(found if scale == 1 else scaled(found, scale), out, as_json)


@vectors.command()
@click.argument("source")
@click.option("--scale", type=click.FloatRange(0, min_open=True), default=1.0, show_default=True, help="How strongly.")
@out_option
@model_options
def negate(model: LanguageModel, source: str, scale: float, out: Path, store: Path | None, as_json: bool) -> None:
    """The vector away from SOURCE: what it learnt is unlearnt.

    \b
    Example:
      hybrid vectors negate tuned --scale 0.7 --out away
    """
    from hybrid.vectors import scaled

    (found,) = _read(model, (source,), store, out)
    _save(scaled(found, -scale), out, as_json)


@vectors.command()
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("--weight", "weights", type=float, multiple=True, help="One for each SOURCE, in their order.  [default: 1 each]")
@out_option
@model_options
def add(model: LanguageModel, sources: tuple[str, ...], weights: tuple[float, ...], out: Path, store: Path | None, as_json: bool) -> None:
    """The weighted sum of vectors.

    \b
    Example:
      hybrid vectors add one two --weight 1 --weight -0.5 --out sum
    """
    _combined(model, sources, weights, out, store, as_json, method="linear")


@vectors.command()
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("--method", type=click.Choice(["linear", "ties", "dare", "dare-ties", "magnitude"]), default="ties", show_default=True)
@click.option("--density", type=float, default=0.2, show_default=True, help="Share of each vector's entries that is kept.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of what DARE drops.")
@click.option("--weight", "weights", type=float, multiple=True, help="One for each SOURCE, in their order.  [default: 1 each]")
@out_option
@model_options
def combine(
    model: LanguageModel,
    sources: tuple[str, ...],
    weights: tuple[float, ...],
    out: Path,
    store: Path | None,
    as_json: bool,
    method: str,
    density: float,
    seed: int,
) -> None:
    """Merge vectors so that they interfere less: TIES elects signs, DARE drops and rescales.

    \b
    Example:
      hybrid vectors combine one two three --method ties --density 0.2 --out merged
    """
    _combined(model, sources, weights, out, store, as_json, method=method, density=density, seed=seed)


def _combined(model: LanguageModel, sources: tuple[str, ...], weights: tuple[float, ...], out: Path, store: Path | None, as_json: bool, **how: Any) -> None:
    from hybrid.vectors import combine as merge

    if weights and len(weights) != len(sources):
        raise click.UsageError(f"{len(sources)} sources and {len(weights)} times --weight; give one to each, or none")
    try:
        merged = merge(_read(model, sources, store, out), weights=weights or None, **how)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    _save(merged, out, as_json)


def _read(model: LanguageModel, sources: tuple[str, ...], store: Path | None, out: Path) -> list[Delta]:
    """The vectors, once it is sure that the result has a place."""
    from hybrid.vectors import read

    if out.exists() and any(out.iterdir()):
        raise Conflict(f"{out} is not empty; choose another folder with --out")
    if not any(source.startswith("generation:") for source in sources):
        return [read(source, model) for source in sources]
    from stores.generations import Generations
    from stores.ledger import Ledger

    folder = store or default_store()
    if not (folder / "ledger.db").exists():
        raise NotFound(f"there is no store in {folder}; name it with --store")
    ledger = Ledger(folder / "ledger.db")
    try:
        return [read(source, model, Generations(ledger, folder / "generations")) for source in sources]
    finally:
        ledger.close()


def _save(vector: Delta, out: Path, as_json: bool) -> None:
    import numpy as np

    vector.save(out)
    norm = float(np.sqrt(sum(np.linalg.norm(vector.dense(name)) ** 2 for name in vector.changes)))
    if as_json:
        click.echo(json.dumps({"delta": str(out), "parameters": len(vector.changes), "norm": norm}))
    else:
        click.echo(f"{out} holds a vector of {len(vector.changes)} parameters, norm {norm:.4g}. Use it: hybrid edit apply {out} --out model")
