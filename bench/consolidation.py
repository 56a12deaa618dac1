"""Consolidation in ten batches, beside chained MEMIT and chained AlphaEdit.

    python bench/consolidation.py --counterfact FILE --out bench/results/consolidation.json --plot bench/results/consolidation.png

Facts of a flat CounterFact file that the model knows otherwise, in random order. *hybrid* adds a batch to a store and
consolidates: one solve over the whole set from the base. The chained editors apply a delta of each batch on top of the
earlier ones, as their authors' sequential settings do. After each batch every fact so far is asked again, with the memory
off: free greedy generation; right if it begins with the target as whole words. Neighbours must be answered as by the base, to the letter.
With the memory on, all facts so far are asked again, too. A second store takes all facts at once: the cost of a first run, and of one fact more.
"""

from __future__ import annotations

import json
import platform
import random
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import click
import torch
from output import write
from stores_compared import beside, given, same_set

from hybrid.architecture import Architecture
from hybrid.consolidation.checks import prose, says
from hybrid.consolidation.verify import perplexity
from hybrid.editing import answers as answers_of
from hybrid.editing import apply, edit
from hybrid.editors import editor_class
from hybrid.editors.published import settings_for
from hybrid.formats import flat
from hybrid.memory import HybridMemory
from hybrid.model import LanguageModel
from hybrid.request import Request
from policies.consolidation import Limits
from stores.errors import BadRequest, HybridError
from stores.records import Fact


@dataclass(frozen=True)
class Case:
    """A request with the file's paraphrase and neighbour."""

    request: Request
    paraphrase: str
    neighbour: str

    @property
    def fact(self) -> Fact:
        """The request as a fact."""
        return self.request.to_fact("", "bench", "")


def answers(model: LanguageModel, queries: Sequence[str]) -> list[str]:
    """Free generation; targets are short."""
    return answers_of(model, queries, max_new_tokens=20)


def drawn(model: LanguageModel, path: Path, count: int, seed: int) -> tuple[list[Case], int]:
    """Cases in random order: those to which the model gives the file's true answer, then others; and how many are of the first kind."""
    records = [r for r in json.loads(path.read_text(encoding="utf-8")) if r["prompt"].count(r["subject"]) == 1 and "{" not in r["prompt"]]
    rng = random.Random(f"consolidation/{seed}")
    rng.shuffle(records)
    subjects: set[str] = set()
    known: list[Case] = []
    others: list[Case] = []
    for start in range(0, len(records), 512):
        part = records[start : start + 512]
        for record, answer in zip(part, answers(model, [r["prompt"] for r in part]), strict=True):
            case = Case(flat(record).checked(), record["rephrase_prompt"], record["locality_prompt"])
            truth = Fact(id="", subject="", relation="", prompt="{}", target_new=record["ground_truth"])
            if says(answer, case.fact) or case.request.subject.casefold() in subjects:
                continue
            subjects.add(case.request.subject.casefold())
            (known if says(answer, truth) else others).append(case)
        if len(known) >= count:
            break
    cases = [*known[:count], *others[: max(0, count - len(known))]]
    rng.shuffle(cases)
    return cases, min(count, len(known))


class Board:
    """What the base says, and what any weights make of it."""

    def __init__(self, model: LanguageModel, cases: Sequence[Case], texts: Sequence[str]):
        self.model, self.texts = model, texts
        self.before = dict(zip([c.neighbour for c in cases], answers(model, [c.neighbour for c in cases]), strict=True))
        self.perplexity = perplexity(model, texts)
        self.arch = Architecture(model.model)
        self.norms = {layer: float(self.arch.weight(layer).double().norm()) for layer in range(len(self.arch))}

    def row(self, cases: Sequence[Case]) -> dict[str, Any]:
        """Shares, drift and the largest relative norm, with the weights as they are."""
        facts = [case.fact for case in cases]
        said = answers(self.model, [q for c in cases for q in (c.fact.cloze, c.paraphrase, c.neighbour)])
        kinds = {
            "efficacy": [says(text, fact) for text, fact in zip(said[::3], facts, strict=True)],
            "paraphrases": [says(text, fact) for text, fact in zip(said[1::3], facts, strict=True)],
            "neighbours": [text == self.before[case.neighbour] for text, case in zip(said[2::3], cases, strict=True)],
        }
        shares = {kind: round(sum(rights) / len(rights), 4) for kind, rights in kinds.items()}
        norm = max(float(self.arch.weight(layer).double().norm()) / base for layer, base in self.norms.items())
        return shares | {"perplexity_drift": round(perplexity(self.model, self.texts) / self.perplexity - 1, 5), "norm": round(norm, 5)}


