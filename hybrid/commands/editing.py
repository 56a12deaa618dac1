"""Commands for direct use of the parametric editors: edit. Heavy imports happen inside."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hybrid.commands.options import model_options, read_requests, settings
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
