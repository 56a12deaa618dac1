"""How well the methods that add parameters edit pocket: the cases and counts of `bench/editors.py`, with adapters attached.

    python bench/adapters.py --facts FILE --out bench/results/adapters.json

Facts one by one, each in an adapter of its own, and `--batch` facts in one adapter. Each method with the request's prompt alone, as its
paper has it, and single edits also with the wordings that the memory knows of a fact (`wordings`, `questions`), of which none is asked.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from editors import Board, Case, own_cases, save, shares

from hybrid.adapters.base import adapt, attached
from hybrid.editors import ADAPTERS
from hybrid.model import LanguageModel


def measured(model: LanguageModel, groups: Sequence[Sequence[Case]], method: str, settings: dict[str, Any]) -> dict[str, Any]:
    """An adapter a group, asked about its own facts."""
    found: dict[str, list[bool]] = {}
    seconds, many, size = 0.0, 0, 0
    for group in groups:
        board = Board(model, group)
        adapter = adapt(model, [case.fact for case in group], method, **settings)
        seconds, many = seconds + adapter.seconds, many + len(group)
        size += sum(array.nbytes for array in adapter.tensors.values())
        with attached(model, adapter):
            for kind, rights in board.count(group).items():
                found.setdefault(kind, []).extend(rights)
    return shares(found) | {"seconds a fact": round(seconds / many, 3), "bytes a fact": size // many}


@click.command()
@click.option("--facts", type=click.Path(exists=True, path_type=Path), required=True, help="The table that pocket was taught from.")
@click.option("--model", "name", default="pocket", show_default=True)
@click.option("--out", type=click.Path(path_type=Path))
@click.option("--single", default=20, show_default=True, help="Facts one by one.")
@click.option("--batch", default=100, show_default=True, help="Facts in one adapter; 0 for none.")
@click.option("--methods", default=",".join(ADAPTERS), show_default=True)
@click.option("--seed", default=1, show_default=True)
def main(facts: Path, name: str, out: Path | None, single: int, batch: int, methods: str, seed: int) -> None:
    """Every method, single edits and one adapter for all."""
    model = LanguageModel(name, "cpu")
    cases = own_cases(model, facts, max(single, batch), seed)
    command = f"python bench/adapters.py --single {single} --batch {batch} --methods {methods} --seed {seed}"
    result: dict[str, Any] = {"command": command, "rows": []}
    for mode, groups in (("single", [[case] for case in cases[:single]]), ("batch", [cases[:batch]] if batch else [])):
        for method in methods.split(",") if groups else ():
            for settings in ({}, {"wordings": 4, "questions": 2})[: 2 if mode == "single" else 1]:
                started = time.perf_counter()
                row = {"method": method, "mode": mode, "facts": sum(map(len, groups)), "settings": settings} | measured(model, groups, method, settings)
                result["rows"].append(row)
                click.echo(f"{row} ({time.perf_counter() - started:.0f} s)", err=True)
                save(out, result)


if __name__ == "__main__":
    main()
