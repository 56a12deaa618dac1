"""`hybrid eval`: a benchmark file asked of one method, and the comparison of results. Heavy imports happen inside."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hybrid.commands.options import settings
from stores.errors import NotFound

if TYPE_CHECKING:
    from hybrid.model import LanguageModel

FORMATS = "counterfact, counterfact-flat, zsre, zsre-mend, knowedit, mquake, cf-hard, fever, qaedit or scope"


class EvalGroup(click.Group):
    """`hybrid eval FILE` runs an evaluation; `hybrid eval compare` is a command of its own."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ("-h", "--help")):
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group("eval", cls=EvalGroup)
def evaluation() -> None:
    """Measure a method on a benchmark FILE: all edits are made, then everything is asked (options: `hybrid eval run --help`).

    \b
    Example:
      hybrid eval counterfact.json --format counterfact --method hybrid --limit 200 --out hybrid.json
      hybrid eval counterfact.json --format counterfact --method rag --limit 200 --out rag.json
      hybrid eval compare hybrid.json rag.json --out report
    """


@evaluation.command("run", hidden=True)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--format", "form", required=True, help=f"{FORMATS}.")
@click.option(
    "--method", default="hybrid", show_default=True, help="hybrid, base, ike, counterfactual, rag, cosine, serac, or an editor of `hybrid edit --list`."
)
@click.option("--limit", type=click.IntRange(1), help="So many records, drawn with --seed.  [default: all]")
@click.option("--seed", default=0, show_default=True, help="Of the draw.")
@click.option("--batch", "mode", flag_value="batch", default=True, help="All edits together, then everything is asked.  [default]")
@click.option("--sequential", "mode", flag_value="sequential", help="One edit after another on what the last one left, then everything is asked.")
@click.option("--single", "mode", flag_value="single", help="Each record alone; everything is reset in between.")
@click.option("--loads", metavar="FILE|N", help="Extra facts beside the records': a file in the project's format, or N invented ones.")
@click.option("--model", "name", default="pocket", show_default=True, help="Hugging Face causal model, by name or folder.")
@click.option("--embedder", help="sentence-transformers model.  [default: all-MiniLM-L6-v2]")
@click.option("--device", help="cpu, cuda, ...  [default: cuda if there is one]")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), help="Load the weights as this.")
@click.option("--top-k", type=click.IntRange(1), default=5, show_default=True, help="rag: facts before every query.")
@click.option(
    "--threshold", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.57, show_default=True, help="cosine, serac: from which a fact fires."
)
@click.option("--counterfactual-model", default="shipped", show_default=True, help="counterfactual, serac: who reads facts, by name or folder.")
@click.option("--set", "given", multiple=True, callback=settings, help="Override a setting of an editor: NAME=VALUE; may be repeated.")
@click.option(
    "--values", type=click.Path(dir_okay=False, path_type=Path), help="File in which memit, alphaedit and emmet keep their values, for each other's runs, too."
)
@click.option("--max-new-tokens", type=click.IntRange(1), default=48, show_default=True)
@click.option("--probabilities/--no-probabilities", default=True, show_default=True, help="The papers' ES, PS, NS and S, too.")
@click.option(
    "--extras/--no-extras", default=True, show_default=True, help="Ask distractor-prefixed neighbours and unrelated texts, too (in slices, not in scores)."
)
@click.option("--hops/--no-hops", default=True, show_default=True, help="mquake: give the hops that no edit changed as facts.")
@click.option("--fluency", type=click.IntRange(0), default=100, show_default=True, help="Records whose generation prompts are continued, at most.")
@click.option("--skip-invalid", is_flag=True, help="Leave out records that cannot be read, and count them, instead of stopping at the first.")
@click.option("--run", "folder", type=click.Path(file_okay=False, path_type=Path), help="Folder of the run.  [default: in the cache, by what is asked]")
@click.option("--resume", is_flag=True, help="Go on with an interrupted run.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the result as JSON, for `compare`.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")
def run(
    file: Path, form: str, name: str, device: str | None, dtype: str | None, given: dict[str, str], folder: Path | None, resume: bool, out: Path | None,
    values: Path | None, as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Measure one method on one benchmark FILE (JSON, or JSON lines).

    Free generation with a natural stop and alias match is the main score; the papers' probability scores stand beside it. Locality is an answer
    identical to the unedited model's. Every score has a 95% interval from a bootstrap over records.

    \b
    Example:
      hybrid eval zsre.json --format zsre --method hybrid --limit 300 --seed 1 --json
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from hybrid.evaluation.methods import check_method
    from hybrid.evaluation.run import Evaluation, Plan
    from hybrid.model import LanguageModel

    check_method(options["method"])
    plan = Plan(file=file, format=form, editor=_editor(options["method"], given), **_checked(options))
    model = LanguageModel(name, device, dtype)
    made = Evaluation(plan, model, folder or _folder(plan, model), resume=resume, values=values)
    if made.replaced:
        click.echo("an earlier run of the same was thrown away; --resume would have gone on with it", err=True)
    _counts(made)
    try:
        result = made.run()
    except KeyboardInterrupt:
        click.echo(f"\ninterrupted; what was finished is in {made.folder}. Go on: the same command with --resume", err=True)
        sys.exit(1)
    text = json.dumps(result, ensure_ascii=False, default=str)
    for path in (made.folder / "result.json", out):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n", encoding="utf-8")
    if as_json:
        click.echo(text)
        return
    from hybrid.evaluation.compare import summary

    click.echo(summary(result))
    click.echo(f"run: {made.folder}", err=True)


def _checked(options: dict[str, Any]) -> dict[str, Any]:
    loads = options["loads"]
    if loads is not None and not loads.isdigit() and not Path(loads).is_file():
        raise NotFound(f"--loads {loads!r} is neither a number nor a file")
    return options


def _editor(method: str, given: dict[str, str]) -> dict[str, Any]:
    from hybrid.editors import ADAPTERS, EDITORS
    from hybrid.editors.published import typed

    if not given:
        return {}
    if method not in {**EDITORS, **ADAPTERS}:
        raise click.BadParameter(f"{method} has no settings; it is for the parametric editors", param_hint="--set")
    try:
        return typed(method, given)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--set") from error


def _folder(plan: Any, model: LanguageModel) -> Path:
    """A folder of the user's cache, by what is asked."""
    import platformdirs

    root = Path(os.environ.get("HYBRID_CACHE") or platformdirs.user_cache_dir("hybrid-memory"))
    about = hashlib.sha256(json.dumps([str(plan), str(plan.file.resolve()), model.identity.weights_hash]).encode()).hexdigest()
    return root / "evaluations" / f"{plan.file.stem}-{plan.method}-{about[:12]}"


def _counts(made: Any) -> None:
    case = made.case
    for count, what in (
        (case.invalid, "records could not be read and are left out"),
        (case.unanswerable, "portability queries have no answer and are left out"),
        (case.guessed, "records do not name their subject as it stands in the prompt; the words that both share were taken"),
    ):
        if count:
            click.echo(f"{count} {what}", err=True)


@evaluation.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder for the plots (PNG) and a page (HTML) that shows them.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")
def compare(files: tuple[Path, ...], out: Path | None, as_json: bool) -> None:
    """One table of several results, and plots of them.

    \b
    Example:
      hybrid eval compare base.json rag.json hybrid.json --out report
    """
    from hybrid.evaluation.compare import differences, read, report, table

    results = [read(path) for path in files]
    for line in differences(results):
        click.echo(f"not alike: {line}", err=True)
    if out is not None:
        for path in report(results, out):
            click.echo(str(path), err=True)
    rows = [
        {"file": str(path), **{key: r[key] for key in ("method", "model", "records", "scores", "routing", "timings")}}
        for path, r in zip(files, results, strict=True)
    ]
    click.echo(json.dumps(rows, ensure_ascii=False) if as_json else table(results))
