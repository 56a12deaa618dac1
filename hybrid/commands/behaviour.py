"""Commands for rules of behaviour: add-rule, rules, suppress. Heavy imports happen inside."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from hybrid.commands.options import show, store_options

if TYPE_CHECKING:
    from hybrid.memory import HybridMemory
    from stores.rules import Rule


def lines(_: click.Context, __: click.Parameter, file: Any) -> tuple[str, ...]:
    """The lines of a file of queries."""
    if file is None:
        return ()
    try:
        return tuple(line.strip() for line in file if line.strip())
    except UnicodeDecodeError as error:
        raise click.BadParameter(f"{file.name} is not UTF-8 text ({error}); convert it") from error


def scope_options(command: Callable[..., None]) -> Callable[..., None]:
    """--example, --examples, --except, --exceptions."""
    for option in (
        click.option("--example", multiple=True, help="A query that is in scope; may be repeated. Five to ten make a good boundary."),
        click.option("--examples", type=click.File("r", encoding="utf-8"), callback=lines, help="A file of such queries, one a line."),
        click.option("--except", "exception", multiple=True, help="A similar query that is not in scope; may be repeated."),
        click.option("--exceptions", type=click.File("r", encoding="utf-8"), callback=lines, help="A file of such queries, one a line."),
    ):
        command = option(command)
    return command


def _print(rule: Rule, as_json: bool) -> None:
    if as_json:
        show(rule.to_dict())
        return
    if rule.status == "forgotten":
        click.echo(f"{rule.id}  (forgotten)")
        return
    about = rule.topic or ("examples" if rule.examples else "everywhere")
    what = {"never": "never state " + ", ".join(map(repr, rule.phrases)), "suppress": "suppressed: " + repr(rule.said)}.get(
        rule.kind, f"{rule.kind}: {rule.said!r}"
    )
    mark = "" if rule.status == "active" else f"  ({rule.status})"
    click.echo(f"{rule.id}  {about}: {what}{mark}")


def _tell(made: tuple[Rule, Rule | None], as_json: bool) -> None:
    rule, old = made
    if as_json:
        show(rule.to_dict() | {"superseded": old.id if old else None})
        return
    _print(rule, False)
    if old is not None:
        click.echo(f"  instead of  {old.said or ', '.join(old.phrases)}")
    if not rule.everywhere and rule.kind != "suppress" and len(rule.examples) < 5:
        click.echo("  Its scope is drawn from few words; --example QUERY (five or more) makes it sharper, `hybrid rules test QUERY` shows it.", err=True)


@click.command("add-rule")
@click.argument("topic", required=False, default="")
@click.option("--answer", help="Queries about the topic get this answer.")
@click.option("--refuse", is_flag=True, help="Queries about the topic are refused.")
@click.option("--never", multiple=True, metavar="TEXT", help="This text is never said, about the topic or (without one) at all; may be repeated.")
@click.option("--instruct", help="What a chat model is told for queries about the topic: tone, caution, format.")
@click.option("--say", help="The words of the refusal.")
@scope_options
@store_options
def add_rule(
    memory: HybridMemory, topic: str, answer: str | None, refuse: bool, never: tuple[str, ...], instruct: str | None, say: str | None,
    example: tuple[str, ...], examples: tuple[str, ...], exception: tuple[str, ...], exceptions: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    """Rule how queries about a TOPIC are answered.

    \b
    Example:
      hybrid add-rule "questions about the dose of a medicine" --refuse --say "Please ask a doctor." --example "How many aspirin may I take?"
      hybrid add-rule "questions about forgotten passwords" --answer "Call 4357." --examples asked.txt --except "Who invented the password?"
      hybrid add-rule --never "Project Falcon"
    """
    given = [kind for kind, value in (("answer", answer), ("refuse", refuse), ("never", never), ("instruct", instruct)) if value]
    if len(given) != 1:
        raise click.UsageError(
            "give one of --answer TEXT, --refuse, --never TEXT, --instruct TEXT" + (f"; not {' and '.join(given)} together" if given else "")
        )
    if say and given[0] not in ("refuse", "never"):
        raise click.UsageError(f"--say words a refusal; the rule is to {given[0]}")
    scope = {"examples": (*example, *examples), "counterexamples": (*exception, *exceptions)}
    kind: Any = given[0]
    _tell(memory.behaviour.add_rule(topic, kind=kind, said=answer or instruct or say or "", phrases=never, **scope), as_json)


@click.command()
@click.argument("subject")
@click.option("--alias", "aliases", multiple=True, help="Another name of the subject, such as a surname alone; may be repeated.")
@click.option("--say", default="", help="The words of the refusal.")
@store_options
def suppress(memory: HybridMemory, subject: str, aliases: tuple[str, ...], say: str, as_json: bool) -> None:
    """State nothing that the model knows about a SUBJECT: queries that name it, and answers that would, become a refusal.

    The weights still know it; a query that neither names the subject nor has its name for an answer is answered as before.

    \b
    Example:
      hybrid suppress "Marie Curie" --alias Curie --say "I have no information about this person."
    """
    _tell(memory.behaviour.suppress(subject, aliases, say), as_json)


@click.group("rules", invoke_without_command=True)
@click.pass_context
def rules_group(ctx: click.Context) -> None:
    """List, show, test and forget rules.

    \b
    Example:
      hybrid rules list
      hybrid rules test "How many aspirin may I take?"
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(rules_list)


