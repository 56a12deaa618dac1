"""Examples to train an editor with: an edit, the same fact in other words, and another that must stay as it is.

Drawn from a file of facts. An edit asks for a target that some fact of the same relation has; the other words are those of the
lexicon that models may be trained with. What must stay has the edit's relation half of the time, and any otherwise.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hybrid.editors.hypernetwork import condition
from hybrid.editors.requests import Passage, passage
from hybrid.lexicon import find
from stores.errors import BadRequest, FormatError
from stores.records import Fact

if TYPE_CHECKING:
    from hybrid.model import LanguageModel

LEAST = 8
"""Facts below which there is nothing to generalise from."""


@dataclass(frozen=True)
class Example:
    """Passages that end with their targets."""

    edit: Passage
    condition: str
    rephrased: Passage
    stays: Passage


class Examples:
    """Draws training edits. Every twentieth fact is held out, by its subject, to measure with.

    Raises:
        FormatError: if there are too few facts, or none could have another target.
    """

    def __init__(self, model: LanguageModel, facts: Sequence[Fact], held_out: bool = False):
        self.tokenizer = model.tokenizer
        subjects = sorted({fact.subject for fact in facts})
        if len(subjects) < LEAST:
            raise FormatError(f"training needs facts about {LEAST} subjects or more, and this file has {len(subjects)}; give more facts")
        random.Random("held out").shuffle(subjects)
        kept = set(subjects[: max(2, len(subjects) // 20)])
        self.facts = [fact for fact in facts if (fact.subject in kept) == held_out]
        self.targets: dict[str, list[str]] = {}
        self.of_relation: dict[str, list[Fact]] = {}
        for fact in facts:
            self.targets.setdefault(fact.relation, []).append(fact.target_new)
        for fact in self.facts:
            self.of_relation.setdefault(fact.relation, []).append(fact)

    def draw(self, rng: random.Random) -> Example:
        """One edit."""
        for _ in range(100):
            fact = rng.choice(self.facts)
            target = rng.choice(self.targets[fact.relation])
            pool = self.of_relation[fact.relation] if rng.random() < 0.5 else self.facts
            stays = rng.choice(pool)
            if (stays.subject, stays.relation) == (fact.subject, fact.relation):  # it must change
                continue
            try:
                asked = replace(fact, prompt=rng.choice(wordings(fact)), target_new=target)
                edit = passage(self.tokenizer, asked.prompt, asked.subject, target)
                return Example(
                    edit, condition(asked, fact.target_true or fact.target_new), self._said(fact, target, rng), self._said(stays, stays.target_new, rng)
                )
            except BadRequest:  # letters that the tokenizer does not know
                continue
        raise FormatError(
            "no training edit could be made of the facts in a hundred attempts; give facts about more subjects, in letters that the model's tokenizer knows"
        )

    def _said(self, fact: Fact, target: str, rng: random.Random) -> Passage:
        return passage(self.tokenizer, rng.choice(wordings(fact)), fact.subject, target)


def wordings(fact: Fact) -> list[str]:
    """Templates for a fact: its prompt, its questions, and the lexicon's statements and questions that are not held out."""
    own = [question.replace(fact.subject, "{}") for question in fact.questions if question.count(fact.subject) == 1 and "{" not in question]
    relation = find(fact.relation)
    lexicon = [] if relation is None else [*relation.statements, *relation.questions]
    return list(dict.fromkeys([fact.prompt, *own, *lexicon]))
