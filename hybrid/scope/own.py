"""Queries about a store's own facts, with what should govern them: what the scope is calibrated and evaluated on, for this store.

Two halves share no wording: `held_out` draws from the lexicon's held-out phrasings (or the second half of the frames), the other from those that
everything else may use.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from hybrid.lexicon import Relation, fill, find, relations
from hybrid.lexicon.ambiguous import ambiguous
from hybrid.pocket.names import invent, word
from hybrid.scope.attributes import QUERIES, pick
from hybrid.scope.pairs import MENTIONS
from stores.records import Fact

KINDS = ("in_scope", "alias", "same_subject", "neighborhood", "distractor", "mention", "unrelated")
INSIDE = ("in_scope", "alias")


@dataclass(frozen=True, slots=True)
class Query:
    """A query made from a fact; `meant` is the fact that should govern it, if one should."""

    kind: str
    text: str
    meant: str | None


@lru_cache(maxsize=2)
def unrelated(held_out: bool) -> tuple[str, ...]:
    """Texts that have nothing to do with any fact; those that `hybrid eval` asks are not calibrated on."""
    file = Path(__file__).parent.parent / ("evaluation/unrelated.txt" if held_out else "consolidation/prose.txt")
    return tuple(line for line in file.read_text(encoding="utf-8").splitlines() if line.strip())


def half(items: Sequence[str], held_out: bool) -> Sequence[str]:
    """Every other one."""
    return items[int(held_out) :: 2] or items


class Questioner:
    """Draws queries about facts.

    Args:
        facts: all that are in force: a query that is to be out of scope asks for none of them.
    """

    def __init__(self, facts: Sequence[Fact], *, held_out: bool, seed: int = 0):
        self.facts, self.held_out, self.rng = facts, held_out, random.Random(f"{seed}/{held_out}")
        self.known = {(name.casefold(), _relation(fact)) for fact in facts for name in (fact.subject, *fact.aliases)}

    def draw(self, each: int) -> Iterator[Query]:
        """At most `each` queries of every kind, from facts chosen at random."""
        for kind in KINDS:
            for fact in self.rng.sample(self.facts, min(each, len(self.facts))):
                if (text := self.query(fact, kind)) is not None:
                    yield Query(kind, text, fact.id if kind in INSIDE else None)

    def query(self, fact: Fact, kind: str) -> str | None:
        """A query of a kind; None if the fact has no alias, or nothing fitting was found."""
        rng = self.rng
        if kind == "in_scope":
            return rng.choice(fact.questions) if fact.questions and not self.held_out and rng.random() < 0.3 else self._ask(fact, fact.subject)
        if kind == "alias":
            return self._ask(fact, rng.choice(fact.aliases)) if fact.aliases else None
        if kind == "mention":
            return rng.choice(half(MENTIONS, self.held_out)).replace("{}", fact.subject)
        if kind == "unrelated":
            return rng.choice(unrelated(self.held_out))
        if kind == "distractor":
            query = self.query(fact, rng.choice(["same_subject", "neighborhood"]))
            return None if query is None else f"{fact.statement}. {query}"
        return self._elsewhere(fact) if kind == "same_subject" else self._neighbour(fact)

    def _ask(self, fact: Fact, name: str) -> str:
        relation = find(fact.relation)
        if relation is None:
            return self.rng.choice(half(QUERIES, self.held_out)).format(a=fact.relation, s=name)
        return fill(self.rng.choice(self._wordings(relation)), name)

    def _wordings(self, relation: Relation) -> Sequence[str]:
        apart = (*relation.held_out_questions, *relation.held_out_statements)
        common = (*relation.questions, *relation.statements)
        if apart:
            return apart if self.held_out else common
        return half(common, self.held_out)

    def _elsewhere(self, fact: Fact) -> str | None:
        """Something else about the subject, that no fact answers."""
        own = find(fact.relation)
        if own is None or self.rng.random() < 0.2:
            attribute = pick(self.rng, own.subject_type if own else "person", (fact.relation,))
            free = not any((fact.subject.casefold(), name.casefold()) in self.known for name in attribute.names)
            return self.rng.choice(half(QUERIES, self.held_out)).format(a=attribute.names[0], s=fact.subject) if free else None
        others = [
            each
            for each in relations().values()
            if each.subject_type == own.subject_type
            and not ambiguous(each.id, own.id)
            and each.id != own.inverse
            and (fact.subject.casefold(), each.id.casefold()) not in self.known
        ]
        return fill(self.rng.choice(self._wordings(self.rng.choice(others))), fact.subject) if others else None

    def _neighbour(self, fact: Fact) -> str | None:
        """The same of another subject: a similar name, another stored subject, or an invented one."""
        own, rng = find(fact.relation), self.rng
        words = fact.subject.split()
        words[rng.randrange(len(words))] = word(rng, 1, 3)
        name = rng.choice([" ".join(words), rng.choice(self.facts).subject, invent(own.subject_type if own else "person", rng)])
        return None if (name.casefold(), _relation(fact)) in self.known else self._ask(fact, name)


def _relation(fact: Fact) -> str:
    """The relation as the lexicon knows it, else as it is stored; in lower case."""
    found = find(fact.relation)
    return (fact.relation if found is None else found.id).casefold()