def consolidated(board: Board, memory: HybridMemory, cases: Sequence[Case], batches: int, limits: Limits, method: str = "hybrid") -> list[dict[str, Any]]:
    """Batch after batch through a store."""
    rows = []
    for number, part in enumerate(split(cases, batches), start=1):
        list(memory.add_facts(case.request for case in part))
        started = time.perf_counter()
        done = memory.consolidate(force=True, limits=limits)
        seconds = time.perf_counter() - started
        so_far = [case for each in split(cases, batches)[:number] for case in each]
        memory.weights.refresh()
        row = {"method": method, "batch": number, "facts": len(so_far)} | board.row(so_far)
        asked = [memory.ask(case.fact.cloze) for case in so_far]
        row |= {
            "in_weights": len(memory.generations.in_live()), "memory_on": round(sum(says(a.text, c.fact) for a, c in zip(asked, so_far, strict=True)) / len(asked), 4),
            "routes": {route: sum(a.route == route for a in asked) for route in sorted({a.route for a in asked})},
            "weights_hash": memory.generations.live() and memory.generations.manifest(memory.generations.live()).weights_hash,
            "weight": done.rounds[-1]["weight"] if done.rounds else None, "checked": done.verification.figures() if done.verification else None,
            "rounds": len(done.rounds), "left_out": reasons(done.dropped.values()), "broken": len(done.broken), "seconds": round(seconds, 2), "steps": done.seconds,
        }  # fmt: skip
        rows.append(row)
        click.echo(json.dumps(row), err=True)
    return rows


def chained(board: Board, name: str, cases: Sequence[Case], batches: int, method: str) -> list[dict[str, Any]]:
    """Delta on delta, on a model of its own: MEMIT with the layer and values of a consolidation by it, others with their own: there AlphaEdit
    said none of 20 prompts."""
    model = LanguageModel(name)
    names = {field.name for field in fields(editor_class(method))} if method == "memit" else set()
    settings = {key: value for key, value in settings_for("consolidation", model).items() if key in names}
    board = Board(model, cases, board.texts)
    rows, so_far = [], list[Case]()
    for number, part in enumerate(split(cases, batches), start=1):
        so_far += part
        started = time.perf_counter()
        facts, failed = [case.fact for case in part], None
        while facts:
            try:
                apply(model, edit(model, facts, method, **settings))
                break
            except BadRequest as error:  # the chain gives a target already
                gone = int(str(error).split()[1]) - 1
                facts = facts[:gone] + facts[gone + 1 :]
            except HybridError as error:
                failed = str(error)
                break
        row = {"method": f"chained {method}", "batch": number, "facts": len(so_far)} | board.row(so_far)
        rows.append(row | {"seconds": round(time.perf_counter() - started, 2)} | ({"failed": failed} if failed else {}))
        click.echo(json.dumps(rows[-1]), err=True)
    return rows


def at_once(cases: Sequence[Case], name: str, folder: Path, limits: Limits, other: HybridMemory) -> dict[str, Any]:
    """A second store, filled in another order: the first run, one fact more, that fact forgotten; and how far its weights are from the other's."""
    with HybridMemory(folder, model=name, author="bench") as memory:
        list(memory.add_facts(case.request for case in cases[:-1][::-1]))
        _ = memory.index, memory.model.model
        started = time.perf_counter()
        memory.consolidate(force=True, limits=limits)
        first = time.perf_counter() - started
        live = memory.generations.live()
        before = memory.generations.manifest(live).weights_hash if live else None
        added = next(iter(memory.add_facts([cases[-1].request]))).fact
        started = time.perf_counter()
        memory.consolidate(force=True, limits=limits)
        one = time.perf_counter() - started
        found: dict[str, Any] = {
            "facts": len(cases) - 1,
            "first_run_seconds": round(first, 2),
            "one_more_seconds": round(one, 2),
            "share": round(one / first, 4),
        }
        found["other_store"] = {"facts": {"one": len(memory.generations.in_live()), "other": len(other.generations.in_live())}}
        if other.generations.live() and memory.generations.live():
            found["other_store"] |= same_set(memory, other)
        found["beside"] = beside(memory, [case.fact.cloze for case in cases[:20]], folder.parent / "copy")
        with_it = added.id in memory.generations.in_live()
        memory.forget(added.id)
        memory.consolidate(force=True, limits=limits)
        live = memory.generations.live()
        after = memory.generations.manifest(live).weights_hash if live else None
        return found | {"one_more_in_weights": with_it, "hash_back_after_forgetting": before == after}


def reasons(dropped: Iterable[str]) -> dict[str, int]:
    """How often each reason, without the sentences that it quotes and its figures: those are the file's."""
    return dict(Counter(re.sub(r"-?\+?\d[\d.]*%?", "N", re.sub(r"(, such as | )(['\"]).*\2", "", each)) for each in dropped).most_common())


