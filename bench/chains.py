"""Questions over two and three facts, all edits loaded together: `python bench/chains.py facts.tsv --out bench/results/chains.json`.

FILE is a table of facts (relation_id, relation, subject, object, source). Each hop of a chain is an edit: a subject of the table gets another target,
one that the next hop is about. What else the table says of these things is loaded, too, and more facts beside. The questions are in phrasings of the
benchmark's own (chain_phrasings.toml), which the lexicon does not have. Memory holds every hop. The single hops are asked, too, in the same phrasings:
no chain may answer those; and they tell what looking for one costs.
"""

from __future__ import annotations

import random
import tempfile
import tomllib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import click
from output import write
from tqdm import tqdm

from hybrid.chains.paths import alike
from hybrid.evaluation.metrics import matches
from hybrid.lexicon import fill, find, relations
from hybrid.memory import HybridMemory
from hybrid.request import Request

PHRASINGS = tomllib.loads(Path(__file__).with_name("chain_phrasings.toml").read_text(encoding="utf-8"))
RELATION = {"lre:person_mother": "P25", "lre:person_father": "P22", "lre:company_ceo": "P169", "lre:person_university": "P69"}


@dataclass(frozen=True)
class Edit:
    """One hop."""

    relation: str
    subject: str
    target: str


def request(relation: str, subject: str, target: str) -> Request:
    """The edit as it is stored, in one of the lexicon's statements."""
    known = relations()[relation]
    return Request(subject=subject, relation=known.name, prompt=known.statements[0], target_new=target)


def chain(table: dict[str, dict[str, set[str]]], targets: dict[str, list[str]], hops: int, taken: set[tuple[str, str]], rng: random.Random) -> list[Edit]:
    """A chain of so many edits about pairs of subject and relation that no other chain has."""
    while True:
        kinds = [rng.choice(list(table))]
        while len(kinds) < hops:
            after = [r for r in table if r not in kinds and alike(relations()[kinds[-1]].target_type, relations()[r].subject_type)]
            if not after:
                break
            kinds.append(rng.choice(after))
        if len(kinds) < hops:
            continue
        things = [rng.choice(sorted(table[kind])) for kind in kinds] + [rng.choice(targets[kinds[-1]])]
        pairs = list(zip(things, kinds, strict=False))
        if len({thing.casefold() for thing in things}) == len(things) and not taken.intersection(pairs):
            taken.update(pairs)
            return [Edit(kind, things[n], things[n + 1]) for n, kind in enumerate(kinds)]


def asked(edits: list[Edit], rng: random.Random) -> str:
    """The chain as one question."""
    text = edits[0].subject
    for edit in edits[:-1]:
        told = [*PHRASINGS[edit.relation]["nouns"], *PHRASINGS[edit.relation]["clauses"]]
        text = fill(rng.choice([form for form in told if text == edits[0].subject or "{}'s" not in form]), text)
    return fill(rng.choice(PHRASINGS[edits[-1].relation]["asks"]), text)


@click.command()
@click.argument("file", type=click.Path(exists=True, path_type=Path))
@click.option("--chains", "count", default=100, show_default=True, help="Chains of each length.")
@click.option("--loads", default=2000, show_default=True, help="Further facts of the table.")
@click.option("--seed", default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path))
@click.option("--failures", is_flag=True, help="List what went wrong on stderr.")
def main(file: Path, count: int, loads: int, seed: int, out: Path | None, failures: bool) -> None:
    """Score chains of two and three hops."""
    rng = random.Random(seed)
    table: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for line in file.read_text(encoding="utf-8").splitlines()[1:]:
        key, _, subject, target, _ = line.split("\t")
        known = find(RELATION.get(key, key))
        if known is not None and "," not in subject:
            table[known.id][subject].add(target)
    phrased = {key: table[key] for key in PHRASINGS if key in table}
    targets = {key: sorted({target for told in pairs.values() for target in told}) for key, pairs in phrased.items()}
    taken: set[tuple[str, str]] = set()
    made = [chain(phrased, targets, hops, taken, rng) for hops in (2, 3) for _ in range(count)]
    things = {edit.subject for edits in made for edit in edits} | {edits[-1].target for edits in made}
    beside = [(key, s, t) for key, pairs in table.items() for s, told in pairs.items() for t in sorted(told)[:1] if (s, key) not in taken]
    near = [each for each in beside if each[1] in things]
    far = rng.sample([each for each in beside if each[1] not in things], loads)
    facts = [*near, *far, *((e.relation, e.subject, e.target) for edits in made for e in edits)]
    scores: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder, HybridMemory(folder) as memory:
        list(memory.add_facts(tqdm([request(*fact) for fact in facts], desc="facts")))
        for edits in tqdm(made, desc="chains"):
            query = asked(edits, rng)
            answer = memory.ask(query)
            right = matches(answer.text, [edits[-1].target])
            scores[f"{len(edits)}_hops"].append(right)
            scores[f"{len(edits)}_hops_all_hops_right"].append([hop.answer for hop in answer.hops] == [edit.target for edit in edits])
            if failures and not right:
                click.echo(
                    f"{query}\n  wanted {[(e.relation, e.target) for e in edits]}\n  {answer.route}: {answer.text} {[(h.question, h.answer) for h in answer.hops]}",
                    err=True,
                )
        for edit in tqdm([rng.choice(edits) for edits in made], desc="single"):
            query = fill(rng.choice(PHRASINGS[edit.relation]["asks"]), edit.subject)
            found = memory.route(query)
            scores["single_taken_for_a_chain"].append(found.route == "chain")
            scores["single_right_fact"].append(bool(found.governing) and found.governing[0].fact.target_new == edit.target)
            scores["single_chain_ms"].append(found.timings_ms.get("chain", 0.0))
            scores["single_route_ms"].append(found.timings_ms["route"])
            if failures and found.route == "chain":
                click.echo(f"TAKEN: {query} {[(h.question, h.answer) for h in found.hops]}", err=True)
    chained = [value for name in ("2_hops", "3_hops") for value in scores[name]]
    result = {
        "command": f"python bench/chains.py {file.name} --chains {count} --loads {loads} --seed {seed}",
        "facts": len(facts), "chains": len(made), "relations": len(phrased), "right": round(sum(chained) / len(chained), 4), "goal": 0.85,
        **{name: round(sum(values) / len(values), 4) for name, values in scores.items()},
    }  # fmt: skip
    write(out, result)


if __name__ == "__main__":
    main()
