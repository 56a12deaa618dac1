"""`hybrid add-fact`, `add-facts`, `facts` and `forget`: what is remembered."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from hybrid.commands import conflicts
from hybrid.commands.options import seconds, show, store_options
from stores.errors import NotFound

if TYPE_CHECKING:
    from hybrid.memory import HybridMemory
    from hybrid.request import Added
    from stores.records import Fact


def _added(added: Added) -> dict[str, Any]:
    fact = added.fact
    old = added.superseded
    return {
        "id": fact.id,
        "subject": fact.subject,
        "relation": fact.relation,
        "prompt": fact.prompt,
        "target_new": fact.target_new,
        "statement": fact.statement,
        "outcome": added.outcome.value,
        "superseded": None if old is None else {"id": old.id, "target_new": old.target_new},
        "contender": None if added.contender is None else conflicts.brief(added.contender),
        **({"reason": added.reason} if added.reason else {}),
    }


def _tell(added: Added) -> None:
    fact = added.fact
    if added.outcome.value == "nothing":
        click.echo(f"Already known: {fact.statement}.  (nothing changed)")
    elif added.outcome.value == "kept":
        click.echo(f"Still in force: {fact.statement}.")
    else:
        click.echo(f"Stored: {fact.statement}.")
    click.echo(f"  subject   {fact.subject}\n  relation  {fact.relation}\n  prompt    {fact.prompt}\n  id        {fact.id}")
    if added.contender is not None:
        from policies.conflict import told

        mark = "contender" if added.superseded is None else "instead of"
        click.echo(f"  {mark}  {added.contender.target_new}  ({told(added.contender)}; {added.contender.id}; see `hybrid conflicts`)")
    elif added.superseded is not None:
        click.echo(f"  instead of  {added.superseded.target_new}  (kept in the history)")


@click.command("add-fact")
@click.argument("cue")
@click.argument("target")
@click.option("--subject", help="The subject, where it should not be taken from the cue.")
@click.option("--relation", help="The relation, where it should not be taken from the cue.")
@click.option("--question", "questions", multiple=True, help="A question that the fact answers; may be repeated.")
@click.option("--alias", "aliases", multiple=True, help="Another name of the subject; may be repeated.")
@click.option("--source", help="Where the fact comes from.")
@click.option("--author", help="Who vouches for it.  [default: the login name]")
@click.option("--namespace", default="default", show_default=True, help="Group of facts.")
@click.option("--valid-from", help="First moment at which it holds (ISO 8601).")
@click.option("--valid-to", help="First moment at which it no longer holds.")
@click.option("--ttl", help="How long it holds from now: 30m, 12h, 7d, 2w.")
@conflicts.resolve_option
@store_options
def add_fact(memory: HybridMemory, cue: str, target: str, as_json: bool, ttl: str | None, **fields: Any) -> None:
    """Correct a fact.

    CUE is a short cue, a question, or a prompt with {} for the subject. How it was understood is printed.

    \b
    Example:
      hybrid add-fact "Australia capital" Canberra
      hybrid add-fact "The capital of {} is" Canberra --subject Australia --source https://example.org
    """
    if ttl is not None:
        if fields["valid_to"] is not None:
            raise click.UsageError("--ttl and --valid-to say the same thing; give one of them")
        fields["valid_to"] = (datetime.now(UTC) + timedelta(seconds=seconds(ttl, "--ttl"))).isoformat()
    added = memory.add_fact(cue, target, **fields)
    show(_added(added)) if as_json else _tell(added)


@click.command("add-facts")
@click.argument("file", type=click.File("r", encoding="utf-8"))
@click.option("--format", "name", default="hybrid", show_default=True, help="hybrid, counterfact, counterfact-flat, zsre, zsre-mend, knowedit or qaedit.")
@click.option("--limit", type=click.IntRange(1), help="Only the first N records.")
@conflicts.resolve_option
@store_options
def add_facts(memory: HybridMemory, file: Any, name: str, limit: int | None, resolve: str | None, as_json: bool) -> None:
    """Correct many facts, from a file or - for standard input.

    JSON lines, a JSON list, CSV or TSV with a header. Records need `cue` and `target`, or `subject`, `prompt` and
    `target_new`. The whole file is checked before the first fact is stored; with --json each fact is printed once it is
    stored for good. Records that are refused as contradictions are named at the end (exit code 4); the others are stored.

    \b
    Example:
      hybrid add-facts facts.csv
      cat edits.json | hybrid add-facts - --format counterfact-flat
    """
    from collections import Counter

    from tqdm import tqdm

    from hybrid.formats import read

    checked = list(read(file, name, limit))
    outcomes: Counter[str] = Counter()
    refusals: list[tuple[int, str]] = []
    every = tqdm(memory.add_facts(checked, resolve=resolve), total=len(checked), unit="fact", disable=None, file=sys.stderr)
    for number, added in enumerate(every, start=1):
        outcomes[added.outcome.value] += 1
        if added.reason:
            refusals.append((number, added.reason))
        if as_json:
            show(_added(added))
            sys.stdout.flush()
    if not as_json:
        click.echo(f"{outcomes['add']} added, {outcomes['supersede']} superseded another value, {outcomes['nothing']} were there already.")
        if outcomes["kept"]:
            click.echo(f"{outcomes['kept']} lost against what is in force; `hybrid conflicts` shows them.")
    conflicts.refused(refusals)


@click.group("facts", invoke_without_command=True)
@click.pass_context
def facts_group(ctx: click.Context) -> None:
    """List, show and export facts.

    \b
    Example:
      hybrid facts list --text Australia
      hybrid facts history 7VZQ
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(facts_list)


