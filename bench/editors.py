"""How well the editors edit pocket: what they change, and what they leave.

    python bench/editors.py table --facts FILE --counterfact FILE --texts FILE --out bench/results/editors.json
    python bench/editors.py sweep --facts FILE --out bench/results/sweep.json
    python bench/editors.py taught --facts FILE --out taught.jsonl && hybrid train mend --facts taught.jsonl

Own cases: facts that the unedited model gives, with another target of their relation. A request has a prompt and two questions of the lexicon, as a
stored fact does; what is asked are other questions and held-out wording. Free greedy generation; an edit counts when
the answer is the target, a neighbour (same relation, other subject) when its answer is the unedited model's, to the letter. The sweep
draws its cases with another seed than the table.
"""

from __future__ import annotations

import itertools
import json
import platform
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from output import write
from tqdm import tqdm

from hybrid.consolidation.verify import perplexity
from hybrid.editing import answers as answers_of
from hybrid.editing import applied, edit
from hybrid.editors import EDITORS
from hybrid.editors.contexts import context_prefixes
from hybrid.editors.published import typed
from hybrid.lexicon import fill, plentiful
from hybrid.model import LanguageModel
from hybrid.pocket.facts import split_facts
from hybrid.pocket.train import Settings
from stores.records import Fact
from stores.values import ValueStore


@dataclass(frozen=True)
class Case:
    """A request, and the queries that show what it did; each list may be empty."""

    fact: Fact
    queries: dict[str, list[str]]
    """"phrasings", "questions" and the like get the target, "neighbours" keep their answers."""

    @property
    def all(self) -> list[tuple[str, str]]:
        """(kind, query), the request's own prompt first."""
        return [("efficacy", self.fact.cloze), *((kind, query) for kind, queries in self.queries.items() for query in queries)]


def answers(model: LanguageModel, queries: Sequence[str]) -> list[str]:
    """Free generation; targets are short."""
    return answers_of(model, queries, max_new_tokens=20)


def own_cases(model: LanguageModel, facts: Path, count: int, seed: int) -> list[Case]:
    """Counterfactual cases from what the model was taught and gives."""
    settings = Settings()
    taught = split_facts(facts, settings.facts, settings.seed).taught
    rng, lexicon = random.Random(f"editors/{seed}"), plentiful()
    by_relation: dict[str, list[Any]] = {}
    for triple in taught:
        by_relation.setdefault(triple.relation, []).append(triple)
    drawn = rng.sample(taught, 3 * count)
    prompts = [rng.choice(lexicon[triple.relation].statements) for triple in drawn]
    said = answers(model, [fill(prompt, triple.subject) for prompt, triple in zip(prompts, drawn, strict=True)])
    cases: list[Case] = []
    for triple, prompt, answer in zip(drawn, prompts, said, strict=True):
        relation, others = lexicon[triple.relation], [t for t in by_relation[triple.relation] if t.target != triple.target and t.subject != triple.subject]
        if answer != triple.target or len(others) < 3 or any(case.fact.subject == triple.subject for case in cases):
            continue
        target, *near = rng.sample(others, 3)
        queries = {
            "phrasings": rng.sample(relation.held_out_statements, 2),
            "questions": rng.sample(relation.questions[2:], 1),
            "held-out questions": rng.sample(relation.held_out_questions, 1),
        }
        asked = {kind: [fill(template, triple.subject) for template in templates] for kind, templates in queries.items()}
        asked["neighbours"] = [fill(rng.choice(relation.statements), other.subject) for other in near]
        known = tuple(fill(question, triple.subject) for question in relation.questions[:2])  # as the store has them
        fact = Fact(id="", subject=triple.subject, relation=relation.id, prompt=prompt, target_new=target.target, questions=known)
        cases.append(Case(fact, asked))
    return cases[:count]


