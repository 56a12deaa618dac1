"""What the editors are measured on: requests, and the queries that show what an edit changed and what it left.

Own cases are facts that the unedited model gives, with another target of their relation. A request has a prompt and two questions of
the lexicon, as a stored fact does; what is asked are other questions and held-out wording. Free greedy generation: an edit counts
when the answer begins with the target, a neighbour (same relation, other subject) and another attribute of the edited subject when
the answer is the unedited model's, to the letter.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybrid.editing import answers as answers_of
from hybrid.lexicon import fill, plentiful
from hybrid.model import LanguageModel
from hybrid.pocket.facts import Triple, split_facts
from hybrid.pocket.train import Settings
from stores.records import Fact

HUNDRED = 100
UNCHANGED = ("neighbours", "same-subject")
"""Kinds of query whose answers must stay."""


@dataclass(frozen=True)
class Case:
    """A request, and the queries that show what it did; each list may be empty."""

    fact: Fact
    queries: dict[str, list[str]]
    """"phrasings", "questions" and the like get the target; the `UNCHANGED` keep their answers."""

    @property
    def all(self) -> list[tuple[str, str]]:
        """(kind, query), the request's own prompt first."""
        return [("efficacy", self.fact.cloze), *((kind, query) for kind, queries in self.queries.items() for query in queries)]


def answers(model: LanguageModel, queries: Sequence[str]) -> list[str]:
    """Free generation; targets are short."""
    return answers_of(model, queries, max_new_tokens=20)


def own_cases(model: LanguageModel, facts: Path, count: int, seed: int) -> list[Case]:
    """Counterfactual cases from what the model was taught and gives; the first ones do not depend on how many are wanted."""
    settings = Settings()
    taught = split_facts(facts, settings.facts, settings.seed).taught
    cases: list[Case] = []
    for number in range(-(-count // HUNDRED)):
        rng = random.Random(f"editors/{seed}" + (f"/{number}" if number else ""))
        cases += _hundred(model, taught, rng, {case.fact.subject for case in cases})
    return cases[:count]


def _hundred(model: LanguageModel, taught: Sequence[Triple], rng: random.Random, used: set[str]) -> list[Case]:
    """The next cases, about subjects that are not used yet."""
    lexicon, used = plentiful(), set(used)
    by_relation: dict[str, list[Triple]] = {}
    about: dict[str, list[str]] = {}
    for triple in taught:
        by_relation.setdefault(triple.relation, []).append(triple)
        about.setdefault(triple.subject, []).append(triple.relation)
    drawn = rng.sample(taught, 3 * HUNDRED)
    prompts = [rng.choice(lexicon[triple.relation].statements) for triple in drawn]
    said = answers(model, [fill(prompt, triple.subject) for prompt, triple in zip(prompts, drawn, strict=True)])
    cases: list[Case] = []
    for triple, prompt, answer in zip(drawn, prompts, said, strict=True):
        relation, others = lexicon[triple.relation], [t for t in by_relation[triple.relation] if t.target != triple.target and t.subject != triple.subject]
        if answer != triple.target or len(others) < 3 or triple.subject in used:
            continue
        used.add(triple.subject)
        target, *near = rng.sample(others, 3)
        queries = {
            "phrasings": rng.sample(relation.held_out_statements, 2),
            "questions": rng.sample(relation.questions[2:], 1),
            "held-out questions": rng.sample(relation.held_out_questions, 1),
        }
        asked = {kind: [fill(template, triple.subject) for template in templates] for kind, templates in queries.items()}
        asked["neighbours"] = [fill(rng.choice(relation.statements), other.subject) for other in near]
        asked["same-subject"] = attributes(triple, about[triple.subject])
        known = tuple(fill(question, triple.subject) for question in relation.questions[:2])  # as the store has them
        fact = Fact(id="", subject=triple.subject, relation=relation.id, prompt=prompt, target_new=target.target, questions=known)
        cases.append(Case(fact, asked))
    return cases[:HUNDRED]


def attributes(triple: Triple, known: Sequence[str], count: int = 2) -> list[str]:
    """Held-out prompts for other attributes of a subject: of those that the model was taught, and of others that subjects of its type have."""
    lexicon, rng = plentiful(), random.Random(f"attributes/{triple.relation}/{triple.subject}")
    taught = [name for name in known if name != triple.relation]
    kind = lexicon[triple.relation].subject_type
    others = [name for name, relation in lexicon.items() if relation.subject_type == kind and name != triple.relation and name not in taught]
    chosen = [*rng.sample(taught, len(taught)), *rng.sample(others, len(others))][:count]
    return [fill(rng.choice(lexicon[name].held_out_statements), triple.subject) for name in chosen]


def counterfact_cases(model: LanguageModel, path: Path, count: int, seed: int) -> list[Case]:
    """Flat CounterFact records (prompt, subject, target_new, rephrase_prompt, locality_prompt) whose target the model does not give already."""
    records: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    random.Random(f"counterfact/{seed}").shuffle(records)
    cases = []
    for record in records:
        if record["prompt"].count(record["subject"]) == 1 and "{" not in record["prompt"]:
            prompt = record["prompt"].replace(record["subject"], "{}")
            fact = Fact(id="", subject=record["subject"], relation="counterfact", prompt=prompt, target_new=record["target_new"])
            cases.append(Case(fact, {"phrasings": [record["rephrase_prompt"]], "neighbours": [record["locality_prompt"]]}))
    cases = cases[: 3 * count]
    said = answers(model, [case.fact.cloze for case in cases])
    return [case for case, text in zip(cases, said, strict=True) if not text.startswith(case.fact.target_new)][:count]


class Board:
    """Counts what came of the queries."""

    def __init__(self, model: LanguageModel, cases: Sequence[Case], before: dict[str, str] | None = None):
        self.model, self.cases = model, list(cases)
        flat = [query for case in self.cases for kind, query in case.all if kind in UNCHANGED]
        self.before = dict(zip(flat, answers(model, flat), strict=True)) if before is None else before

    def count(self, cases: Sequence[Case]) -> dict[str, list[bool]]:
        """Right or wrong by kind, with the model as it is."""
        flat = [(case, kind, query) for case in cases for kind, query in case.all]
        found: dict[str, list[bool]] = {}
        for (case, kind, query), said in zip(flat, answers(self.model, [query for *_, query in flat]), strict=True):
            right = said == self.before[query] if kind in UNCHANGED else said.startswith(case.fact.target_new)
            found.setdefault(kind, []).append(right)
        return found


def shares(found: dict[str, list[bool]]) -> dict[str, float]:
    """Rounded shares."""
    return {kind: round(sum(rights) / len(rights), 4) for kind, rights in found.items() if rights}
