"""How well facts are read: `python -m hybrid.counterfactual.report --facts facts.tsv --text prose.txt --out card.json`.

The same held-out items are put to the counterfactual model and to pocket with the facts in its context (IKE), each in its own form: what is
measured is an exact match of the greedy answer, and processor time. Phrasings are the lexicon's held-out ones, for statement and query.
"""

from __future__ import annotations

import json
import platform
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import torch

from hybrid.answer import Decision
from hybrid.answerers import Answerer
from hybrid.counterfactual.model import SHIPPED, CounterfactualModel, Reader
from hybrid.embedder import Embedder
from hybrid.lexicon import Relation, fill, plentiful
from hybrid.model import POCKET, LanguageModel
from hybrid.pocket.corpus import Corpus
from hybrid.pocket.facts import Triple
from hybrid.pocket.names import WORDS, invent, odd
from hybrid.pocket.train import Settings, make_corpus
from stores.records import Fact, Hit


class Item(NamedTuple):
    """A query, the facts that govern it, best first, and the answer that they give."""

    query: str
    facts: tuple[Fact, ...]
    answer: str


class Card:
    """Draws the items of each figure; what is drawn depends on the seed alone."""

    def __init__(self, corpus: Corpus, seed: int, count: int):
        self.corpus, self.count, self.rng, self.lexicon = corpus, count, random.Random(f"reading/{seed}"), plentiful()
        self.targets: dict[str, list[str]] = {}
        for triple in corpus.split.taught:
            self.targets.setdefault(triple.relation, []).append(triple.target)

    def figures(self) -> dict[str, list[Item]]:
        """All figures by name."""
        known, unseen = self._known(), self._unseen()
        return {
            "one fact, names of training": [self._item(triple) for triple in known],
            "one fact, names never seen": [self._item(triple) for triple in unseen],
            "one fact, behind a passing remark": [self._item(triple, before=self.rng.choice(self.corpus.sentences) + " ") for triple in unseen],
            "one fact, a target of four to nine words": [self._item(triple._replace(target=self._long())) for triple in unseen],
            "two or three facts, the one that is asked for ranked first": [
                self._item(triple, others=self.rng.choice((1, 2)), ranked=True) for triple in unseen
            ],
            "two or three facts, in any order": [self._item(triple, others=self.rng.choice((1, 2))) for triple in unseen],
            "one fact, names of any shape": [self._item(triple._replace(subject=odd(self.rng), target=odd(self.rng))) for triple in unseen],
        }

    def _known(self) -> list[Triple]:
        found = self.rng.sample(self.corpus.split.taught, min(self.count, len(self.corpus.split.taught)))
        return [triple._replace(target=self.rng.choice([t for t in self.targets[triple.relation] if t != triple.target] or ["Nobody"])) for triple in found]

    def _unseen(self) -> list[Triple]:
        found = []
        for number, triple in enumerate(self.rng.sample(self.corpus.split.unseen, min(self.count, len(self.corpus.split.unseen)))):
            relation = self.lexicon[triple.relation]
            subject = triple.subject if number % 2 else invent(relation.subject_type, self.rng)
            found.append(Triple(relation.id, subject, invent(relation.target_type, self.rng)))
        return found

    def _long(self) -> str:
        return " ".join(self.rng.sample(WORDS, self.rng.randint(4, 9)))

    def _item(self, triple: Triple, others: int = 0, before: str = "", ranked: bool = False) -> Item:
        relation = self.lexicon[triple.relation]
        query = fill(self.rng.choice((*relation.held_out_statements, *relation.held_out_questions)), triple.subject)
        facts = [self._fact(each) for each in (triple, *(self.corpus.unrelated(self.rng, triple) for _ in range(others)))]
        if not ranked:
            self.rng.shuffle(facts)
        return Item(before + query, tuple(facts), triple.target)

    def _fact(self, triple: Triple) -> Fact:
        relation: Relation = self.corpus.lexicon[triple.relation]
        prompt = self.rng.choice(relation.held_out_statements or relation.statements)
        return Fact(id="", subject=triple.subject, relation=relation.name, prompt=prompt, target_new=triple.target)


def read(items: Sequence[Item], answerer: Answerer | Reader, model: LanguageModel, route: str) -> dict[str, Any]:
    """How many items are answered exactly, and the processor time that an answer takes, one query at a time."""
    right, started = 0, time.process_time()
    for item in items:
        decision = Decision(route, tuple(Hit(fact, 1.0, 1.0) for fact in item.facts))
        right += model.complete(answerer.prompt(item.query, decision), 32) == item.answer
    spent = time.process_time() - started
    return {"right": right, "share": round(right / len(items), 4), "ms_a_query": round(1000 * spent / len(items), 2)}


def report(corpus: Corpus, name: str, seed: int, count: int, note: Callable[[str], None]) -> dict[str, Any]:
    """Every figure, for the counterfactual model and for pocket."""
    reader, base = CounterfactualModel(name, "cpu"), LanguageModel(POCKET, "cpu")
    own = Answerer.suited(base, Embedder())
    _ = reader.model, base.model
    rows: dict[str, Any] = {}
    for figure, items in Card(corpus, seed, count).figures().items():
        rows[figure] = {
            "of": len(items),
            "counterfactual": read(items, Reader(reader), reader, "counterfactual"),
            "ike": read(items, own, base, "ike"),
        }
        if any(len(item.facts) > 1 for item in items):
            rows[figure]["counterfactual_given_all"] = read(items, Reader(reader, most=3), reader, "counterfactual")
        one, two = rows[figure]["counterfactual"], rows[figure]["ike"]
        note(f"{one['share']:6.1%} {one['ms_a_query']:7.1f} ms   ike {two['share']:6.1%} {two['ms_a_query']:7.1f} ms   {figure} ({len(items)})")
    models = {"counterfactual_model": str(reader.identity), "ike_model": str(base.identity)}
    return {**models, "seed": seed, "machine": platform.machine(), "threads": torch.get_num_threads(), "time": "of the processor", "figures": rows}


@click.command()
@click.option("--facts", type=click.Path(exists=True, path_type=Path), required=True, help="Tab-separated triples.")
@click.option("--text", type=click.Path(exists=True, path_type=Path), required=True, help="Plain prose.")
@click.option("--model", default=SHIPPED, show_default=True, help="Counterfactual model, by name or folder.")
@click.option("--out", type=click.Path(path_type=Path), help="Where the JSON goes.")
@click.option("--count", default=200, show_default=True, help="Items a figure.")
@click.option("--seed", default=1, show_default=True)
def main(facts: Path, text: Path, model: str, out: Path | None, count: int, seed: int) -> None:
    """Compare the counterfactual model with pocket, as readers of facts."""
    torch.set_num_threads(1)
    result = report(make_corpus(facts, text, Settings()), model, seed, count, click.echo)
    if out:
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