def split(cases: Sequence[Case], batches: int) -> list[list[Case]]:
    """Batches of as equal size as can be."""
    return [list(part) for part in (cases[len(cases) * i // batches : len(cases) * (i + 1) // batches] for i in range(batches)) if part]


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """The headline figure: four measures over the batches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6.5), layout="constrained")
    FigureCanvasAgg(figure)
    titles = {
        "efficacy": "prompts answered with the target",
        "neighbours": "neighbours unchanged",
        "norm": "weight norm, relative to base",
        "perplexity_drift": "perplexity drift",
    }
    colours = dict(zip(sorted({row["method"] for row in rows}), ("#cc6677", "#ddaa33", "#4477aa", "#88ccee"), strict=False))
    for axes, (measure, title) in zip(figure.subplots(2, 2).flat, titles.items(), strict=True):
        for method, colour in colours.items():
            mine = [row for row in rows if row["method"] == method]
            axes.plot([row["facts"] for row in mine], [row[measure] for row in mine], "o-", color=colour, label=method)
        axes.set_title(title)
        axes.set_xlabel("facts")
        if measure == "perplexity_drift":
            axes.set_yscale("symlog", linthresh=0.01)
        axes.grid(alpha=0.3)
    figure.axes[0].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


@click.command()
@click.option("--counterfact", type=click.Path(exists=True, path_type=Path), required=True, help="CounterFact records, flat JSON.")
@click.option("--model", "name", default="pocket", show_default=True)
@click.option("--count", default=200, show_default=True)
@click.option("--batches", default=10, show_default=True)
@click.option("--seed", default=1, show_default=True)
@click.option("--texts", type=click.Path(exists=True, path_type=Path), help="JSON list of texts for perplexity, instead of the project's own.")
@click.option("--min-phrasings", default=Limits.min_phrasings, show_default=True)
@click.option("--min-locality", default=Limits.min_locality, show_default=True)
@click.option("--min-same-subject", default=Limits.min_same_subject, show_default=True)
@click.option("--max-perplexity-drift", default=Limits.max_perplexity_drift, show_default=True)
@click.option("--chain", default="memit,alphaedit", show_default=True, help="Editors to chain beside it; nothing for none.")
@click.option("--loose", metavar="DRIFT,LOCALITY", help="The same batches again within these limits, with the values of the first store.")
@click.option("--values", type=click.Path(exists=True, path_type=Path), help="values.db of an earlier run; the batches' seconds are then without values.")
@click.option("--at-once", "at_once_count", default=0, help="Facts of the second store; all of them if 0, and no such store if negative.")
@click.option("--out", type=click.Path(path_type=Path))
@click.option("--plot", "picture", type=click.Path(path_type=Path))
def main(
    counterfact: Path,
    name: str,
    count: int,
    batches: int,
    seed: int,
    texts: Path | None,
    chain: str,
    loose: str | None,
    values: Path | None,
    at_once_count: int,
    out: Path | None,
    picture: Path | None,
    **limits: float,
) -> None:
    """Consolidate in batches, beside the chained editors."""
    prose_of: Callable[[Any], str] = lambda row: row["Text"] if isinstance(row, dict) else row  # noqa: E731
    own = list(prose()) if texts is None else [prose_of(row) for row in json.loads(texts.read_text(encoding="utf-8"))]
    result: dict[str, Any] = {
        "command": f"python bench/consolidation.py --count {count} --batches {batches} --seed {seed} --chain {chain}" + (f" --loose {loose}" if loose else "") + (f" --at-once {at_once_count}" if at_once_count else "") + (" --values values.db" if values else ""),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads", "limits": vars(Limits(**limits)), "rows": [],
    }  # fmt: skip
    with (
        tempfile.TemporaryDirectory() as folder,
        HybridMemory(given(values, Path(folder) / "batches") if values else Path(folder) / "batches", model=name, author="bench") as memory,
    ):
        cases, known = drawn(memory.model, counterfact, count, seed)
        result |= {"model": str(memory.model.identity), "facts": len(cases), "known_otherwise": known}
        board = Board(memory.model, cases, own)
        result["rows"] += consolidated(board, memory, cases, batches, Limits(**limits))
        write(out, result, echo=False)
        if loose:
            drift, locality = (float(part) for part in loose.split(","))
            other = replace(Limits(**limits), max_perplexity_drift=drift, min_locality=locality)
            memory.weights.release()
            with HybridMemory(given(memory.folder / "values.db", Path(folder) / "loose"), model=name, author="bench") as looser:
                result["rows"] += consolidated(
                    Board(looser.model, cases, own), looser, cases, batches, other, f"hybrid, drift {drift:.0%}, locality {locality:.0%}"
                )
            write(out, result, echo=False)
        if at_once_count >= 0:
            result["at_once"] = at_once(cases[: at_once_count or len(cases)], name, Path(folder) / "once", Limits(**limits), memory)
            write(out, result, echo=False)
    for method in filter(None, chain.split(",")):
        result["rows"] += chained(board, name, cases, batches, method)
        write(out, result, echo=False)
    if picture:
        plot(result["rows"], picture)
    write(out, result, echo=out is None)


if __name__ == "__main__":
    main()