@facts_group.command("list")
@click.option("--namespace", help="Only this namespace.")
@click.option("--all", "everything", is_flag=True, help="Superseded and forgotten ones, too.")
@click.option("--text", help="Only facts that hold this text.")
@click.option("--limit", type=click.IntRange(1), help="At most N.")
@store_options
def facts_list(memory: HybridMemory, namespace: str | None, everything: bool, text: str | None, limit: int | None, as_json: bool) -> None:
    """The facts in force, in the order they came.

    \b
    Example:
      hybrid facts list --json | jq .statement
    """
    found = memory.ledger.facts(namespace=namespace, status=None if everything else "active", text=text, limit=limit)
    _print_facts(found, as_json)


def _print_facts(found: Iterable[Fact], as_json: bool) -> None:
    for fact in found:
        if as_json:
            show(fact.to_dict() | {"statement": fact.statement if fact.status != "forgotten" else None})
        elif fact.status == "forgotten":
            click.echo(f"{fact.id}  (forgotten)")
        else:
            mark = "" if fact.status == "active" else f"  ({fact.status})"
            click.echo(f"{fact.id}  {fact.statement}.{mark}")


@facts_group.command("show")
@click.argument("fact_id")
@click.option("--before", is_flag=True, help="Ask the model what it says without the fact, and remember it.")
@store_options
def facts_show(memory: HybridMemory, fact_id: str, before: bool, as_json: bool) -> None:
    """All that is known about a fact, by its id or the end of it.

    \b
    Example:
      hybrid facts show 01KAJ8 --before
    """
    fact = memory.with_target_true(memory.ledger.get(fact_id)) if before else memory.ledger.get(fact_id)
    if as_json:
        _print_facts([fact], True)
        return
    for name, value in fact.to_dict().items():
        if value not in (None, [], ""):
            click.echo(f"{name:<12}{', '.join(value) if isinstance(value, list) else value}")


@facts_group.command("history")
@click.argument("fact_id")
@store_options
def facts_history(memory: HybridMemory, fact_id: str, as_json: bool) -> None:
    """Every value that a fact has had, oldest first, with who changed it when.

    \b
    Example:
      hybrid facts history 01KAJ8
    """
    for fact in memory.ledger.history(memory.ledger.get(fact_id)):
        if as_json:
            _print_facts([fact], True)
        else:
            click.echo(f"{fact.created_at[:19]}  {fact.author or '-':<12}  {fact.status:<10}  {fact.target_new}  ({fact.id})")


@facts_group.command("export")
@store_options
def facts_export(memory: HybridMemory, as_json: bool) -> None:
    """The facts in force as JSON lines that `add-facts` reads.

    \b
    Example:
      hybrid facts export > facts.jsonl
    """
    for fact in memory.ledger.facts():
        row = fact.to_dict()
        for name in ("id", "status", "revision", "supersedes", "created_at"):
            row.pop(name)
        show(row)


def _hold(kind: str | None, said: str, about: str) -> None:
    @facts_group.command(kind or "release", help=f"{about}\n\n\b\nExample:\n  hybrid facts {kind or 'release'} 01KAJ8")
    @click.argument("fact_ids", nargs=-1, required=True, metavar="FACT_ID...")
    @store_options
    def command(memory: HybridMemory, fact_ids: tuple[str, ...], as_json: bool) -> None:
        for fact in [memory.ledger.get(each) for each in fact_ids]:
            memory.stability.hold(fact.id, kind, memory.author)
            show({"id": fact.id, "held": kind}) if as_json else click.echo(f"{said}: {fact.statement}.")


_hold("pin", "Pinned", "Let facts go into the weights at the next consolidation, without waiting for them to prove stable.")
_hold("hold", "Held back", "Keep facts in memory, out of the weights.")
_hold(None, "Released", "Take back a pin or a hold, and let facts that failed their check try again.")


@click.command()
@click.argument("fact_id")
@click.option("--yes", is_flag=True, help="Do not ask.")
@store_options
def forget(memory: HybridMemory, fact_id: str, yes: bool, as_json: bool) -> None:
    """Erase a fact and its history, from memory and weights; a tombstone without content remains.

    \b
    Example:
      hybrid forget 01KAJ8 --yes
    """
    fact = memory.ledger.get(fact_id)
    if fact.status == "forgotten":
        raise NotFound(f"fact {fact.id} has been forgotten already")
    if not yes:
        click.confirm(f"Forget for good: {fact.statement}?", abort=True, err=True)
    from hybrid.consolidation.removal import forget as erase

    done = erase(memory, fact)
    if as_json:
        show({"forgotten": done.ids, "generation": done.generation, "weights_hash": done.weights_hash, "pruned": done.pruned, "exports": done.exports})
        return
    click.echo(f"Forgotten: {', '.join(done.ids)}")
    if done.generation is not None:
        instead = f"generation {done.generation}, solved without it," if done.generation else "the base"
        click.echo(f"It was in the weights: {instead} is live now (weights {str(done.weights_hash)[:16]}).")
    if done.pruned:
        click.echo(f"Deleted, for they held it: generations {', '.join(map(str, done.pruned))}")
    for path in done.exports:
        click.echo(f"An export still holds it; delete it: {path}", err=True)
