"""Commands for direct use of the parametric editors: edit, stats, trace, locate. Heavy imports happen inside."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hybrid.editors import ADAPTERS, EDITORS
from hybrid.editors.published import typed
from stores.errors import Conflict

if TYPE_CHECKING:
    from hybrid.model import LanguageModel
    from stores.records import Fact


class EditGroup(click.Group):
    """`hybrid edit FILE` makes a delta; `hybrid edit show|apply|revert` are commands of their own."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ("-h", "--help")):
            args = ["make", *args]
        return super().parse_args(ctx, args)


def model_options(command: Callable[..., None]) -> Callable[..., None]:
    """--model, --device, --dtype and --json; the command gets a model that is not loaded yet as its first argument."""

    @click.option("--model", "name", default="pocket", show_default=True, help="Hugging Face causal model, by name or folder.")
    @click.option("--device", help="cpu, cuda, cuda:1, ...  [default: cuda if there is one]")
    @click.option("--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), help="Load the weights as this.  [default: as they are stored]")
    @click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")
    @wraps(command)
    def opened(name: str, device: str | None, dtype: str | None, as_json: bool, **options: Any) -> None:
        from hybrid.model import LanguageModel

        command(LanguageModel(name, device, dtype), as_json=as_json, **options)

    return opened


def settings(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    """`--set layers=3,4,5 --set lr=0.1` as a dictionary of texts; `hybrid.editors.published.typed` reads them."""
    made: dict[str, str] = {}
    for item in given:
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            raise click.BadParameter(f"{item!r}; write NAME=VALUE, such as layers=3,4,5")
        made[key.strip()] = value.strip()
    return made


def read_requests(file: Any, name: str, limit: int | None) -> list[Fact]:
    """Requests of a file, as facts without ids."""
    from hybrid.formats import read

    return [request.checked().to_fact("", "", "") for request in read(file, name, limit)]


@click.group(cls=EditGroup)
def edit() -> None:
    """Edit the weights directly: FILE of requests to a delta, with one of the published methods (options: `hybrid edit make --help`).

    \b
    Example:
      hybrid edit --list
      hybrid edit --advise
      hybrid edit --method memit facts.jsonl --set layers=1,2 --out my-delta
      hybrid edit show my-delta
      hybrid edit apply my-delta --out edited-model
      hybrid edit revert edited-model
    """


@edit.command("make", hidden=True)
@click.argument("file", type=click.File("r", encoding="utf-8"), required=False)
@click.option("--method", default="memit", show_default=True, help="An editor; see --list.")
@click.option("--set", "given", multiple=True, callback=settings, help="Override a setting: NAME=VALUE; may be repeated.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder of the delta.  [default: FILE's name and the method's]")
@click.option("--format", "form", default="hybrid", show_default=True, help="Format of FILE, as for add-facts.")
@click.option("--limit", type=click.IntRange(1), help="Only the first N records.")
@click.option("--onto", type=click.Path(exists=True, file_okay=False, path_type=Path), help="An adapter to go on with, of the same method; it stays as it is.")
@click.option("--list", "listing", is_flag=True, help="List the editors: paper, kind, what they need.")
@click.option("--advise", is_flag=True, help="Which method suits one fact, a batch, a stream, by what was measured.")
@click.option(
    "--table",
    "tables",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Measurements to advise by; may be repeated.  [default: pocket's]",
)
@model_options
def make(
    model: LanguageModel,
    file: Any,
    method: str,
    given: dict[str, str],
    out: Path | None,
    form: str,
    limit: int | None,
    onto: Path | None,
    listing: bool,
    advise: bool,
    tables: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Turn the requests in FILE (or - for standard input) into a delta, or into an adapter with the methods that add parameters.

    \b
    Example:
      hybrid edit --method rome facts.jsonl --out my-delta
    """
    if listing:
        rows = [{"method": key, "kind": e.kind, "paper": e.paper, "needs": e.needs} for key, e in {**EDITORS, **ADAPTERS}.items()]
        click.echo(json.dumps(rows) if as_json else "\n".join(f"{r['method']:<11}{r['kind']:<48}{r['paper']}  (needs {r['needs']})" for r in rows))
        return
    if advise:
        print_advice(model, tables, as_json)
        return
    if file is None:
        raise click.UsageError("name a FILE of requests, or --list, or --advise")
    from hybrid.editing import answers

    if onto is not None and method not in ADAPTERS:
        raise click.UsageError(f"--onto goes on with an adapter, and {method} makes a delta; put every fact into FILE instead")
    try:
        chosen = typed(method, given)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--set") from error
    requests = read_requests(file, form, limit)
    folder = out or Path(f"{Path(getattr(file, 'name', 'stdin')).stem.strip('<>')}-{method}")
    if folder.exists() and any(folder.iterdir()):
        known = "an adapter already" if (folder / "adapter.safetensors").exists() else "a delta already"
        held = known if (folder / "manifest.json").exists() else "other files"
        raise Conflict(f"{folder} holds {held}; choose another folder with --out")
    try:
        made, inside = _made(model, requests, method, chosen, onto)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    made.save(folder)
    with inside:
        said = answers(model, [request.cloze for request in requests])
    right = sum(text.startswith(request.target_new) for text, request in zip(said, requests, strict=True))
    kind = "adapter" if method in ADAPTERS else "delta"
    if as_json:
        click.echo(json.dumps({kind: str(folder), "method": method, "edits": len(requests), "answered": right, "seconds": round(made.seconds, 3)}))
        return
    click.echo(f"{method}: {right} of {len(requests)} prompts are now answered with their target; {made.seconds:.1f} s. The {kind} is in {folder}.")
    for request, text in zip(requests, said, strict=True):
        if not text.startswith(request.target_new):
            click.echo(f"  not yet: {request.cloze}  ->  {text}", err=True)
    use = f'hybrid ask "..." --adapter {folder}' if kind == "adapter" else f"hybrid edit apply {folder} --out edited-model"
    click.echo(f"See it: hybrid edit show {folder}    Use it: {use}")


def _made(model: LanguageModel, requests: list[Fact], method: str, chosen: dict[str, Any], onto: Path | None) -> tuple[Any, AbstractContextManager[None]]:
    """What a method makes, and a context in which the model has it."""
    if method in ADAPTERS:
        from hybrid.adapters.base import adapt, attached
        from stores.adapters import Adapter

        adapter = adapt(model, requests, method, onto=None if onto is None else Adapter.load(onto), **chosen)
        return adapter, attached(model, adapter)
    from hybrid.editing import applied
    from hybrid.editing import edit as make_delta

    delta = make_delta(model, requests, method, **chosen)
    return delta, applied(model, delta)


def print_advice(model: LanguageModel, files: tuple[Path, ...], as_json: bool) -> None:
    """`hybrid edit --advise`."""
    from hybrid.advice import GOOD, SHIPPED, Row, read, whose
    from hybrid.advice import advise as weigh

    tables = [read(file) for file in files or (SHIPPED,)]
    own, note = whose(tables, model.identity)
    advices = weigh([row for table in tables for row in table.rows])
    if as_json:
        click.echo(json.dumps({"model": str(model.identity), "measured_here": own, "note": note, "advice": [each.to_dict() for each in advices]}))
        return

    def figures(row: Row) -> str:
        shares = {"efficacy": row.efficacy, "other phrasings": row.phrasing, "neighbours kept": row.locality, "other text": row.text}
        said = ", ".join(f"{name} {100 * share:.0f}%" for name, share in shares.items() if share is not None)
        return f"{said}{'' if row.seconds is None else f', {row.seconds:.2g} s a fact'} ({row.facts} facts)"

    for each in advices:
        if each.best is None:
            click.echo(f"{each.workload:<10}not measured; facts that come one after another are safe in memory: hybrid add-fact")
            continue
        click.echo(f"{each.workload:<10}{each.best.method}: {figures(each.best)}")
        if each.alike:
            click.echo(f"{'':<10}as good, for all that was measured: {', '.join(row.method for row in each.alike)}")
        if each.fastest:
            click.echo(f"{'':<10}faster: {each.fastest.method}: {figures(each.fastest)}")
        if each.longer:
            click.echo(f"{'':<10}over more facts: {each.longer.method}: {figures(each.longer)}")
        last = each.longer or each.best
        if last.score < GOOD or not last.harmless:
            click.echo(f"{'':<10}none is good at it; such facts are safe in memory, for other phrasings too: hybrid add-fact")
        needs = EDITORS[each.best.method].needs if each.best.method in EDITORS else "nothing"
        if needs != "nothing" and not own:
            click.echo(f"{'':<10}{each.best.method} needs {needs} of your model first (hybrid stats)")
    click.echo(note, err=True)


@edit.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")
def show(folder: Path, as_json: bool) -> None:
    """What a delta changes or an adapter adds, and what it was made from.

    \b
    Example:
      hybrid edit show my-delta
    """
    import numpy as np

    from stores.adapters import Adapter, is_adapter
    from stores.deltas import Delta, Factors

    delta: Adapter | Delta = Adapter.load(folder) if is_adapter(folder) else Delta.load(folder)
    changes: list[dict[str, Any]] = []
    for name, change in delta.changes.items() if isinstance(delta, Delta) else ():
        dense = change.dense if isinstance(change, Factors) else change
        changes.append({"parameter": name, "rank": change.left.shape[1] if isinstance(change, Factors) else None, "norm": float(np.linalg.norm(dense))})
    added = [{"tensor": name, "shape": list(array.shape)} for name, array in (delta.tensors.items() if isinstance(delta, Adapter) else ())]
    if as_json:
        about = {
            "method": delta.method,
            "model": str(delta.model),
            "settings": dict(delta.settings),
            "changes": changes,
            "edits": [dict(e) for e in delta.edits],
        } | ({"adds": added} if added else {})
        click.echo(json.dumps(about, ensure_ascii=False))
        return
    click.echo(f"{delta.method}, {len(delta.edits)} edits, made for {delta.model} in {delta.seconds:.1f} s")
    click.echo("settings: " + ", ".join(f"{key}={value}" for key, value in delta.settings.items()))
    for row in changes:
        click.echo(f"  {row['parameter']}  " + (f"rank {row['rank']}" if row["rank"] else "dense") + f", Frobenius norm {row['norm']:.4g}")
    for row in added:
        click.echo(f"  {row['tensor']}  {' x '.join(map(str, row['shape']))}")
    for entry in delta.edits:
        click.echo(f"  {entry['prompt'].replace('{}', entry['subject'])} {entry['target_new']}   (loss {entry['loss']:.3f})")


@edit.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder of the edited model.")
@model_options
def apply(model: LanguageModel, folder: Path, out: Path, as_json: bool) -> None:
    """Write the model with a delta applied, as a folder that transformers loads; what was overwritten is kept beside it.

    \b
    Example:
      hybrid edit apply my-delta --out edited-model && hybrid ask "..." --model edited-model --store new-store
    """
    from hybrid.editing import write_edited
    from stores.adapters import is_adapter
    from stores.deltas import Delta

    if is_adapter(folder):
        raise click.UsageError(f'{folder} holds an adapter, which changes no weight; use it with hybrid ask "..." --adapter {folder}')
    names = write_edited(model, Delta.load(folder), out)
    if as_json:
        click.echo(json.dumps({"model": str(out), "changed": names}))
    else:
        click.echo(f"{out} holds {model.name} with {len(names)} weights changed. Undo: hybrid edit revert {out}")


@edit.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")
def revert(folder: Path, as_json: bool) -> None:
    """Put the original weights back into a folder that `edit apply` wrote, bit for bit.

    \b
    Example:
      hybrid edit revert edited-model
    """
    from hybrid.editing import revert_folder

    names = revert_folder(folder)
    click.echo(json.dumps({"model": str(folder), "restored": names}) if as_json else f"{len(names)} weights of {folder} are the original ones again.")


@click.command()
@click.option("--layers", help="Blocks to measure, such as 3,4,5.")
@click.option("--text", "source", help="A file with a text a line, a folder of .txt files, or a Hugging Face dataset name.")
@click.option("--samples", type=click.IntRange(1), default=100_000, show_default=True, help="Texts to read, at most.")
@model_options
def stats(model: LanguageModel, layers: str | None, source: str | None, samples: int, as_json: bool) -> None:
    """Measure what a model's layers see, which the editors need; without --text, list what has been measured.

    An interrupted run goes on where it was.

    \b
    Example:
      hybrid stats --model gpt2-xl --layers 13,14,15,16,17 --text wikipedia-sample.txt
      hybrid stats
    """
    from hybrid.statistics import collect, describe

    if (source is None) != (layers is None):
        raise click.UsageError("say which blocks to measure: --layers 3,4,5" if layers is None else "say what to read: --text FILE")
    if source is not None and layers is not None:
        try:
            blocks = tuple(int(part) for part in layers.split(","))
        except ValueError as error:
            raise click.BadParameter(f"{layers!r}; write whole numbers, such as 3,4,5", param_hint="--layers") from error
        try:
            collect(model, blocks, source, samples=samples)
        except ValueError as error:
            raise click.UsageError(str(error)) from error
    rows = describe(model.identity.weights_hash)
    if as_json:
        click.echo(json.dumps(rows))
    elif not rows:
        click.echo(f"Nothing has been measured for {model.name}; give --text and --layers.")
    for row in rows if not as_json else ():
        click.echo(f"layer {row['layer']:>3}  {row['tokens']:>12,} tokens  {row['source']}  {row['file']}")


@click.command()
@click.argument("prompt")
@click.option("--subject", required=True, help="The subject, as it occurs in the prompt.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Where the heat map goes (PNG); the numbers go beside it as JSON.")
@click.option("--samples", type=click.IntRange(1), default=10, show_default=True, help="Draws of noise.")
@model_options
def trace(model: LanguageModel, prompt: str, subject: str, out: Path | None, samples: int, as_json: bool) -> None:
    """Causal tracing: which states carry the fact (Meng et al. 2022).

    \b
    Example:
      hybrid trace "The capital of France is" --subject France --out france.png
    """
    from hybrid.tracing import trace as run

    if out is not None:
        if out.suffix.lower() == ".json":
            raise click.BadParameter(f"{out} would hold both the picture and the numbers; write a name that ends in .png", param_hint="--out")
        out.parent.mkdir(parents=True, exist_ok=True)
    found = run(model, prompt, subject, samples=samples)
    if out is not None:
        found.plot(out)
        out.with_suffix(".json").write_text(json.dumps(found.to_dict(), ensure_ascii=False) + "\n", encoding="utf-8")
        click.echo(f"heat map: {out}   numbers: {out.with_suffix('.json')}", err=True)
    if as_json:
        click.echo(json.dumps(found.to_dict(), ensure_ascii=False))
        return
    click.echo(f"answer {found.answer!r}: probability {found.high:.3f}, {found.low:.3f} with the subject corrupted")
    for kind, scores in found.scores.items():
        token, layer = max(((t, x) for t in range(len(scores)) for x in range(len(scores[0]))), key=lambda at: scores[at[0]][at[1]])
        click.echo(f"  best {kind:<10} layer {layer}, token {found.tokens[token]!r}: {scores[token][layer]:.3f}")


@click.command()
@click.argument("file", type=click.File("r", encoding="utf-8"))
@click.option("--format", "form", default="hybrid", show_default=True, help="Format of FILE, as for add-facts.")
@click.option("--count", type=click.IntRange(1), default=3, show_default=True, help="How many layers to choose.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="Facts to trace, at most.")
@model_options
def locate(model: LanguageModel, file: Any, form: str, count: int, limit: int, as_json: bool) -> None:
    """Choose the layers to edit, from a FILE of facts that the model knows.

    They are remembered: rome, memit, alphaedit and emmet take them for this model from then on, unless a paper has settings for it, or --set says otherwise.

    \b
    Example:
      hybrid locate known-facts.jsonl --model ./my-model
    """
    from hybrid.editors.published import remember_located
    from hybrid.tracing import locate as run

    found = run(model, read_requests(file, form, limit), count=count)
    remember_located(model, found.layers)
    if as_json:
        click.echo(json.dumps(found.to_dict()))
        return
    peak = max([*found.effect, 1e-9])
    for layer, effect in enumerate(found.effect):
        click.echo(f"layer {layer:>3}  {effect:+.3f}  {'#' * round(40 * max(0.0, effect) / peak)}{'  <' if layer in found.layers else ''}")
    click.echo(f"{found.known} of {found.asked} facts are known. Remembered for this model; elsewhere: --set layers={','.join(map(str, found.layers))}")
    sys.stdout.flush()
