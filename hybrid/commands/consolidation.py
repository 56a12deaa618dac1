"""The command that moves facts into the weights. Heavy imports happen inside."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hybrid.commands.options import seconds, settings, show, store_options
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
@click.option("--min-same-subject", type=SHARE, help="Share of what is known otherwise of a fact's subject that must stay.  [default: 50%]")
@click.option("--min-fluency", type=SHARE, help="N-gram entropy relative to the base, at least.  [default: 90%]")
@click.option("--namespace", "namespaces", multiple=True, help="Take facts of this namespace (instead of default); may be repeated.")
@click.option("--author", "authors", multiple=True, help="Take facts of this author only; may be repeated.")
@click.option(
    "--method", type=click.Choice(["memit", "alphaedit", "emmet", "readout"]), help="The editor; remembered.  [default: readout on pocket, else memit]"
)
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
    pause = seconds(every, "--every")
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

    limits = {
        name: options[name]
        for name in ("max_perplexity_drift", "min_locality", "min_phrasings", "min_same_subject", "min_fluency")
        if options[name] is not None
    }
    try:
        made = Limits(**limits)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    policy = ConsolidationPolicy(namespaces=options["namespaces"] or ("default",), authors=options["authors"] or None)
    return {
        "policy": policy, "limits": made, "force": options["force"], "retry": options["retry"], "method": options["method"],
        "probes": read_probes(options["probe"]) if options["probe"] else (), "settings": options["given"] or None,
    }  # fmt: skip


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
            f"Generation {done.generation} is live: {len(done.facts)} fact{'' if len(done.facts) == 1 else 's'}, weights {str(done.weights_hash)[:16]}.\n"
            f"  memory off: prompts {figures['efficacy']:.1%}, other phrasings {figures['phrasings']:.1%}, neighbours unchanged {figures['neighbours']:.1%}, "
            f"perplexity {figures['perplexity_drift']:+.2%}\n  report: {report}"
        )
    elif done.generation == 0:
        click.echo("No fact is left for the weights; the base is live again.")
    elif not done.broken:
        click.echo("No fact passed its check; all stay in memory.")