def counterfact_cases(path: Path, count: int, seed: int) -> list[Case]:
    """Flat CounterFact records: prompt, subject, target_new, rephrase_prompt, locality_prompt."""
    records = json.loads(path.read_text(encoding="utf-8"))
    random.Random(f"counterfact/{seed}").shuffle(records)
    cases = []
    for record in records:
        if record["prompt"].count(record["subject"]) == 1 and "{" not in record["prompt"]:
            prompt = record["prompt"].replace(record["subject"], "{}")
            fact = Fact(id="", subject=record["subject"], relation="counterfact", prompt=prompt, target_new=record["target_new"])
            cases.append(Case(fact, {"phrasings": [record["rephrase_prompt"]], "neighbours": [record["locality_prompt"]]}))
    return cases[:count]


class Board:
    """Counts what came of the queries."""

    def __init__(self, model: LanguageModel, cases: Sequence[Case]):
        self.model, self.cases = model, list(cases)
        flat = [(kind, query) for case in self.cases for kind, query in case.all]
        self.before = dict(zip([query for _, query in flat], answers(model, [query for _, query in flat]), strict=True))

    def count(self, cases: Sequence[Case]) -> dict[str, list[bool]]:
        """Right or wrong by kind, with the model as it is."""
        flat = [(case, kind, query) for case in cases for kind, query in case.all]
        found: dict[str, list[bool]] = {}
        for (case, kind, query), said in zip(flat, answers(self.model, [query for *_, query in flat]), strict=True):
            right = said == self.before[query] if kind == "neighbours" else said.startswith(case.fact.target_new)
            found.setdefault(kind, []).append(right)
        return found


def shares(found: dict[str, list[bool]]) -> dict[str, float]:
    """Rounded shares."""
    return {kind: round(sum(rights) / len(rights), 4) for kind, rights in found.items()}


def in_one_batch(board: Board, method: str, settings: dict[str, Any], texts: Sequence[str] = ()) -> dict[str, Any]:
    """All cases in one edit."""
    delta = edit(board.model, [case.fact for case in board.cases], method, **settings)
    with applied(board.model, delta):
        row = shares(board.count(board.cases))
        if texts:
            row["perplexity"] = round(perplexity(board.model, texts), 4)
    return row | {"seconds": round(delta.seconds, 2)}


