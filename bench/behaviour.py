"""Behaviour on both sides, on pocket: obeyed in scope, and answers changed out of scope: `python bench/behaviour.py`."""

from __future__ import annotations

import tempfile
import time
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from output import write

from hybrid import avoid
from hybrid.directions import Pair, make
from hybrid.memory import HybridMemory
from stores.rules import Steer

HERE = Path(__file__).parent
PROMPTS = tomllib.loads((HERE / "behaviour.toml").read_text(encoding="utf-8"))
WORLD = tomllib.loads((HERE / "behaviour_countries.toml").read_text(encoding="utf-8"))
COUNTRIES = WORLD["countries"].split()
GOALS = {"in_scope": 0.9, "changed": 0.02}
Rows = list[dict[str, Any]]


class Bench:
    """A fresh store for each part; what the model says alone is asked once."""

    def __init__(self) -> None:
        self.alone: dict[str, str] = {}

    def base(self, memory: HybridMemory, query: str) -> str:
        """The model's answer without rules and vectors."""
        if query not in self.alone:
            self.alone[query] = memory.ask(query, route="base").text
        return self.alone[query]

    def inside(self, memory: HybridMemory, queries: Sequence[str], obeyed: Callable[[str, str], bool]) -> Rows:
        """Queries in scope: whether the answer shows the behaviour."""
        return [{"query": query, "answer": (said := memory.ask(query).text), "right": obeyed(query, said)} for query in queries]

    def outside(self, memory: HybridMemory, queries: Sequence[str]) -> Rows:
        """Queries out of scope: whether the answer is the model's, to the byte."""
        return [{"query": query, "answer": (said := memory.ask(query).text), "right": said == self.base(memory, query)} for query in queries]


def summary(sides: dict[str, Rows]) -> dict[str, Any]:
    """Shares by slice, with 95% intervals (bootstrap), and what went wrong."""
    rng, found = np.random.default_rng(0), dict[str, Any]()
    for name, rows in sides.items():
        right = np.array([row["right"] for row in rows], dtype=float)
        shares = right[rng.integers(0, len(right), (2000, len(right)))].mean(1)
        inside = name.startswith("in_scope")
        share = float(right.mean()) if inside else 1 - float(right.mean())
        low, high = np.quantile(shares if inside else 1 - shares, [0.025, 0.975])
        found[name] = {
            "prompts": len(rows), "share": round(share, 4), "ci": [round(float(low), 4), round(float(high), 4)],
            "wrong": [f"{row['query']} -> {row['answer']}" for row in rows if not row["right"]],
        }  # fmt: skip
    return found


def rules(bench: Bench, store: Path, counterexamples: bool) -> dict[str, Any]:
    """Eight rules at once; even prompts are given with them, odd ones are held out."""
    topics = {name: table for name, table in PROMPTS.items() if name != "general"}
    sides: dict[str, Rows] = {name: [] for name in ("in_scope_seen", "in_scope", "changed_seen", "changed_near", "changed_general")}
    with HybridMemory(store) as memory:
        for table in topics.values():
            memory.behaviour.add_rule(
                "questions about " + table["rule"], kind="answer" if "answer" in table else "refuse", said=table.get("answer") or table["refuse"],
                examples=table["inside"][0::2], counterexamples=table["near"][0::2] if counterexamples else (),
            )  # fmt: skip
        for table in topics.values():
            said = table.get("answer") or table["refuse"]
            for name, part in (("in_scope_seen", 0), ("in_scope", 1)):
                sides[name] += bench.inside(memory, table["inside"][part::2], lambda _, text, said=said: text == said)
            sides["changed_near"] += bench.outside(memory, table["near"][1::2])
            sides["changed_seen"] += bench.outside(memory, table["near"][0::2])
        sides["changed_seen"] += bench.outside(memory, PROMPTS["general"][0::2])
        sides["changed_general"] += bench.outside(memory, PROMPTS["general"][1::2])
    sides["changed"] = sides["changed_near"] + sides["changed_general"]
    return summary(sides)


def suppression(bench: Bench, store: Path) -> dict[str, Any]:
    """Ten subjects are suppressed; nothing was tuned on these queries. `inverse`: the model would answer with the subject's name."""
    gone, kept = COUNTRIES[3::14][:10], COUNTRIES[8::14][:10]
    with HybridMemory(store) as memory:
        queries = [f"{template.format(name)}" for name in gone for template in WORLD["about"]]
        others = [template.format(name) for name in kept for template in WORLD["about"]] + PROMPTS["general"]
        capitals = {name: bench.base(memory, WORLD["capital"][0].format(name)) for name in gone}
        inverse = [f"{city} is the capital of" for city in capitals.values()] + [f"Which country has {city} as its capital?" for city in capitals.values()]
        inverse = [query for query in inverse if any(avoid.holds(bench.base(memory, query), [name]) for name in gone)]
        others = [query for query in others if not any(avoid.holds(bench.base(memory, query), [name]) for name in gone)]
        for name in gone:
            memory.behaviour.suppress(name, said="No information.")
        refused = lambda _, text: text == "No information."  # noqa: E731
        sides = {"in_scope": bench.inside(memory, queries, refused), "changed": bench.outside(memory, others)}
        if inverse:
            sides["in_scope_inverse"] = bench.inside(memory, inverse, refused)
        return summary(sides)


