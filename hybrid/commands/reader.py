"""`hybrid reader`: who reads the facts that govern a query, for all queries of a store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from hybrid.commands.options import show, store_options

if TYPE_CHECKING:
    from hybrid.memory import HybridMemory


@click.command()
@click.argument("name", required=False, type=click.Choice(["ike", "counterfactual"]), metavar="[ike|counterfactual]")
@click.option(
    "--counterfactual-model", "chosen_model", metavar="MODEL", help="`shipped`, or a Hugging Face causal or seq2seq model by name or folder; remembered."
)
@store_options
def reader(memory: HybridMemory, name: str | None, chosen_model: str | None, as_json: bool) -> None:
    """Choose who answers from memory, or show who does.

    With `ike` the language model reads the governing facts in its context. With `counterfactual` a small model of its own does, from the
    facts and nothing else (SERAC), and the language model is neither loaded nor run for such an answer. Facts that live in the weights, and
    queries that no fact governs, are the language model's in any case.

    \b
    Example:
      hybrid reader counterfactual
      hybrid reader counterfactual --counterfactual-model google/flan-t5-small
      hybrid reader ike
    """
    from hybrid.answering import choose_reader

    chosen, used = choose_reader(memory, name, chosen_model)
    if as_json:
        show({"reader": chosen, "counterfactual_model": used})
    else:
        click.echo(f"Answers from memory: {chosen}" + (f", with the model {used}" if chosen == "counterfactual" else ""))
