"""`hybrid log`, `reindex`, `doctor`, `paths` and `demo`: the store as a whole."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hybrid.commands.options import default_store, open_store, quiet, show, store_options

if TYPE_CHECKING:
    from hybrid.memory import HybridMemory


@click.command()
@click.option("--verify", is_flag=True, help="Prove that nothing was altered.")
@click.option("--limit", type=click.IntRange(1), help="Only the last N events.")
@store_options
def log(memory: HybridMemory, verify: bool, limit: int | None, as_json: bool) -> None:
    """Every change of the store, in order: when, who, what.

    \b
    Example:
      hybrid log --verify
    """
    if verify:
        count = memory.ledger.verify()
        show({"verified": True, "events": count}) if as_json else click.echo(f"The log is whole: {count} events, each chained to the one before.")
        return
    for event in list(memory.ledger.events())[-(limit or 0) :]:
        if as_json:
            show({name: getattr(event, name) for name in ("seq", "at", "actor", "action", "fact_id", "detail", "hash")})
        else:
            click.echo(f"{event.seq:>6}  {event.at[:19]}  {event.actor:<12}  {event.action:<10}  {event.fact_id or ''}")


@click.command()
@store_options
def reindex(memory: HybridMemory, as_json: bool) -> None:
    """Embed all facts again, and adopt the model and embedder that are named.

    \b
    Example:
      hybrid reindex --embedder sentence-transformers/all-mpnet-base-v2
    """
    count = memory.reindex()
    show({"facts": count, "embedder": memory.embedder.name, "model": memory.model.name}) if as_json else click.echo(
        f"{count} facts embedded with {memory.embedder.name}; the model is {memory.model.name}."
    )


@click.command()
@store_options
def doctor(memory: HybridMemory, as_json: bool) -> None:
    """Check the store, the index, the embedder, the classifier and the model; says how to mend what is wrong.

    \b
    Example:
      hybrid doctor
    """
    from hybrid.doctor import examine

    checks = list(examine(memory))
    if as_json:
        show([{"check": c.name, "ok": c.ok, "detail": c.detail} for c in checks])
    else:
        for check in checks:
            click.echo(f"{'ok   ' if check.ok else 'WRONG'}  {check.name:<12}  {check.detail}")
    if not all(check.ok for check in checks):
        sys.exit(1)


@click.command()
@click.option("--store", type=click.Path(file_okay=False, path_type=Path), envvar="HYBRID_HOME", help="Folder of the store.  [env: HYBRID_HOME]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")
def paths(store: Path | None, as_json: bool) -> None:
    """Where everything lies.

    \b
    Example:
      hybrid paths --json
    """
    folder = store or default_store()
    here = Path(__file__).parents[1]
    found = {
        "store": folder,
        "ledger": folder / "ledger.db",
        "vectors": folder / "vectors.faiss",
        "generations": folder / "generations",
        "cached values": folder / "values.db",
        "pocket model": here / "pocket" / "weights",
        "counterfactual model": here / "counterfactual" / "weights",
        "scope classifier": here / "scope" / "weights",
        "verifier of claims": here / "claims" / "weights",
    }
    if as_json:
        show({name.replace(" ", "_"): str(path) for name, path in found.items()})
        return
    for name, path in found.items():
        click.echo(f"{name:<22}{path}")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")
def demo(as_json: bool) -> None:
    """Play the main job in a throw-away store: a wrong answer, the edit, and what did and did not change.

    \b
    Example:
      hybrid demo
    """
    from tempfile import TemporaryDirectory

    quiet()
    from hybrid.demo import play

    kind = ""
    with TemporaryDirectory(prefix="hybrid-demo-") as folder, open_store(Path(folder), "pocket", None) as memory:
        for line in play(memory):
            if as_json:
                show({"event": line} if isinstance(line, str) else vars(line))
            elif isinstance(line, str):
                click.echo(f"\n{line}")
            else:
                if line.kind != kind:
                    kind = line.kind
                    click.secho(f"\n{TITLES[kind]}", bold=True)
                changed = f"{line.before}  ->  {line.after}" if line.before != line.after else f"{line.after}  (unchanged)"
                click.echo(f"  {line.query}\n      {changed}   [route: {line.route}]")
    if not as_json:
        click.echo("\nThe store was thrown away. Your own: hybrid add-fact, hybrid ask, hybrid chat.")


TITLES = {
    "same fact": "The same fact in other words: the memory answers",
    "claim": "Yes or no: the fact decides",
    "neighbour": "Its neighbours: the model answers as before",
    "unrelated": "Anything else: the model answers as before",
}
