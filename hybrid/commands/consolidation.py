"""Commands for facts that move into the weights: consolidate, generations, cron. Heavy imports happen inside."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hybrid.commands.editing import settings
from hybrid.commands.options import default_store, show, store_options
from stores.errors import HybridError, Locked

if TYPE_CHECKING:
    from hybrid.consolidation.run import Result
    from hybrid.memory import HybridMemory
    from policies.consolidation import Verdict


class Share(click.ParamType):  # type: ignore[type-arg]
    """A fraction, as 0.01 or 1%."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """A share as a float.

        Raises:
            BadParameter: if it is none.
        """
        try:
            number = float(str(value).removesuffix("%")) / (100 if str(value).endswith("%") else 1)
        except ValueError:
            self.fail(f"{value!r}; write a share such as 1% or 0.01", param, ctx)
        if not 0 <= number <= 100:
            self.fail(f"{value!r} is not a share", param, ctx)
        return number


SHARE = Share()
INTERVALS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@click.command()
@click.option("--dry-run", is_flag=True, help="List each fact and whether it would go, and why (not); change nothing.")
@click.option("--force", is_flag=True, help="Do not wait for facts to prove stable.")
@click.option("--retry", is_flag=True, help="Let facts that failed their check before try again.")
@click.option("--watch", is_flag=True, help="Stay, and consolidate again and again; for containers.")
@click.option("--every", default="1h", show_default=True, metavar="TIME", help="Pause of --watch: 30s, 15m, 6h, 1d.")
@click.option("--probe", type=click.File("r", encoding="utf-8"), help="Further tests: JSON lines of `query`, and `answer` unless it is to stay.")
@click.option("--max-perplexity-drift", type=SHARE, help="Relative change of perplexity, at most.  [default: 1%]")
@click.option("--min-locality", type=SHARE, help="Share of neighbours with unchanged answers, at least.  [default: 99%]")
@click.option("--min-phrasings", type=SHARE, help="Share of a fact's other phrasings that must give it.  [default: 50%]")
@click.option("--min-fluency", type=SHARE, help="N-gram entropy relative to the base, at least.  [default: 90%]")
@click.option("--namespace", "namespaces", multiple=True, help="Take facts of this namespace (instead of default); may be repeated.")
@click.option("--author", "authors", multiple=True, help="Take facts of this author only; may be repeated.")
@click.option("--method", type=click.Choice(["memit", "alphaedit", "emmet"]), help="The editor; remembered.  [default: memit]")
@click.option("--set", "given", multiple=True, callback=settings, help="Override a setting of it: NAME=VALUE; may be repeated; remembered.")
@store_options
def consolidate(memory: HybridMemory, as_json: bool, dry_run: bool, watch: bool, every: str, **options: Any) -> None:
    """Move stable facts into the weights, verified with the memory off.

    Facts that fail stay in memory. If limits stay broken, nothing changes and the exit code is 1.

    \b
    Example:
      hybrid consolidate --dry-run
      hybrid consolidate --max-perplexity-drift 1% --probe tests.jsonl
      hybrid consolidate --watch --every 6h
    """
    from hybrid.consolidation.workshop import plan
    from policies.consolidation import ConsolidationPolicy

    wanted = _wanted(options)
    if dry_run:
        policy: ConsolidationPolicy = wanted["policy"]
        _tell_plan(plan(memory, policy, force=options["force"], retry=options["retry"]), as_json)
        return
    if not watch:
        try:
            _once(memory, wanted, as_json)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--set") from error
        return
    pause = _seconds(every)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    while True:
        try:
            _once(memory, wanted, as_json)
        except HybridError as error:
            click.echo(f"{'Waiting' if isinstance(error, Locked) else 'Error'}: {error}", err=True)
        sys.stdout.flush()
        time.sleep(pause)


def _wanted(options: dict[str, Any]) -> dict[str, Any]:
    """Options of the command as those of `memory.consolidate`."""
    from hybrid.consolidation.checks import read_probes
    from policies.consolidation import ConsolidationPolicy, Limits

    limits = {name: options[name] for name in ("max_perplexity_drift", "min_locality", "min_phrasings", "min_fluency") if options[name] is not None}
    try:
        made = Limits(**limits)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    policy = ConsolidationPolicy(namespaces=options["namespaces"] or ("default",), authors=options["authors"] or None)
    return {
        "policy": policy, "limits": made, "force": options["force"], "retry": options["retry"], "method": options["method"],
        "probes": read_probes(options["probe"]) if options["probe"] else (), "settings": options["given"] or None,
    }  # fmt: skip


def _seconds(text: str) -> int:
    unit = INTERVALS.get(text[-1:])
    if unit is None or not text[:-1].isdigit() or not int(text[:-1]):
        raise click.BadParameter(f"{text!r}; write a number and s, m, h or d, such as 6h", param_hint="--every")
    return int(text[:-1]) * unit


def _tell_plan(verdicts: list[Verdict], as_json: bool) -> None:
    if as_json:
        show([{"id": v.fact.id, "statement": v.fact.statement, "eligible": v.eligible, "reason": v.reason} for v in verdicts])
        return
    for verdict in verdicts:
        click.echo(f"{'weights' if verdict.eligible else 'memory '}  {verdict.fact.statement}.  ({verdict.reason})")
    click.echo(f"{sum(v.eligible for v in verdicts)} of {len(verdicts)} facts would go into the weights.", err=True)


def _once(memory: HybridMemory, wanted: dict[str, Any], as_json: bool) -> None:
    done = memory.consolidate(**wanted)
    folder = memory.generations.path(done.generation) if done.generation else memory.generations.folder / "refused"
    report = folder / "report.html" if (done.generation or done.broken) else None
    if as_json:
        from hybrid.consolidation.report import numbers

        about = {"generation": done.generation, "live": memory.generations.live(), "unchanged": done.unchanged, "report": report and str(report)}
        show(about | numbers(done))
    else:
        _tell(memory, done, report)
    if done.broken:
        raise HybridError(f"nothing went live: {'; '.join(done.broken)}; see {report}, loosen the limit, or hold back facts")


def _tell(memory: HybridMemory, done: Result, report: Path | None) -> None:
    waiting = sum(not verdict.eligible for verdict in done.verdicts)
    for fact_id, why in done.dropped.items():
        click.echo(f"  stays in memory: {memory.ledger.get(fact_id).statement}.  ({why})", err=True)
    if done.unchanged:
        click.echo(f"Nothing to do: generation {memory.generations.live()} holds all that the weights can take ({waiting} facts wait or stay in memory).")
    elif done.generation and done.verification is not None:
        figures = done.verification.figures()
        click.echo(
            f"Generation {done.generation} is live: {len(done.facts)} facts, weights {str(done.weights_hash)[:16]}.\n"
            f"  memory off: prompts {figures['efficacy']:.1%}, other phrasings {figures['phrasings']:.1%}, neighbours unchanged {figures['neighbours']:.1%}, "
            f"perplexity {figures['perplexity_drift']:+.2%}\n  report: {report}"
        )
    elif done.generation == 0:
        click.echo("No fact is left for the weights; the base is live again.")
    elif not done.broken:
        click.echo("No fact passed its check; all stay in memory.")


# -- generations -----------------------------------------------------------------------------


@click.group()
def generations() -> None:
    """List, prove, compare, roll back, export and delete generations of weights; 0 is the base.

    \b
    Example:
      hybrid generations list
      hybrid generations rollback 0 --yes
    """


@generations.command("list")
@store_options
def list_(memory: HybridMemory, as_json: bool) -> None:
    """All generations, the live one marked.

    \b
    Example:
      hybrid generations list
    """
    for row in memory.generations.rows():
        if as_json:
            show(row)
            continue
        state = "live" if row["live"] else "" if row["kept"] else "pruned"
        if row["id"] == 0 and not memory.generations.live():
            state = "live"
        click.echo(f"{row['id']:>6}  {state:<6}  {row['created_at'][:19]}  {row['author']:<12}  {row['facts']:>5} facts  {row['weights_hash'][:16]}")


@generations.command("show")
@click.argument("number", type=click.IntRange(0), required=False)
@store_options
def show_(memory: HybridMemory, number: int | None, as_json: bool) -> None:
    """One generation: facts, settings, figures; the live one if no NUMBER is given.

    \b
    Example:
      hybrid generations show 3 --json
    """
    chosen = memory.generations.live() if number is None else number
    if chosen == 0:
        base = memory.generations.base_hash()
        about: dict[str, Any] = {
            "id": 0,
            "weights_hash": base,
            "base_hash": base,
            "facts": [],
            "settings": {},
            "verification": {},
            "created_at": None,
            "author": None,
        }
    else:
        manifest = memory.generations.manifest(chosen)
        by_id = {each: memory.ledger.get(each) for each in manifest.fact_ids}
        facts = [{**fact, "statement": by_id[fact["id"]].statement} for fact in manifest.facts]
        about = {
            "id": manifest.id, "weights_hash": manifest.weights_hash, "base_hash": manifest.base_hash, "facts": facts, "settings": manifest.settings,
            "verification": manifest.verification, "created_at": manifest.created_at, "author": manifest.author, "method": manifest.method,
            "report": str(memory.generations.path(chosen) / "report.html"),
        }  # fmt: skip
    if as_json:
        show(about)
        return
    for name in ("id", "weights_hash", "base_hash", "created_at", "author", "method", "report"):
        click.echo(f"{name:<14}{about.get(name)}")
    for name, value in {**about["settings"], **about["verification"]}.items():
        click.echo(f"  {name:<22}{value}")
    for fact in about["facts"]:
        click.echo(f"  {'weights' if fact['passed'] else 'memory '}  {fact['statement']}.")


@generations.command()
@click.argument("before", type=click.IntRange(0))
@click.argument("after", type=click.IntRange(0))
@store_options
def diff(memory: HybridMemory, before: int, after: int, as_json: bool) -> None:
    """How two generations differ: facts, figures, norms.

    \b
    Example:
      hybrid generations diff 2 3
    """
    from hybrid.consolidation.audit import difference

    found = difference(memory, before, after)
    if as_json:
        show(found)
        return
    for sign, kind in (("+", "added"), ("-", "removed")):
        for fact in found[kind]:
            click.echo(f"{sign} {fact['statement']}.")
    for name, (one, other) in found["figures"].items():
        click.echo(f"  {name:<22}{one}  ->  {other}")
    for name, norm in found["norms"].items():
        click.echo(f"  {name}  changes by {norm:.4g} (Frobenius)")


@generations.command()
@click.argument("number", type=click.IntRange(0), required=False)
@click.option("--solve", is_flag=True, help="Solve it again from the ledger, too.")
@store_options
def verify(memory: HybridMemory, number: int | None, solve: bool, as_json: bool) -> None:
    """Recompute the hashes of a generation: files, base, resulting weights. The live one if no NUMBER is given.

    \b
    Example:
      hybrid generations verify 3 --solve
    """
    from hybrid.consolidation.audit import verify as prove

    proofs = prove(memory, memory.generations.live() if number is None else number, solve=solve)
    if as_json:
        show([vars(proof) for proof in proofs])
    else:
        for proof in proofs:
            click.echo(f"{'ok   ' if proof.ok else 'WRONG'}  {proof.what:<8}  {proof.detail}")
    if not all(proof.ok for proof in proofs):
        raise HybridError("the weights are not what was verified; `hybrid generations rollback 0`, then `hybrid consolidate --force`, makes them anew")


@generations.command()
@click.argument("number", type=click.IntRange(0))
@click.option("--yes", is_flag=True, help="Do not ask.")
@store_options
def rollback(memory: HybridMemory, number: int, yes: bool, as_json: bool) -> None:
    """Make an earlier generation live, to the bit; 0 is the base. Running programs take it up with their next query.

    \b
    Example:
      hybrid generations rollback 0 --yes
    """
    if not yes:
        click.confirm(f"Go from generation {memory.generations.live()} to {number}?", abort=True, err=True)
    digest = memory.rollback(number)
    show({"live": number, "weights_hash": digest}) if as_json else click.echo(f"Generation {number} is live, weights {str(digest)[:16]}.")


@generations.command()
@click.argument("number", type=click.IntRange(1))
@click.option("--format", "form", type=click.Choice(["lora", "merged"]), default="lora", show_default=True, help="PEFT adapter, or merged checkpoint.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path(), help="Folder to write to.  [default: here]")
@click.option("--max-rank", type=click.IntRange(1), help="Cut an adapter to this rank by singular values; the error is reported.")
@store_options
def export(memory: HybridMemory, number: int, form: str, out: Path, max_rank: int | None, as_json: bool) -> None:
    """Write a generation as a LoRA adapter (exact, in a folder of a unique name) or as a merged checkpoint.

    For llama.cpp, convert the adapter with its convert_lora_to_gguf.py; no maintained package does that.

    \b
    Example:
      hybrid generations export 3 --format lora --out adapters
      hybrid generations export 3 --format merged --out merged-model
    """
    from hybrid.consolidation.export import export as write

    if max_rank is not None and form != "lora":
        raise click.UsageError("--max-rank belongs to --format lora")
    done = write(memory, number, form, out, max_rank)
    if as_json:
        show(done)
    elif form == "lora":
        click.echo(f"{done['path']}: rank {done['rank']}, relative error {done['error']:.2g}")
    else:
        click.echo(f"{done['path']}: {done['rounded_away']} of {done['changed']} changed entries are rounded away in {done['dtype']}")


@generations.command()
@click.option("--keep", type=click.IntRange(0), default=3, show_default=True, help="Keep the last N beside the live one.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@store_options
def prune(memory: HybridMemory, keep: int, yes: bool, as_json: bool) -> None:
    """Delete old generations for good; the live one stays.

    \b
    Example:
      hybrid generations prune --keep 3 --yes
    """
    from stores.lock import exclusive

    live = memory.generations.live()
    others = [number for number in memory.generations.numbers() if number != live]
    old = others[: len(others) - keep]
    if old and not yes:
        click.confirm(f"Delete generations {', '.join(map(str, old))}?", abort=True, err=True)
    with exclusive(memory.folder / "weights.lock"):
        gone = memory.generations.prune(old)
    show({"pruned": gone}) if as_json else click.echo(f"Deleted: {', '.join(map(str, gone)) or 'nothing'}")


# -- schedule --------------------------------------------------------------------------------


@click.group()
def cron() -> None:
    """Consolidate on a schedule, by crontab or systemd timer.

    \b
    Example:
      hybrid cron install --at 03:00
    """


STORE = click.option("--store", type=click.Path(file_okay=False, path_type=Path), envvar="HYBRID_HOME", help="Folder of the store.  [env: HYBRID_HOME]")


@cron.command()
@click.option("--at", help="Daily, at this time.  [default: 03:00]")
@click.option("--every", metavar="TIME", help="Instead: every 15m, 6h, 1d.")
@click.option("--with", "how", type=click.Choice(["crontab", "systemd"]), help="Which of the two.  [default: what is there, crontab first]")
@click.option("--print", "only_print", is_flag=True, help="Only print the entry.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@STORE
def install(store: Path | None, at: str | None, every: str | None, how: str | None, only_print: bool, yes: bool) -> None:
    """Write the entry, in place of an earlier one of this store. It is shown first.

    \b
    Example:
      hybrid cron install --every 6h --print
    """
    from hybrid.consolidation import schedule

    try:
        when = schedule.Schedule.read(at, every)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    folder = store or default_store()
    chosen = how or ("crontab" if only_print else schedule.kind())
    text = schedule.shown(folder, when, chosen)
    if only_print:
        click.echo(text, nl=False)
        return
    click.echo(text, nl=False, err=True)
    if not yes:
        click.confirm(f"Write this to {'your crontab' if chosen == 'crontab' else 'your systemd units'}?", abort=True, err=True)
    schedule.install(folder, when, chosen)
    click.echo(f"Installed. `hybrid cron status` shows it; what it prints goes to {folder / 'consolidate.log' if chosen == 'crontab' else 'the journal'}.")


@cron.command()
@STORE
def status(store: Path | None) -> None:
    """What is scheduled for the store.

    \b
    Example:
      hybrid cron status
    """
    from hybrid.consolidation import schedule

    found = schedule.installed(store or default_store())
    click.echo("\n".join(found) if found else "Nothing is scheduled; `hybrid cron install` does that.")


@cron.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@STORE
def remove(store: Path | None, yes: bool) -> None:
    """Take the store's schedule out again.

    \b
    Example:
      hybrid cron remove --yes
    """
    from hybrid.consolidation import schedule

    if not yes:
        click.confirm("Take the schedule of this store out?", abort=True, err=True)
    for line in schedule.remove(store or default_store()):
        click.echo(f"Removed: {line}")
