"""The command line. Each command opens the store, calls the library, prints: results to stdout, the rest to stderr.

Nothing heavy is imported at the top: `hybrid --help` must not load torch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hybrid.commands import behaviour, conflicts, consolidation, editing, evaluation, generations, reader, schedule, scope, steer, training, vectors
from hybrid.commands.options import default_store, open_store, quiet, show, store_options
from stores.errors import HybridError, NotFound

if TYPE_CHECKING:
    from hybrid.answer import Answer
    from hybrid.memory import HybridMemory
    from hybrid.request import Added
    from stores.records import Fact


class Program(click.Group):
    """Turns the family of store errors into one line on stderr and an exit code, in one place."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except HybridError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(error.exit_code)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(0)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="hybrid-memory")
def main() -> None:
    """Correct what an open-weight language model says, and keep everything else as it was.

    Exit codes: 0 ok, 1 error, 2 usage, 3 not found, 4 conflict, 5 locked.
    """


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


# -- facts -----------------------------------------------------------------------------------


@main.command("add-fact")
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
        fields["valid_to"] = _after(ttl)
    added = memory.add_fact(cue, target, **fields)
    show(_added(added)) if as_json else _tell(added)


def _after(ttl: str) -> str:
    import re
    from datetime import UTC, datetime, timedelta

    match = re.fullmatch(r"(\d+)([smhdw])", ttl.strip())
    if match is None:
        raise click.BadParameter(f"{ttl!r}; write a number and s, m, h, d or w, such as 7d", param_hint="--ttl")
    unit = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}[match[2]]
    return (datetime.now(UTC) + timedelta(**{unit: int(match[1])})).isoformat()


@main.command("add-facts")
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


@main.group("facts", invoke_without_command=True)
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


@main.command()
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


# -- queries ---------------------------------------------------------------------------------


@main.command()
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
    by = f" by {memory.answerer.reader.model.identity}" if answer.route == "counterfactual" else ""
    click.echo(f"\nroute: {answer.route}{by}  (a fact governs from a score of {memory.scope.threshold})", err=True)
    for ruled in answer.rules:
        click.echo(f"  rule     score {ruled.score:.3f}  {ruled.rule.kind}  {ruled.rule.topic or ', '.join(ruled.rule.phrases)}", err=True)
    for name in answer.steering:
        click.echo(f"  steered  {name}", err=True)
    for number, hop in enumerate(answer.hops, start=1):
        click.echo(f"  hop {number}  {hop.question}  ->  {hop.answer}  ({hop.route if hop.fact is None else f'memory, {hop.fact}'})", err=True)
    governing = {hit.fact.id for hit in answer.facts}
    for hit in answer.candidates:
        mark = "governs" if hit.fact.id in governing else "      -"
        click.echo(f"  {mark}  score {hit.score:.3f}  cosine {hit.similarity:.3f}  {hit.fact.statement}", err=True)
        if hit.evidence:
            click.echo("           " + "  ".join(f"{name} {value:+.2f}" for name, value in hit.evidence.items()), err=True)
    if not answer.candidates:
        click.echo("  the memory was not consulted" if answer.route == "base" else "", err=True)
    click.echo("  " + "  ".join(f"{key} {value:.0f} ms" for key, value in answer.timings_ms.items()), err=True)


@main.command()
@store_options
def chat(memory: HybridMemory, as_json: bool) -> None:
    """Talk to the model; /help lists the commands. Ctrl-C stops an answer, Ctrl-D ends.

    \b
    Example:
      hybrid chat
    """
    from hybrid.chat import Chat

    Chat(memory, click.echo).run(memory.folder / "chat_history" if sys.stdin.isatty() else None)


# -- the store -------------------------------------------------------------------------------


@main.command()
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


@main.command()
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


@main.command()
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


@main.command()
@click.option("--store", type=click.Path(file_okay=False, path_type=Path), envvar="HYBRID_HOME", help="Folder of the store.  [env: HYBRID_HOME]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")
def paths(store: Path | None, as_json: bool) -> None:
    """Where everything lies.

    \b
    Example:
      hybrid paths --json
    """
    folder = store or default_store()
    here = Path(__file__).parent / "hybrid"
    found = {
        "store": folder,
        "ledger": folder / "ledger.db",
        "vectors": folder / "vectors.faiss",
        "generations": folder / "generations",
        "cached values": folder / "values.db",
        "pocket model": here / "pocket" / "weights",
        "counterfactual model": here / "counterfactual" / "weights",
        "scope classifier": here / "scope" / "weights",
    }
    if as_json:
        show({name.replace(" ", "_"): str(path) for name, path in found.items()})
        return
    for name, path in found.items():
        click.echo(f"{name:<22}{path}")


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")
def demo(as_json: bool) -> None:
    """Play the main job in a throw-away store: a wrong answer, the edit, and what did and did not change.

    \b
    Example:
      hybrid demo
    """
    from tempfile import TemporaryDirectory

    quiet()
    from hybrid.demo import Row, play

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
        assert Row
    if not as_json:
        click.echo("\nThe store was thrown away. Your own: hybrid add-fact, hybrid ask, hybrid chat.")


TITLES = {
    "same fact": "The same fact in other words: the memory answers",
    "neighbour": "Its neighbours: the model answers as before",
    "unrelated": "Anything else: the model answers as before",
}


for command in (
    consolidation.consolidate,
    generations.generations,
    schedule.cron,
    editing.edit,
    editing.stats,
    editing.trace,
    editing.locate,
    vectors.vectors,
    evaluation.evaluation,
    scope.feedback,
    scope.scope,
    reader.reader,
    conflicts.conflicts,
    behaviour.add_rule,
    behaviour.rules_group,
    behaviour.suppress,
    steer.steer,
    training.train,
):
    main.add_command(command)


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a completion script for your shell.

    \b
    Example:
      eval "$(hybrid completion bash)"
    """
    from click.shell_completion import get_completion_class

    made = get_completion_class(shell)
    assert made is not None
    click.echo(made(main, {}, "hybrid", "_HYBRID_COMPLETE").source())


if __name__ == "__main__":
    main(prog_name="hybrid")
