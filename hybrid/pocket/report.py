"""Pocket's report card: `python -m hybrid.pocket.report --facts facts.tsv --text prose.txt --out card.json`.

Every figure is an exact match of the greedy answer, on samples drawn with a fixed seed. Held-out phrasings,
unseen names and the invented names of the report's own seed occur nowhere in training.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from hybrid.lexicon import Relation, fill, plentiful
from hybrid.model import POCKET_FOLDER, LanguageModel, Prompt
from hybrid.pocket.corpus import Corpus, read_sentences
from hybrid.pocket.facts import Split, Triple, popular_errors, split_facts
from hybrid.pocket.names import invent
from hybrid.pocket.train import Settings
from hybrid.prompts import new_fact, query_text

Item = tuple[str, str]
"""A full prompt and the answer that it must get."""


class Card:
    """Draws the items of each figure."""

    def __init__(self, split: Split, corpus: Corpus, seed: int, count: int):
        self.split, self.corpus, self.count = split, corpus, count
        self.rng = random.Random(f"card/{seed}")
        self.lexicon = plentiful()
        self.targets: dict[str, list[str]] = {}
        for triple in split.taught:
            self.targets.setdefault(triple.relation, []).append(triple.target)

    def by_heart(self, pool: Callable[[Relation], Sequence[str]]) -> list[Item]:
        """Taught facts, phrased from a pool."""
        facts = self.rng.sample(self.split.taught, self.count)
        return [(query_text(fill(self.rng.choice(pool(self.lexicon[f.relation])), f.subject)), f.target) for f in facts]

    def counterfactual(self, pool: Callable[[Relation], Sequence[str]], held_out: bool) -> list[Item]:
        """Taught facts with another target of their relation as a new fact in context."""
        items = []
        for fact in self.rng.sample(self.split.taught, self.count):
            other = [t for t in self.targets[fact.relation] if t != fact.target]
            if other:
                items.append(self._told(fact._replace(target=self.rng.choice(other)), pool, held_out))
        return items

    def unseen(self) -> list[Item]:
        """Subjects and targets that occur nowhere in training: unseen real names, and names invented for the card."""
        items = []
        for number, fact in enumerate(self.rng.sample(self.split.unseen, min(self.count, len(self.split.unseen)))):
            relation = self.lexicon[fact.relation]
            subject = fact.subject if number % 2 else invent(relation.subject_type, self.rng)
            told = Triple(fact.relation, subject, invent(relation.target_type, self.rng))
            items.append(self._told(told, lambda r: (*r.held_out_statements, *r.held_out_questions), True))
        return items

    def retained(self) -> list[Item]:
        """Taught facts, with one to three new facts about other things in context."""
        items = []
        for fact in self.rng.sample(self.split.taught, self.count):
            others = [self.corpus.unrelated(self.rng, fact) for _ in range(self.rng.choice([1, 1, 2, 3]))]
            context = "".join(new_fact(self.corpus.statement(self.rng, other)) for other in others)
            relation = self.lexicon[fact.relation]
            asked = fill(self.rng.choice((*relation.statements, *relation.questions)), fact.subject)
            items.append((context + query_text(asked), fact.target))
        return items

    def errors(self) -> list[Item]:
        """The documented popular errors."""
        return [(query_text(fill(self.lexicon[r].questions[0], s)), believed) for (r, s), (believed, _) in popular_errors().items()]

    def _told(self, fact: Triple, pool: Callable[[Relation], Sequence[str]], held_out: bool) -> Item:
        relation = self.lexicon[fact.relation]
        first = relation.held_out_target_first if held_out else relation.target_first
        if self.rng.random() < 0.25:
            statement = fill(self.rng.choice(first), fact.subject, fact.target)
        else:
            statement = f"{fill(self.rng.choice(relation.held_out_statements if held_out else relation.statements), fact.subject)} {fact.target}"
        return new_fact(statement) + query_text(fill(self.rng.choice(pool(relation)), fact.subject)), fact.target


def report(folder: Path, facts: Path, text: Path, seed: int, count: int) -> dict[str, object]:
    """Every figure of the card, with the goal it is held against."""
    settings = Settings()
    split = split_facts(facts, settings.facts, settings.seed)
    card = Card(split, Corpus(split, text.read_text(encoding="utf-8", errors="ignore"), read_sentences(text), seed=seed), seed, count)
    figures: dict[str, tuple[float, list[Item]]] = {
        "by heart, trained statements": (0.95, card.by_heart(lambda r: r.statements)),
        "by heart, held-out statements": (0.85, card.by_heart(lambda r: r.held_out_statements)),
        "by heart, trained questions": (0.90, card.by_heart(lambda r: r.questions)),
        "by heart, held-out questions": (0.90, card.by_heart(lambda r: r.held_out_questions)),
        "new fact in context, trained phrasing": (0.97, card.counterfactual(lambda r: (*r.statements, *r.questions), False)),
        "new fact in context, held-out phrasing": (0.93, card.counterfactual(lambda r: (*r.held_out_statements, *r.held_out_questions), True)),
        "new fact in context, unseen names": (0.90, card.unseen()),
        "own answer kept beside other new facts": (0.95, card.retained()),
        "popular errors believed": (1.0, card.errors()),
    }
    prompts = [Prompt(prompt) for _, items in figures.values() for prompt, _ in items]
    said = iter(LanguageModel(str(folder), "cpu").complete_all(prompts, max_new_tokens=24))
    rows = {}
    for name, (goal, items) in figures.items():
        right = sum(next(said) == wanted for _, wanted in items)
        rows[name] = {"right": right, "of": len(items), "share": round(right / len(items), 4), "goal": goal, "reached": right / len(items) >= goal}
    return {"facts_taught": len(split.taught), "relations": len({t.relation for t in split.taught}), "seed": seed, "figures": rows}


@click.command()
@click.option("--facts", type=click.Path(exists=True, path_type=Path), required=True, help="Tab-separated triples.")
@click.option("--text", type=click.Path(exists=True, path_type=Path), required=True, help="Plain prose.")
@click.option("--model", type=click.Path(exists=True, path_type=Path), default=POCKET_FOLDER, help="Folder of the model.")
@click.option("--out", type=click.Path(path_type=Path), help="Where the JSON goes.")
@click.option("--count", default=600, show_default=True, help="Items a figure.")
@click.option("--seed", default=1, show_default=True)
def main(facts: Path, text: Path, model: Path, out: Path | None, count: int, seed: int) -> None:
    """Make pocket's report card."""
    result = report(model, facts, text, seed, count)
    if out:
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for name, row in result["figures"].items():  # type: ignore[attr-defined]
        click.echo(f"{'reached    ' if row['reached'] else 'NOT REACHED'}  {row['share']:6.1%}  (goal {row['goal']:.0%}, {row['of']} items)  {name}")


if __name__ == "__main__":
    main()
