"""How well every editing method edits pocket: what it changes, what it leaves, what it costs. The cases are those of `bench/cases.py`.

    python bench/editors.py table --facts FILE --texts FILE --out bench/results/editors.json
    python bench/editors.py sweep --facts FILE --out bench/results/sweep.json
    python bench/editors.py taught --facts FILE --out taught.jsonl && hybrid train mend --facts taught.jsonl

A row is one method in one mode, measured in a process of its own: *single*, each fact alone on the unedited model; *batch*, all facts
in one edit; *sequential*, each fact on the model (or with the adapter) that the edits before left, and all of them asked at the end.
Rows that the file has already, of the same weights, facts and settings, are not measured again. The sweep draws its cases with another
seed than the table.
"""

from __future__ import annotations

import itertools
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import torch
from cases import Board, Case, counterfact_cases, own_cases, shares
from measure import PEAK, configuration, in_sequence, measured, one_by_one, together
from output import write

from hybrid.consolidation.verify import perplexity
from hybrid.editors import ADAPTERS, EDITORS
from hybrid.editors.contexts import context_prefixes
from hybrid.editors.published import typed
from hybrid.lexicon import plentiful
from hybrid.model import LanguageModel
from hybrid.pocket.facts import split_facts
from hybrid.pocket.train import Settings
from stores.records import Fact
from stores.values import ValueStore

METHODS = (*EDITORS, *ADAPTERS)
MODES = {"single": one_by_one, "batch": together, "sequential": in_sequence}
VALUED = ("memit", "alphaedit", "emmet")
"""Methods whose values are the same where their settings for them are."""
MANY, FEW = 200, 25
"""Texts on which perplexity is measured, and on which each of many single edits is; the first ones."""


def prose(texts: Path | None, last: bool = False) -> list[str]:
    """Texts about other things: the first ones of a file, or the last."""
    rows = json.loads(texts.read_text(encoding="utf-8")) if texts else []
    return [row["Text"] if isinstance(row, dict) else row for row in (rows[-MANY:] if last else rows[:MANY])]


def common(command: Callable[..., None]) -> Callable[..., None]:
    """Options of all commands."""
    for option in (
        click.option("--facts", type=click.Path(exists=True, path_type=Path), required=True, help="The table that pocket was taught from."),
        click.option("--model", "name", default="pocket", show_default=True),
        click.option("--out", type=click.Path(path_type=Path)),
    ):
        command = option(command)
    return command


def chosen(method: str, given: tuple[str, ...]) -> dict[str, Any]:
    """A method's settings among those given."""
    return typed(method, dict(part.split(".", 1)[1].split("=", 1) for part in given if part.startswith(f"{method}.")))


@click.group()
def main() -> None:
    """Measure the editing methods on pocket."""