def one_by_one(board: Board, method: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Each case edited alone, on the unedited model."""
    found: dict[str, list[bool]] = {}
    seconds = 0.0
    for case in tqdm(board.cases, desc=method, unit="edit", disable=None):
        delta = edit(board.model, [case.fact], method, **settings)
        seconds += delta.seconds
        with applied(board.model, delta):
            for kind, rights in board.count([case]).items():
                found.setdefault(kind, []).extend(rights)
    return shares(found) | {"seconds": round(seconds / len(board.cases), 3)}


def editable(model: LanguageModel, cases: Sequence[Case], count: int) -> list[Case]:
    """The first cases whose target the model does not give already."""
    said = answers(model, [case.fact.cloze for case in cases])
    return [case for case, text in zip(cases, said, strict=True) if not text.startswith(case.fact.target_new)][:count]


def save(out: Path | None, result: dict[str, Any]) -> None:
    """To the file, row by row, or standard output."""
    write(out, result | {"machine": f"{platform.machine()}, {torch.get_num_threads()} threads"}, echo=out is None)


def common(command: Callable[..., None]) -> Callable[..., None]:
    """Options of both commands."""
    for option in (
        click.option("--facts", type=click.Path(exists=True, path_type=Path), required=True, help="The table that pocket was taught from."),
        click.option("--model", "name", default="pocket", show_default=True),
        click.option("--out", type=click.Path(path_type=Path)),
        click.option("--batch", default=100, show_default=True, help="Facts in one batch."),
    ):
        command = option(command)
    return command


@click.group()
def main() -> None:
    """Measure the editors on pocket."""


@main.command()
@common
@click.option("--counterfact", type=click.Path(exists=True, path_type=Path), help="CounterFact records, flat JSON.")
@click.option("--texts", type=click.Path(exists=True, path_type=Path), help="JSON list of texts (or of objects with `Text`) for perplexity.")
@click.option("--single", default=50, show_default=True, help="Facts edited one by one.")
@click.option("--together/--no-together", default=True, help="Also all of them in one batch.")
@click.option("--methods", default=",".join(EDITORS), show_default=True)
@click.option("--set", "given", multiple=True, help="METHOD.NAME=VALUE: a setting of a method for this run.")
@click.option("--seed", default=1, show_default=True)
def table(
    facts: Path,
    name: str,
    out: Path | None,
    batch: int,
    counterfact: Path | None,
    texts: Path | None,
    single: int,
    together: bool,
    methods: str,
    given: tuple[str, ...],
    seed: int,
) -> None:
    """Every editor with its settings for pocket, beside the unedited model."""
    chosen = {method: typed(method, dict(part.split(".", 1)[1].split("=", 1) for part in given if part.startswith(f"{method}."))) for method in EDITORS}
    model = LanguageModel(name, "cpu")
    prose = [row["Text"] if isinstance(row, dict) else row for row in json.loads(texts.read_text(encoding="utf-8"))] if texts else []
    sets = {"own": own_cases(model, facts, batch, seed)}
    if counterfact:
        sets["counterfact"] = editable(model, counterfact_cases(counterfact, 3 * batch, seed), batch)
    more = "".join(f" --set {part}" for part in given) + ("" if together else " --no-together")
    result: dict[str, Any] = {"command": f"python bench/editors.py table --batch {batch} --single {single} --methods {methods} --seed {seed}{more}", "rows": []}
    for which, cases in sets.items():
        board = Board(model, cases)
        unedited = shares(board.count(cases)) | ({"perplexity": round(perplexity(model, prose), 4)} if prose else {})
        result["rows"].append({"method": "unedited", "cases": which, "facts": len(cases)} | unedited)
        for method in methods.split(","):
            started = time.perf_counter()
            rows = [{"mode": "batch", "facts": len(cases)} | in_one_batch(board, method, chosen[method], prose)] if together else []
            if single:
                few = Board(model, cases[:single])
                rows.append({"mode": "single", "facts": len(few.cases)} | one_by_one(few, method, chosen[method]))
            result["rows"] += [{"method": method, "cases": which} | row for row in rows]
            click.echo(f"{method} on {which}: {rows} ({time.perf_counter() - started:.0f} s)", err=True)
            save(out, result)


@main.command()
@common
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
@click.option("--method", default="memit", show_default=True)
@click.option("--grid", multiple=True, required=True, help="NAME=VALUE;VALUE;...  Values of layers are comma-separated.")
@click.option("--seed", default=2, show_default=True)
@click.option("--single/--together", default=False, help="Edit the facts one by one.")
def sweep(facts: Path, name: str, out: Path | None, batch: int, method: str, grid: tuple[str, ...], seed: int, single: bool) -> None:
    """All combinations of settings, on facts of their own."""
    model = LanguageModel(name, "cpu")
    board = Board(model, own_cases(model, facts, batch, seed))
    context_prefixes(model)
    axes = {part.partition("=")[0]: [_value(text) for text in part.partition("=")[2].split(";")] for part in grid}
    result: dict[str, Any] = {"command": " ".join(["python bench/editors.py sweep --method", method, *(f"--grid '{part}'" for part in grid)]), "rows": []}
    if out is not None and out.exists():  # another method's, or another grid's rows are kept
        result["rows"] = json.loads(out.read_text(encoding="utf-8"))["rows"]
    cache = ValueStore(Path(tempfile.mkdtemp()) / "values.db") if method in ("memit", "alphaedit", "emmet") else None
    for values in itertools.product(*axes.values()):
        settings = dict(zip(axes, values, strict=True))
        extra = {"cache": cache} if cache is not None and not single else {}
        row = (one_by_one if single else in_one_batch)(board, method, settings | extra)
        result["rows"].append({"method": method, "mode": "single" if single else "batch", "facts": len(board.cases), "settings": settings} | row)
        click.echo(json.dumps(result["rows"][-1]), err=True)
        save(out, result)


def _value(text: str) -> Any:
    """A number, or a tuple of numbers."""
    numbers = [float(part) if "." in part or "e" in part else int(part) for part in text.split(",") if part]
    return tuple(numbers) if "," in text else numbers[0]


if __name__ == "__main__":
    main()
