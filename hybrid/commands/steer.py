"""Commands for activation steering. Heavy imports happen inside."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hybrid.commands.behaviour import scope_options
from hybrid.commands.options import show, store_options
from stores.errors import Conflict

if TYPE_CHECKING:
    from hybrid.memory import HybridMemory
    from stores.rules import Steer


def name_of(_: click.Context, __: click.Parameter, given: str) -> str:
    """A name that is one harmless folder."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", given):
        raise click.BadParameter(f"{given!r}; use letters, digits, - and _, at most 64")
    return given


def numbers(kind: type, given: str | None) -> list[Any]:
    """A comma-separated list."""
    try:
        return [kind(part) for part in given.split(",")] if given else []
    except ValueError as error:
        raise click.UsageError(f"{given!r} is no list of numbers; write 2,3,4") from error


@click.group()
def steer() -> None:
    """Steer the model by a direction in its activations, made from positive and negative examples; weights stay as they are.

    \b
    Example:
      hybrid steer make pairs.jsonl --name formal
      hybrid steer attach formal "questions about travelling" --example "Where is the station?"
      hybrid steer detach formal
    """


@steer.command()
@click.argument("file", type=click.File("r", encoding="utf-8"))
@click.option("--name", required=True, callback=name_of, help="What to call it.")
@click.option("--method", type=click.Choice(["mean", "pca", "auto"]), default="auto", show_default=True, help="Difference of means, or principal component.")
@click.option("--layers", help="Blocks to try, such as 2,3,4.  [default: all]")
@click.option("--strengths", help="Strengths to try, in mean distances between the two sides.  [default: 0.5 to 8]")
@store_options
def make(memory: HybridMemory, file: Any, name: str, method: str, layers: str | None, strengths: str | None, as_json: bool) -> None:
    """Make a direction from a FILE of examples; layer, method and strength are chosen on the half of them that is held out.

    JSON lines, a JSON list, CSV or TSV with `positive` and `negative`: two prompts, of which the second shall be answered like
    the first; or, with a `prompt`, two completions of it, of which the first shall be preferred.

    \b
    Example:
      hybrid steer make pairs.jsonl --name formal
    """
    from hybrid.directions import METHODS, STRENGTHS, read_pairs
    from hybrid.directions import make as run
    from stores.rules import Steer

    if any(each.name == name for each in memory.behaviour.table.steers()):
        raise Conflict(f"there is a steering vector {name!r} already; `hybrid steer remove {name}` first, or choose another --name")
    pairs = read_pairs(file.read(), Path(getattr(file, "name", "")).suffix.lstrip(".").lower())
    memory.weights.refresh()
    with memory.weights.base():
        made = run(
            memory.model,
            pairs,
            methods=METHODS if method == "auto" else (method,),
            layers=numbers(int, layers),
            strengths=numbers(float, strengths) or STRENGTHS,
        )
    folder = memory.behaviour.folder / name
    if folder.exists():
        shutil.rmtree(folder)  # left over by a run that was killed before the ledger knew it
    memory.behaviour.table.put_steer(Steer(name=name, sha256=made.save(folder)), "steer")
    about: dict[str, Any] = {"name": name, "layer": made.layer, "strength": made.strength, "method": made.method} | made.about
    if as_json:
        show(about)
        return
    click.echo(
        f"{name}: block {made.layer}, strength {made.strength}, {made.method}; of {about['tried']} choices the calmest of the best on {about['held_out']} held-out examples"
    )
    click.echo(
        f"  score {about['score_before']:.3f} -> {about['score']:.3f}; perplexity of other text changes by {100 * about['perplexity_drift']:.1f}% where it is steered"
    )
    click.echo(f"Try it: hybrid ask QUERY --steer {name}    Use it: hybrid steer attach {name} [TOPIC]")


def _row(memory: HybridMemory, steer: Steer) -> dict[str, Any]:
    from dataclasses import asdict

    from hybrid.steering import Steering

    found = Steering.load(memory.behaviour.folder / steer.name, steer.sha256)
    own = {"layer": found.layer, "strength": found.strength if steer.strength is None else steer.strength, "method": found.method, "model": found.model.name}
    return asdict(steer) | own | found.about


@steer.command("list")
@store_options
def list_(memory: HybridMemory, as_json: bool) -> None:
    """The directions of the store, and which are attached.

    \b
    Example:
      hybrid steer list
    """
    for each in memory.behaviour.table.steers():
        row = _row(memory, each)
        where = ("everywhere" if each.everywhere else f"about {each.topic or 'its examples'}") if each.attached else "not attached"
        show(row) if as_json else click.echo(f"{each.name}  block {row['layer']}, strength {row['strength']}, {row['method']}, for {row['model']}  ({where})")


@steer.command("show")
@click.argument("name")
@store_options
def show_(memory: HybridMemory, name: str, as_json: bool) -> None:
    """All about one direction.

    \b
    Example:
      hybrid steer show formal
    """
    row = _row(memory, memory.behaviour.table.steer(name))
    if as_json:
        show(row)
        return
    for key, value in row.items():
        if value not in ("", (), None):
            click.echo(f"{key:<18}{', '.join(value) if isinstance(value, tuple) else value}")


@steer.command()
@click.argument("name")
@click.argument("topic", required=False, default="")
@click.option("--strength", type=float, help="Another strength than the one that was chosen.")
@scope_options
@store_options
def attach(
    memory: HybridMemory, name: str, topic: str, strength: float | None, example: tuple[str, ...], examples: tuple[str, ...],
    exception: tuple[str, ...], exceptions: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    """Steer by a direction from now on: queries about a TOPIC (or like the examples), or without one all.

    \b
    Example:
      hybrid steer attach formal "questions about travelling" --examples asked.txt
    """
    from dataclasses import replace

    inside, outside = (*example, *examples), (*exception, *exceptions)
    if outside and not (topic or inside):
        raise click.UsageError("counterexamples bound a scope; give a TOPIC or --example too")
    memory.behaviour.vector(name)
    steer = replace(
        memory.behaviour.table.steer(name), attached=True, strength=strength, topic=" ".join(topic.split()), examples=inside, counterexamples=outside
    )
    memory.behaviour.table.put_steer(steer, "attach")
    where = "every query" if steer.everywhere else f"queries about {steer.topic}" if steer.topic else "queries like the examples"
    show(_row(memory, steer)) if as_json else click.echo(f"{name} steers {where}. Undo: hybrid steer detach {name}")


@steer.command()
@click.argument("name")
@store_options
def detach(memory: HybridMemory, name: str, as_json: bool) -> None:
    """Steer no more; the model is what it was, to the bit.

    \b
    Example:
      hybrid steer detach formal
    """
    from dataclasses import replace

    known = memory.behaviour.table.steer(name)
    if not known.attached:
        raise Conflict(f"{name} is not attached; `hybrid steer list` shows what is")
    memory.behaviour.table.put_steer(replace(known, attached=False), "detach")
    show({"detached": name}) if as_json else click.echo(f"{name} is detached.")


@steer.command()
@click.argument("name")
@store_options
def remove(memory: HybridMemory, name: str, as_json: bool) -> None:
    """Delete a direction with its files.

    \b
    Example:
      hybrid steer remove formal
    """
    memory.behaviour.table.remove_steer(name)
    shutil.rmtree(memory.behaviour.folder / name, ignore_errors=True)
    show({"removed": name}) if as_json else click.echo(f"{name} is removed.")