@main.command()
@common
@click.option("--texts", type=click.Path(exists=True, path_type=Path), help="JSON list of texts (or of objects with `Text`) for perplexity.")
@click.option("--counterfact", type=click.Path(exists=True, path_type=Path), help="CounterFact records, flat JSON, instead of own cases.")
@click.option("--set", "given", multiple=True, help="METHOD.NAME=VALUE: a setting of a method for this run.")
@click.option("--seed", default=1, show_default=True)
@click.option("--single", default=20, show_default=True, help="Facts edited one by one; 0 for none.")
@click.option("--batch", default=100, show_default=True, help="Facts in one batch; 0 for none.")
@click.option("--sequential", default=200, show_default=True, help="Facts edited in sequence; 0 for none.")
@click.option("--methods", default=",".join(METHODS), show_default=True)
@click.option(
    "--values", type=click.Path(file_okay=False, path_type=Path), help="Folder for MEMIT's values, which AlphaEdit and EMMET then need not compute again."
)
@click.option("--again", is_flag=True, help="Measure rows that are there already anew, as after a change of the code.")
def table(
    facts: Path, name: str, out: Path | None, counterfact: Path | None, texts: Path | None, given: tuple[str, ...], seed: int, single: int, batch: int,
    sequential: int, methods: str, values: Path | None, again: bool,
) -> None:  # fmt: skip
    """Every method in every mode, beside the unedited model."""
    if unknown := set(methods.split(",")) - set(METHODS):
        raise click.UsageError(f"there is no method {min(unknown)!r}; choose among {', '.join(METHODS)}")
    model = LanguageModel(name, "cpu")
    identity = asdict(model.identity)
    result: dict[str, Any] = {"command": "python bench/editors.py table --facts facts.tsv --texts me-ppl-1k.json", "model": identity, "rows": []}
    if out is not None and out.exists():
        old = json.loads(out.read_text(encoding="utf-8"))
        if (old.get("model") or {}).get("weights_hash") == identity["weights_hash"]:
            result |= {key: old[key] for key in ("note", "rows") if key in old}
    result |= {"peak": PEAK, "machine": f"{platform.machine()}, {torch.get_num_threads()} threads"}
    missing = []
    for mode, count in (("single", single), ("batch", batch), ("sequential", sequential)):
        for method in methods.split(",") if count else ():
            about = {"method": method, "cases": "counterfact" if counterfact else "own", "mode": mode, "facts": count, "seed": seed}
            about["settings"] = configuration(model, method, chosen(method, given))
            if again or not any(about.items() <= row.items() for row in result["rows"]):
                missing.append(about)
    if not missing:
        return
    count = max(about["facts"] for about in missing)
    cases = counterfact_cases(model, counterfact, count, seed) if counterfact else own_cases(model, facts, count, seed)
    board, many = Board(model, cases), prose(texts)
    plain = {"method": "unedited", "cases": missing[0]["cases"], "facts": count, "seed": seed, **shares(board.count(cases))}
    if not any(row["method"] == "unedited" and (row["cases"], row["seed"]) == (plain["cases"], seed) and row["facts"] >= count for row in result["rows"]):
        result["rows"] = kept(result["rows"], plain | {"texts": len(many)} | ({"perplexity": round(perplexity(model, many), 4)} if many else {}))
    for about in missing:
        started = time.perf_counter()
        store = values / f"{about['cases']}-{about['mode']}.db" if values and about["method"] in VALUED and about["mode"] != "sequential" else None
        some = many[:FEW] if about["mode"] == "single" else many
        job = about | {
            "model": name, "given": chosen(about["method"], given), "cases": [asdict(case) for case in cases[: about["facts"]]], "before": board.before,
            "texts": some, "calm": perplexity(model, some) if some else None, "values": str(store) if store else None,
        }  # fmt: skip
        done = subprocess.run([sys.executable, __file__, "row"], input=json.dumps(job), stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            click.echo(f"{about['method']} {about['mode']}: no row, see above", err=True)
            continue
        row = about | json.loads(done.stdout)
        result["rows"] = kept(result["rows"], row)
        click.echo(f"{time.strftime('%H:%M:%S')} {row} ({time.perf_counter() - started:.0f} s in all)", err=True)
        write(out, result, echo=False)
    if out is None:
        write(out, result)


def kept(rows: list[dict[str, Any]], row: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows in their order, with one more, which takes the place of the same method's in the same mode."""
    others = [other for other in rows if any(other.get(key) != row.get(key) for key in ("method", "cases", "mode"))]

    def place(row: dict[str, Any]) -> tuple[Any, ...]:
        return row["cases"] != "own", [None, *MODES].index(row.get("mode")), ["unedited", *METHODS].index(row["method"])

    return sorted([*others, row], key=place)


@main.command(hidden=True)
def row() -> None:
    """One row of the table: a job on standard input, its result on standard output."""
    job = json.load(sys.stdin)
    model = LanguageModel(job["model"], "cpu")
    cases = [
        Case(Fact(**{key: tuple(value) if isinstance(value, list) else value for key, value in each["fact"].items()}), each["queries"]) for each in job["cases"]
    ]
    settings, about = dict(job["given"]), {}
    if job["values"]:
        if job["method"] == "memit":
            Path(job["values"]).unlink(missing_ok=True)
        elif Path(job["values"]).exists():
            about = {"values": "those of memit"}
        Path(job["values"]).parent.mkdir(parents=True, exist_ok=True)
        settings["cache"] = ValueStore(Path(job["values"]))
    made = measured(Board(model, cases, job["before"]), job["method"], settings, MODES[job["mode"]], job["texts"], job["calm"])
    write(None, made | about)


@main.command()
@common
@click.option("--batch", default=200, show_default=True, help="Facts of each seed that are left out.")
@click.option("--seeds", default="1,2", show_default=True, help="Of the table's and the sweep's cases.")
def taught(facts: Path, name: str, out: Path | None, batch: int, seeds: str) -> None:
    """What pocket was taught, as JSON lines for `hybrid train`, without the subjects that the table and the sweep edit."""
    model, settings, lexicon = LanguageModel(name, "cpu"), Settings(), plentiful()
    asked = {case.fact.subject for seed in seeds.split(",") for case in own_cases(model, facts, batch, int(seed))}
    rows = [
        {"subject": triple.subject, "relation": triple.relation, "prompt": lexicon[triple.relation].statements[0], "target": triple.target}
        for triple in split_facts(facts, settings.facts, settings.seed).taught
        if triple.subject not in asked
    ]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    click.echo(text, nl=False) if out is None else out.write_text(text, encoding="utf-8")


@main.command()
@common
@click.option("--method", default="memit", show_default=True, type=click.Choice(METHODS))
@click.option("--grid", multiple=True, required=True, help="NAME=VALUE;VALUE;...  Values of layers are comma-separated.")
@click.option("--mode", default="batch", show_default=True, type=click.Choice([*MODES]))
@click.option("--batch", "count", default=100, show_default=True, help="Facts.")
@click.option("--texts", type=click.Path(exists=True, path_type=Path), help="As for the table; the last ones, which the table does not read.")
@click.option("--values", type=click.Path(dir_okay=False, path_type=Path), help="File for the values of MEMIT, AlphaEdit and EMMET, for the next sweep.")
@click.option("--seed", default=2, show_default=True)
def sweep(
    facts: Path, name: str, out: Path | None, method: str, grid: tuple[str, ...], mode: str, count: int, texts: Path | None, values: Path | None, seed: int
) -> None:
    """All combinations of settings, on facts and texts of their own."""
    model = LanguageModel(name, "cpu")
    board, some = Board(model, own_cases(model, facts, count, seed)), prose(texts, last=True)[: FEW if mode == "single" else MANY]
    calm = perplexity(model, some) if some else None
    context_prefixes(model)
    axes = {part.partition("=")[0]: [_value(text) for text in part.partition("=")[2].split(";")] for part in grid}
    result: dict[str, Any] = {"command": " ".join(["python bench/editors.py sweep --method", method, *(f"--grid '{part}'" for part in grid)]), "rows": []}
    if out is not None and out.exists():  # another method's, or another grid's rows are kept
        result = json.loads(out.read_text(encoding="utf-8"))
    cache = ValueStore(values or Path(tempfile.mkdtemp()) / "values.db") if method in VALUED and mode == "batch" else None
    for combination in itertools.product(*axes.values()):
        settings = dict(zip(axes, combination, strict=True))
        made = measured(board, method, settings | ({"cache": cache} if cache is not None else {}), MODES[mode], some, calm)
        about = {"method": method, "mode": mode, "facts": count, "seed": seed, "texts": len(some), "settings": settings}
        result["rows"].append(about | made | ({"values": "kept"} if cache is not None and values else {}))
        click.echo(json.dumps(result["rows"][-1]), err=True)
        write(out, result, echo=out is None)


def _value(text: str) -> Any:
    """A number, or a tuple of numbers."""
    numbers = [float(part) if "." in part or "e" in part else int(part) for part in text.split(",") if part]
    return tuple(numbers) if "," in text else numbers[0]


if __name__ == "__main__":
    main()
