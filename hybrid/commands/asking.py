"""`hybrid ask` and `hybrid chat`: queries."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hybrid.commands.options import show, store_options

if TYPE_CHECKING:
    from hybrid.answer import Answer
    from hybrid.memory import HybridMemory


@click.command()
@click.argument("query")
@click.option("--route", type=click.Choice(["base", "ike", "counterfactual", "weights"]), help="Take this route, whatever the scores say.")
@click.option("--namespace", "namespaces", multiple=True, help="Only facts of this namespace; may be repeated.")
@click.option("--steer", "steers", multiple=True, metavar="NAME", help="Steer by this direction, instead of those attached; may be repeated.")
@click.option(
    "--adapter",
    "adapters",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Attach what `hybrid edit --method grace|t-patcher|... --out` made; may be repeated.",
)
@click.option("--explain", is_flag=True, help="Show candidates, scores and the decision.")
@click.option("--max-new-tokens", type=click.IntRange(1), default=48, show_default=True)
@store_options
def ask(
    memory: HybridMemory,
    query: str,
    route: str | None,
    namespaces: tuple[str, ...],
    steers: tuple[str, ...],
    adapters: tuple[Path, ...],
    explain: bool,
    max_new_tokens: int,
    as_json: bool,
) -> None:
    """Ask the model, with the memory. QUERY is a question, or a sentence to complete; - reads standard input.

    \b
    Example:
      hybrid ask "What is the capital of Australia?"
      hybrid ask "Australia is governed from" --explain
      hybrid ask "The capital of Australia is" --adapter my-codebook
    """
    query = sys.stdin.read().strip() if query == "-" else query.strip()
    if not query:
        raise click.UsageError("the query is empty")
    with ExitStack() as stack:
        for folder in adapters:
            from hybrid.adapters.base import attached
            from stores.adapters import Adapter

            stack.enter_context(attached(memory.model, Adapter.load(folder)))
        stack.enter_context(memory.behaviour.steered(*steers))
        answer = memory.ask(query, route=route, namespaces=list(namespaces) or None, max_new_tokens=max_new_tokens)
    if as_json:
        show(answer.to_dict(explain))
        return
    click.echo(answer.text)
    if explain:
        _explain(memory, answer)


def _explain(memory: HybridMemory, answer: Answer) -> None:
    judged = any("supported" in hit.evidence for hit in answer.facts)
    by = "" if answer.route != "counterfactual" else " by the verifier of claims" if judged else f" by {memory.answerer.reader.model.identity}"
    click.echo(f"\nroute: {answer.route}{by}", err=True)
    for ruled in answer.rules:
        click.echo(f"  rule     score {ruled.score:.3f}  {ruled.rule.kind}  {ruled.rule.topic or ', '.join(ruled.rule.phrases)}", err=True)
    for name in answer.steering:
        click.echo(f"  steered  {name}", err=True)
    for number, hop in enumerate(answer.hops, start=1):
        click.echo(f"  hop {number}  {hop.question}  ->  {hop.answer}  ({hop.route if hop.fact is None else f'memory, {hop.fact}'})", err=True)
    governing = {hit.fact.id for hit in answer.facts}
    for hit in answer.candidates:
        mark = "governs" if hit.fact.id in governing else "      -"
        weighed = f"decides {hit.score:.3f}" if "supported" in hit.evidence else f"score {hit.score:.3f} of {memory.scope.bar(hit.evidence):.2f}"
        click.echo(f"  {mark}  {weighed}  cosine {hit.similarity:.3f}  {hit.fact.statement}", err=True)
        if hit.evidence:
            click.echo("           " + "  ".join(f"{name} {value:+.2f}" for name, value in hit.evidence.items()), err=True)
    if not answer.candidates:
        click.echo("  the memory was not consulted" if answer.route == "base" else "", err=True)
    click.echo("  " + "  ".join(f"{key} {value:.0f} ms" for key, value in answer.timings_ms.items()), err=True)


@click.command()
@store_options
def chat(memory: HybridMemory, as_json: bool) -> None:
    """Talk to the model; /help lists the commands. Ctrl-C stops an answer, Ctrl-D ends.

    \b
    Example:
      hybrid chat
    """
    from hybrid.chat import Chat

    Chat(memory, click.echo).run(memory.folder / "chat_history" if sys.stdin.isatty() else None)
