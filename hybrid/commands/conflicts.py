"""`hybrid conflicts`: what authors and sources contradict each other about, and who is believed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from hybrid.commands.options import show, store_options

if TYPE_CHECKING:
    from hybrid.memory import HybridMemory
    from policies.conflict import ConflictPolicy
    from stores.records import Fact

resolve_option = click.option(
    "--resolve", type=click.Choice(["replace", "keep"]), help="If another source says otherwise: put the new value in force, or keep the old one."
)


def brief(fact: Fact) -> dict[str, Any]:
    """A value with who says it, for JSON."""
    return {name: getattr(fact, name) for name in ("id", "target_new", "author", "source", "created_at", "valid_from", "valid_to")}


@click.group("conflicts", invoke_without_command=True)
@click.pass_context
def conflicts(ctx: click.Context) -> None:
    """Show and settle contradictions between authors or sources.

    \b
    Example:
      hybrid conflicts list
      hybrid conflicts policy trusted --trust anna --trust abs.gov.au
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(listed)


@conflicts.command("list")
@store_options
def listed(memory: HybridMemory, as_json: bool) -> None:
    """Facts in force that another author or source contradicts, with the values that lost.

    \b
    Example:
      hybrid conflicts list --json
    """
    from hybrid.conflicts import contested
    from policies.conflict import told

    for each in contested(memory):
        fact = each.fact
        if as_json:
            row = {"subject": fact.subject, "relation": fact.relation, "namespace": fact.namespace}
            show(row | {"in_force": brief(fact), "contenders": [brief(contender) for contender in each.contenders]})
            continue
        click.echo(f"{fact.subject}, {fact.relation}")
        for mark, value in (("in force ", fact), *(("contender", contender) for contender in each.contenders)):
            click.echo(f"  {mark}  {value.target_new}  ({told(value)}; {value.id})")


def _policy(policy: ConflictPolicy, as_json: bool) -> None:
    if as_json:
        show({"policy": policy.name, "trusted": list(policy.trusted)})
    else:
        click.echo(f"Contradictions are decided by: {policy.name}" + (f" ({', '.join(policy.trusted)})" if policy.trusted else ""))


@conflicts.command("policy")
@click.argument("name", required=False, type=click.Choice(["newest", "trusted", "ask"]), metavar="[newest|trusted|ask]")
@click.option("--trust", "trusted", multiple=True, metavar="NAME", help="An author, a source, or a source's host; the most trusted first. Repeat it.")
@store_options
def policy(memory: HybridMemory, name: str | None, trusted: tuple[str, ...], as_json: bool) -> None:
    """Choose how contradictions are decided from now on, or show it.

    `newest`: the last value stays in force. `trusted`: that of the author or source that comes first in the list, whichever was told first;
    who is not in it is trusted least, and among equals the newest stays. `ask`: a contradicting fact is refused (exit code 4) until --resolve decides.
    An author or source that corrects itself contradicts nobody.

    \b
    Example:
      hybrid conflicts policy ask
      hybrid conflicts policy trusted --trust anna --trust https://example.org/atlas
    """
    from hybrid.conflicts import choose, policy_of

    if name is None and trusted:
        raise click.UsageError("--trust belongs to a policy: hybrid conflicts policy trusted --trust NAME")
    _policy(policy_of(memory) if name is None else choose(memory, name, trusted), as_json)


@conflicts.command("resolve")
@click.argument("fact_id")
@store_options
def resolve(memory: HybridMemory, fact_id: str, as_json: bool) -> None:
    """Put a contender in force; the value that was becomes a contender.

    \b
    Example:
      hybrid conflicts resolve 01KAJ8
    """
    from hybrid.conflicts import put_in_force

    _changed([put_in_force(memory, fact_id)], as_json)


@conflicts.command("settle")
@store_options
def settle(memory: HybridMemory, as_json: bool) -> None:
    """Decide what is contested already by the list of whom is trusted.

    \b
    Example:
      hybrid conflicts settle
    """
    from hybrid.conflicts import settle as decide

    changed = decide(memory)
    _changed(changed, as_json)
    if not changed and not as_json:
        click.echo("Nothing changed: what is in force is what is trusted most.")


def _changed(changed: list[tuple[Fact, Fact]], as_json: bool) -> None:
    for fact, old in changed:
        if as_json:
            show({"in_force": brief(fact), "contender": brief(old)})
        else:
            click.echo(f"In force: {fact.statement}.  (instead of {old.target_new}, a contender now)")


def refused(refusals: list[tuple[int, str]]) -> None:
    """Tell which records were not stored, and leave with the exit code of a conflict if there are any."""
    for number, reason in refusals:
        click.echo(f"record {number}: {reason}", err=True)
    if refusals:
        click.echo(f"{len(refusals)} not stored, because they contradict what is in force; all others are.", err=True)
        sys.exit(4)
