"""Commands that look into a model: stats, trace, locate. Heavy imports happen inside."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hybrid.commands.options import model_options, read_requests

if TYPE_CHECKING:
    from hybrid.model import LanguageModel


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
