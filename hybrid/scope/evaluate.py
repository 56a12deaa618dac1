"""Score the router on relations, subjects and phrasings that its classifier never saw.

`python -m hybrid.scope.evaluate --facts facts.tsv --text prose.txt --out scope.json` loads facts into a throw-away
store, asks in-scope queries and every kind of negative, and sets the best cosine threshold beside the classifier.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import click

from hybrid.lexicon import fill
from hybrid.memory import HybridMemory
from hybrid.pocket.facts import Triple
from hybrid.request import Request
from hybrid.scope.pairs import KINDS, PairMaker
from hybrid.scope.train import makers
from stores.records import Hit


def distinct_facts(maker: PairMaker, count: int, rng: random.Random) -> list[Triple]:
    """Facts with one target a subject and relation."""
    found: dict[tuple[str, str], Triple] = {}
    while len(found) < count:
        fact = maker.fact(rng)
        found.setdefault((fact.relation, fact.subject.casefold()), fact)
    return list(found.values())


def queries(maker: PairMaker, facts: list[Triple], kind: str, count: int, rng: random.Random) -> list[tuple[Triple, str]]:
    """(fact, query) of a kind; a negative never asks for what another stored fact governs."""
    stored = {(fact.relation, fact.subject.casefold()) for fact in facts}
    found = []
    for fact in rng.sample(facts, min(count, len(facts))):
        relation = maker.lexicon[fact.relation]
        if kind == "in_scope":
            found.append((fact, maker.query(rng, relation, fact.subject, oblique=0.0)))
            continue
        if kind == "oblique":
            found.append((fact, fill(rng.choice(relation.held_out_oblique), fact.subject)))
            continue
        query = maker.about(rng, fact, kind)
        words = set(query.casefold().split())
        mentioned = {(rel, subject) for rel, subject in stored if subject in query.casefold() and words & set(subject.split())}
        if not mentioned - {(fact.relation, fact.subject.casefold())}:  # no other stored fact may govern the query
            found.append((fact, query))
    return found


def measure(memory: HybridMemory, maker: PairMaker, facts: list[Triple], count: int, seed: int) -> dict[str, Any]:
    """Fired and right counts a kind of query, and the balanced accuracy of the classifier and of cosine."""
    rng = random.Random(seed)
    ids: dict[tuple[str, str], str] = {}
    made = []
    for fact in facts:
        relation = maker.lexicon[fact.relation]
        made.append(Request(subject=fact.subject, relation=relation.name, prompt=rng.choice(relation.statements), target_new=fact.target))
    for fact, added in zip(facts, memory.add_facts(made), strict=True):
        ids[fact.relation, fact.subject] = added.fact.id
    table: dict[str, dict[str, Any]] = {}
    best: dict[bool, list[Hit]] = defaultdict(list)
    for kind in ("in_scope", "oblique", *KINDS[1:]):
        asked = queries(maker, facts, kind, count, rng)
        fired = right = 0
        for fact, query in asked:
            candidates, _ = memory.router.candidates(query)
            governing = memory.scope.govern(candidates, "9999")
            fired += bool(governing)
            right += bool(governing) and governing[0].fact.id == ids[fact.relation, fact.subject]
            if candidates and kind != "oblique":
                best[kind == "in_scope"].append(max(candidates, key=lambda hit: hit.similarity))
        table[kind] = {"total": len(asked), "fired": fired, "right_fact": right}
    threshold, cosine = best_threshold([h.similarity for h in best[True]], [h.similarity for h in best[False]])
    silent = [1 - table[k]["fired"] / table[k]["total"] for k in KINDS[1:]]
    ours = (table["in_scope"]["right_fact"] / table["in_scope"]["total"] + sum(silent) / len(silent)) / 2
    return {"facts": len(facts), "slices": table, "balanced": round(ours, 4), "cosine": {"threshold": round(threshold, 3), "balanced": round(cosine, 4)}}


def best_threshold(inside: list[float], outside: list[float]) -> tuple[float, float]:
    """The threshold with the best balanced accuracy, chosen on these very values (a favour to the baseline)."""
    return max(
        ((t, (sum(x >= t for x in inside) / len(inside) + sum(x < t for x in outside) / len(outside)) / 2) for t in sorted({*inside, *outside})),
        key=lambda pair: pair[1],
    )


@click.command()
@click.option("--facts", type=click.Path(exists=True, path_type=Path), required=True, help="Tab-separated triples.")
@click.option("--text", type=click.Path(exists=True, path_type=Path), required=True, help="Plain prose.")
@click.option("--out", type=click.Path(path_type=Path), help="Where the JSON goes; stdout if not given.")
@click.option("--count", default=1000, show_default=True, help="Facts in memory.")
@click.option("--queries", "asked", default=400, show_default=True, help="Queries of each kind.")
@click.option("--seed", default=11, show_default=True)
def main(facts: Path, text: Path, out: Path | None, count: int, asked: int, seed: int) -> None:
    """Score the router on held-out relations, subjects and phrasings."""
    maker = makers(facts, text).score
    chosen = distinct_facts(maker, count, random.Random(seed))
    with tempfile.TemporaryDirectory() as folder, HybridMemory(folder) as memory:
        result = {"command": f"python -m hybrid.scope.evaluate --count {count} --queries {asked} --seed {seed}"} | measure(memory, maker, chosen, asked, seed)
    written = json.dumps(result, indent=1)
    if out:
        out.write_text(written + "\n", encoding="utf-8")
    click.echo(written)


if __name__ == "__main__":
    main()
