"""Counterfactual facts loaded together, asked in other people's words, and their neighbours before and after.

    python bench/rephrase.py FILE --limit 200 --out bench/results/rephrase.json

FILE holds flat records (`prompt`, `subject`, `target_new`, `rephrase_prompt`, `locality_prompt`). Free generation; an
answer counts when it starts with the target. This is what `hybrid eval` will do for every format.
"""

from __future__ import annotations

import json
import random
import tempfile
from pathlib import Path

import click
from output import write
from tqdm import tqdm

from hybrid.formats import requests
from hybrid.memory import HybridMemory


def starts_with(answer: str, target: str) -> bool:
    """Whether the answer gives the target, whatever follows."""
    return answer.casefold().strip(" .\"'").startswith(target.casefold())


@click.command()
@click.argument("file", type=click.Path(exists=True, path_type=Path))
@click.option("--limit", default=200, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path))
@click.option("--failures", is_flag=True, help="List what went wrong on stderr.")
def main(file: Path, limit: int, seed: int, out: Path | None, failures: bool) -> None:
    """Score rephrasings and locality."""
    records = random.Random(seed).sample(json.loads(file.read_text(encoding="utf-8")), limit)
    counts = dict.fromkeys(("prompt", "rephrase", "rephrase_fired", "rephrase_right_fact", "oracle", "locality", "locality_silent"), 0)
    with tempfile.TemporaryDirectory() as folder, HybridMemory(folder) as memory:
        before = [memory.ask(record["locality_prompt"]).text for record in records]
        added = list(memory.add_facts(requests(records, "counterfact-flat")))
        for record, fact, old in zip(tqdm(records), added, before, strict=True):
            direct = memory.ask(record["prompt"])
            answer = memory.ask(record["rephrase_prompt"])
            beside = memory.ask(record["locality_prompt"])
            right = bool(answer.facts) and answer.facts[0].fact.id == fact.fact.id
            counts["prompt"] += starts_with(direct.text, record["target_new"])
            counts["rephrase"] += starts_with(answer.text, record["target_new"])
            counts["rephrase_fired"] += answer.route != "base"
            counts["rephrase_right_fact"] += right
            counts["oracle"] += right and starts_with(answer.text, record["target_new"])
            counts["locality"] += beside.text == old
            counts["locality_silent"] += beside.route == "base"
            if failures and (not starts_with(answer.text, record["target_new"]) or beside.route != "base"):
                click.echo(
                    f"{fact.fact.statement} | {record['rephrase_prompt']} -> {answer.text} [{answer.route}] | {record['locality_prompt']} [{beside.route}]",
                    err=True,
                )
    command = f"python bench/rephrase.py {file.name} --limit {limit} --seed {seed}"
    result = {"command": command, "records": limit, **{name: round(value / limit, 4) for name, value in counts.items() if name != "oracle"}}
    result["read_when_right_fact_fired"] = round(counts["oracle"] / max(1, counts["rephrase_right_fact"]), 4)
    write(out, result)


if __name__ == "__main__":
    main()