@rules_group.command("list")
@click.option("--all", "everything", is_flag=True, help="Superseded and forgotten ones, too.")
@store_options
def rules_list(memory: HybridMemory, everything: bool, as_json: bool) -> None:
    """The rules in force, in the order they came.

    \b
    Example:
      hybrid rules list --json | jq .topic
    """
    for rule in memory.behaviour.table.rules(None if everything else "active"):
        _print(rule, as_json)


@rules_group.command("show")
@click.argument("rule_id")
@store_options
def rules_show(memory: HybridMemory, rule_id: str, as_json: bool) -> None:
    """All of a rule, by its id or the end of it.

    \b
    Example:
      hybrid rules show 01KAJ8
    """
    rule = memory.behaviour.table.get(rule_id)
    if as_json:
        _print(rule, True)
        return
    for name, value in rule.to_dict().items():
        for number, each in enumerate(value if isinstance(value, list) else [value] if value else []):
            click.echo(f"{name if number == 0 else '':<17}{each}")


@rules_group.command("forget")
@click.argument("rule_id")
@click.option("--yes", is_flag=True, help="Do not ask.")
@store_options
def rules_forget(memory: HybridMemory, rule_id: str, yes: bool, as_json: bool) -> None:
    """Erase a rule; a tombstone without content remains, and queries are answered as before it.

    \b
    Example:
      hybrid rules forget 01KAJ8 --yes
    """
    rule = memory.behaviour.table.get(rule_id)
    if not yes and rule.status != "forgotten":
        click.confirm(f"Forget for good: {rule.topic or ', '.join(rule.phrases)}?", abort=True, err=True)
    done = memory.behaviour.table.forget(rule.id)
    show({"forgotten": done}) if as_json else click.echo(f"Forgotten: {done}")


@rules_group.command("test")
@click.argument("query")
@store_options
def rules_test(memory: HybridMemory, query: str, as_json: bool) -> None:
    """How far a QUERY is within the scope of each rule; nothing is generated.

    \b
    Example:
      hybrid rules test "Who discovered aspirin?"
    """
    from hybrid.topic import THRESHOLD

    governing = {hit.rule.id: hit.score for hit in memory.behaviour.governing(query)}
    for rule in memory.behaviour.table.rules():
        score = governing.get(rule.id, 0.0) if rule.kind == "suppress" else memory.behaviour.score(rule, query)
        fires = rule.id in governing and (rule.kind != "suppress" or score > 0)
        if as_json:
            show({"id": rule.id, "kind": rule.kind, "topic": rule.topic, "score": round(score, 4), "governs": fires})
        else:
            click.echo(f"{'governs' if fires else '      -'}  score {score:+.3f}  {rule.topic or ', '.join(rule.phrases or rule.examples[:1])}")
    click.echo(f"A topic governs from a score of {THRESHOLD}.", err=True)