def never(bench: Bench, store: Path) -> dict[str, Any]:
    """Thirty capitals are never to be stated; queries are in scope if the model alone states one. `spoken`: something else was said."""
    with HybridMemory(store) as memory:
        cities = sorted({bench.base(memory, WORLD["capital"][0].format(name)) for name in COUNTRIES[1::4][:30]})
        asked = [template.format(name) for name in COUNTRIES[1::4][:30] for template in WORLD["capital"][:4]]
        queries = [query for query in asked if avoid.holds(bench.base(memory, query), cities)]
        others = [template.format(name) for name in COUNTRIES[2::5] for template in WORLD["other"]] + PROMPTS["general"]
        others = [query for query in others if not avoid.holds(bench.base(memory, query), cities)]
        memory.behaviour.add_rule("", kind="never", phrases=cities)
        silent = bench.inside(memory, queries, lambda _, text: bool(text) and not avoid.holds(text, cities))
        refusal = memory.behaviour.table.rules()[0].said
        found = summary({"in_scope": silent, "changed": bench.outside(memory, others)})
        return found | {"spoken": round(sum(row["answer"] != refusal for row in silent) / len(silent), 4)}


def steering(bench: Bench, store: Path) -> dict[str, Any]:
    """Asked for a capital, the model shall name the language instead. Half of the countries and three of six wordings are held out."""
    seen, held = COUNTRIES[0::2], COUNTRIES[1::2]
    given, kept = WORLD["capital"][0::2], WORLD["capital"][1::2]
    wordings = list(zip(WORLD["positive"], WORLD["negative"], strict=True))
    pairs = [Pair(*(f"Q: {template.format(name)}\nA:" for template in wordings[at % 2])) for at, name in enumerate(seen)]
    with HybridMemory(store) as memory:
        started = time.perf_counter()
        made = make(memory.model, pairs)
        seconds = time.perf_counter() - started
        sha256 = made.save(memory.behaviour.folder / "language")
        spoken = {name: bench.base(memory, WORLD["positive"][0].format(name)) for name in COUNTRIES}
        languages = set(spoken.values())
        owner = {template.format(name): name for name in COUNTRIES for template in WORLD["capital"]}
        inside = {
            "in_scope_seen": [given[at % 3].format(name) for at, name in enumerate(seen)],
            "in_scope_wordings_given": [given[at % 3].format(name) for at, name in enumerate(held)],
            "in_scope_wordings_held_out": [kept[at % 3].format(name) for at, name in enumerate(held)],
        }
        outside = [template.format(name) for name in held[1::2] for template in WORLD["other"]] + PROMPTS["general"]
        outside = [query for query in outside if "capital" not in query.lower()]
        found: dict[str, Any] = {"choice": {"layer": made.layer, "strength": made.strength, "method": made.method} | made.about, "seconds": round(seconds, 1)}
        for name, scope in (("scoped", True), ("everywhere", False)):
            steer = Steer(name="language", sha256=sha256, attached=True)
            if scope:
                counter = tuple(template.format(each) for each, template in zip(seen[5:45:5], WORLD["other"] * 2, strict=True))
                steer = Steer(
                    name="language", sha256=sha256, attached=True, topic="which city is the capital of a country",
                    examples=tuple(given[at % 3].format(each) for at, each in enumerate(seen[0:24:2])), counterexamples=counter,
                )  # fmt: skip
            memory.behaviour.table.put_steer(steer, "attach")
            sides = {key: bench.inside(memory, queries, lambda _, text: text in languages) for key, queries in inside.items()}
            sides["in_scope"] = sides["in_scope_wordings_given"] + sides["in_scope_wordings_held_out"]
            own = [row["answer"] == spoken[owner[row["query"]]] for row in sides["in_scope"]]
            found[name] = summary(sides | {"changed": bench.outside(memory, outside)}) | {"own_language": round(float(np.mean(own)), 4)}
        return found


@click.command()
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), default=HERE / "results" / "behaviour.json", show_default=True)
def main(out: Path) -> None:
    """Measure and write the result."""
    bench = Bench()
    with tempfile.TemporaryDirectory() as folder:
        parts: dict[str, Any] = {
            "rules": rules(bench, Path(folder) / "rules", True),
            "rules_without_counterexamples": rules(bench, Path(folder) / "plain", False),
            "suppression": suppression(bench, Path(folder) / "suppression"),
            "never": never(bench, Path(folder) / "never"),
            "steering": steering(bench, Path(folder) / "steering"),
        }
    for name, part in parts.items():
        for key, row in (part.get("scoped", {}) | {f"everywhere {k}": v for k, v in part.get("everywhere", {}).items()} or part).items():
            if isinstance(row, dict) and "share" in row:
                click.echo(f"{name:<32}{key:<24}{row['share']:.3f}  of {row['prompts']}", err=True)
    write(out, {"command": "python bench/behaviour.py", "goals": GOALS, **parts}, echo=False)


if __name__ == "__main__":
    main()
