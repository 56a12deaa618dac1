"""`hybrid feedback` and `hybrid scope`: say what the scope got wrong, and fit it to a store."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hybrid.commands.options import show, store_options

if TYPE_CHECKING:
    from hybrid.memory import HybridMemory
    from hybrid.scope.adapt import Report

NONE = "none of them"


@click.command()
@click.argument("query")
@click.option("--should-fire", metavar="ID", help="The fact that should have governed.")
@click.option("--should-not-fire", metavar="[ID]", is_flag=False, flag_value=NONE, help="The fact that should not have; without an id, none should.")
@store_options
def feedback(memory: HybridMemory, query: str, should_fire: str | None, should_not_fire: str | None, as_json: bool) -> None:
    """Say which fact should, or should not, have governed a query; `hybrid scope calibrate` learns from it.

    \b
    Example:
      hybrid feedback "Where do Australia's ministers sit?" --should-fire 01KAJ8
      hybrid feedback "Which airport serves Australia's capital?" --should-not-fire
    """
    if (should_fire is None) == (should_not_fire is None):
        raise click.UsageError("say either --should-fire ID or --should-not-fire [ID]")
    if not query.strip():
        raise click.UsageError("the query is empty")
    from stores.feedback import Feedback

    named = should_fire if should_fire is not None else None if should_not_fire == NONE else should_not_fire
    fact = None if named is None else memory.ledger.get(named)
    judgement = Feedback(memory.ledger).add(query, None if fact is None else fact.id, should_fire is not None, memory.author)
    if as_json:
        show({"query": judgement.query, "fact": judgement.fact_id, "fires": judgement.fires})
        return
    what = "no fact should govern it" if fact is None else f"{'governed by' if judgement.fires else 'not governed by'}: {fact.statement}."
    click.echo(f"Noted: {judgement.query!r}, {what}\nIt takes effect with: hybrid scope calibrate")


@click.group("scope")
def scope() -> None:
    """Measure and adapt how it is decided whether a fact governs a query.

    \b
    Example:
      hybrid scope evaluate --plot reliability.png
      hybrid scope calibrate
    """


def _progress(items: Any) -> Any:
    from tqdm import tqdm

    return tqdm(items, unit="query", disable=None, file=sys.stderr)


@scope.command("evaluate")
@click.option("--each", type=click.IntRange(1), default=60, show_default=True, help="Queries of each kind, at most one a fact.")
@click.option("--seed", default=0, show_default=True)
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Draw the reliability of the probabilities here (PNG).")
@store_options
def evaluate(memory: HybridMemory, each: int, seed: int, plot: Path | None, as_json: bool) -> None:
    """Ask about the store's own facts in held-out wordings, and check all feedback.

    \b
    Example:
      hybrid scope evaluate --plot reliability.png
    """
    from hybrid.scope import adapt
    from stores.feedback import Feedback

    asked = [adapt.look(memory, query) for query in _progress(list(adapt.about_facts(memory, each, held_out=True, seed=seed)))]
    judged = [adapt.look_again(memory, one) for one in Feedback(memory.ledger).all()]
    own = adapt.own_weights(memory)
    found = adapt.report(memory, [*asked, *judged], own or memory.router.witness.scorer.about["evidence"])
    if plot is not None:
        from hybrid.scope.reliability import draw

        draw(found.bins, found.calibration_error, plot)
    if as_json:
        show(found.to_dict() | {"weights": "the store's own" if own else "shipped", "plot": None if plot is None else str(plot)})
        return
    _table(found)
    if plot is not None:
        click.echo(f"drawn: {plot}", err=True)


def _table(found: Report) -> None:
    from hybrid.scope.adapt import ordered

    click.echo(f"{'queries':<14}{'total':>7}{'fired':>7}{'right':>7}")
    for kind in ordered(found.kinds):
        row = found.kinds[kind]
        click.echo(f"{kind:<14}{row['total']:>7}{row['fired']:>7}{row['right']:>7}")
    if found.feedback["total"]:
        click.echo(f"{'feedback':<14}{found.feedback['total']:>7}{'':>7}{found.feedback['followed']:>7}")
    click.echo(f"wrong decisions {100 * found.error:.1f}%, calibration error {100 * found.calibration_error:.1f}%")


@scope.command("calibrate")
@click.option("--each", type=click.IntRange(1), default=60, show_default=True, help="Queries of each kind, at most one a fact.")
@click.option("--seed", default=0, show_default=True)
@click.option("--dry-run", is_flag=True, help="Show what would change, and keep nothing.")
@click.option("--reset", is_flag=True, help="Go back to the weights that ship.")
@store_options
def calibrate(memory: HybridMemory, each: int, seed: int, dry_run: bool, reset: bool, as_json: bool) -> None:
    """Fit the weights of the evidence to this store: to queries about its facts, and to all feedback.

    Figures before and after are of wordings that were not fitted on; feedback is fitted on, as it is meant to be.

    \b
    Example:
      hybrid scope calibrate --dry-run
      hybrid scope calibrate --reset
    """
    from hybrid.scope import adapt

    if reset:
        adapt.keep(memory, None)
        show({"weights": "shipped"}) if as_json else click.echo("The weights that ship are used again.")
        return
    found = adapt.calibrate(memory, each, seed, _progress)
    if not dry_run:
        adapt.keep(memory, found.weights)
    if as_json:
        show({"kept": not dry_run, "weights": found.weights, "strength": found.strength, "before": found.before.to_dict(), "after": found.after.to_dict()})
        return
    for name, one in (("before", found.before), ("after", found.after)):
        click.echo(f"{name}:")
        _table(one)
    _weights(found.weights)
    click.echo("Nothing was kept." if dry_run else "Kept for this store; `hybrid scope calibrate --reset` takes it back.")


def _weights(weights: Mapping[str, float]) -> None:
    click.echo("weights  " + "  ".join(f"{name} {value:+.2f}" for name, value in weights.items()))


@scope.command("train")
@click.option("--pairs", type=click.IntRange(64), default=20_000, show_default=True, help="Pairs to train on.")
@click.option("--lr", type=click.FloatRange(0, min_open=True), default=5e-5, show_default=True, help="Highest learning rate.")
@click.option("--text", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Prose of the domain, for texts that are out of scope.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder of the run, resumed if it exists.  [default: in the store]")
@click.option("--reset", is_flag=True, help="Go back to the classifier that ships.")
@store_options
def train(memory: HybridMemory, pairs: int, lr: float, text: Path | None, out: Path | None, reset: bool, as_json: bool) -> None:
    """Train the classifier on with this store's subjects and relations, from the one that ships; calibrate afterwards.

    \b
    Example:
      hybrid scope train --pairs 20000 --text handbook.txt && hybrid scope calibrate
    """
    from hybrid.scope import domain

    if reset:
        domain.adopt(memory, None)
        show({"classifier": "shipped"}) if as_json else click.echo("The classifier that ships is used again.")
        return
    prose: list[str] = []
    if text is not None:
        from hybrid.pocket.corpus import read_sentences

        prose = read_sentences(text)
        if not prose:
            raise click.UsageError(f"{text} has no sentence of 15 to 110 letters; give prose, or leave --text out")
    weights = domain.train(memory, out or memory.folder / "scope-run", pairs, lr, prose)
    show({"weights": str(weights), "pairs": pairs}) if as_json else click.echo(f"Trained on {pairs} pairs: {weights}\nNow: hybrid scope calibrate")
