"""(statement, query) pairs for the scope classifier, drawn from triples through the lexicon.

Positives are paraphrases, questions and oblique prompts of the same subject and relation. Each kind of
negative is one that fools a similarity threshold: the same subject asked for something else, the same
relation of another (similarly named) subject, the stored statement prefixed to another question, a
passing mention of the subject, prose that has nothing to do with it.
"""

from __future__ import annotations

import random
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from hybrid.lexicon import Relation, fill, relations
from hybrid.lexicon.ambiguous import ambiguous
from hybrid.pocket.facts import Triple
from hybrid.pocket.names import invent, odd, word
from hybrid.scope import attributes

KINDS = ("in_scope", "same_subject", "neighborhood", "distractor", "mention", "unrelated")


class Pair(NamedTuple):
    """A statement, a query, whether the one governs the other, and what kind of pair it is."""

    statement: str
    query: str
    label: bool
    kind: str


WRAPPERS = (
    "Can you tell me: {}", "I was wondering, {}", "Quick question: {}", "Please answer. {}", "Hi! {}", "Do you know this? {}",
    "Complete the sentence: {}", "For a quiz: {}", "My teacher asked: {}", "Tell me, {}", "Well, {}",
)  # fmt: skip
MENTIONS = (
    "Yesterday I read something about {}", "My uncle keeps talking about {}", "There is a poster of {} on the wall", "Write a poem about {}",
    "I bought a book that mentions {}", "Is {} mentioned in the newspaper today?", "We had a long talk about {} over dinner", "Translate the name {} into Greek",
    "The teacher wrote the name {} on the blackboard", "Someone asked me about {} and I had no answer", "I often dream of {}",
    "How do you spell {}?", "Tell me a joke about {}", "The quiz had five questions on {}", "What do you think of {}?",
    "{} came up twice in the meeting", "Why do people like {} so much?", "The article compares {} with several others", "{} is a name that I had never heard",
    "Could you summarise the history of {} in one paragraph?", "A friend of mine wrote a thesis about {}", "The museum plans a show about {}",
)  # fmt: skip

FRAMES = (
    "The {a} of {s} is", "The name of the {a} of {s} is", "{s}'s {a} is", "The {a} for {s} is", "{s} {a}:", "The name of {s}'s {a} is",
    "The {a} that {s} is associated with is", "The {a} that goes with {s} is", "The name of the {a} that belongs to {s} is", *attributes.STATEMENTS,
)  # fmt: skip
"""What is stored and asked in a relation's own name; the value follows."""
ASKED = (
    "{s} {a}", "{a} of {s}?", "the {a} of {s} is", "what is {s}'s {a}", "What is the name of the {a} of {s}?", "Who or what is the {a} of {s}?",
    "Name the {a} of {s}.", "Which {a} has {s}?", *attributes.QUERIES,
)  # fmt: skip
"""Further queries in a relation's own name."""
EXCLUDED = (
    "{q}, which is not {t}, is", "{q}, if it is not {t}, is", "Apart from {t}, {q} is", "{q}, leaving {t} aside, is", "{q} that is not {t} is",
)  # fmt: skip
"""Queries that ask for any value but the stored one."""
NEAR = 0.65
"""Share of the negatives about another relation that take one with the same kinds of subject and target, where there is one."""


def alias(rng: random.Random, name: str, kind: str) -> str | None:
    """Another way to write the same name, if there is one: without accents or hyphens, a person without middle names or with an initial."""
    words = name.split()
    plain = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    forms = [plain, name.replace("-", " "), name.removeprefix("The ")]
    if kind == "person" and len(words) >= 2 and all(word[0].isupper() for word in words):
        forms += [f"{words[0]} {words[-1]}", f"{words[0][0]}. {' '.join(words[1:])}", f"Dr. {name}"]
    others = [form for form in forms if form != name]
    return rng.choice(others) if others else None


class PairMaker:
    """Draws pairs over a set of triples and relations.

    Args:
        triples: facts to draw subjects and targets from.
        use: relation ids to phrase; others are never shown.
        prose: sentences for prefixes and unrelated queries.
        held_out: draw queries from the held-out phrasings (for scoring) instead of the trained ones.
        broad: draw pairs about attributes beyond the lexicon too (`hybrid.scope.attributes`).
        others: ids of further relations that are asked about, but of which no fact is drawn.
    """

    def __init__(
        self, triples: Sequence[Triple], use: Sequence[str], prose: Sequence[str], *, held_out: bool = False, broad: bool = False, others: Sequence[str] = ()
    ):
        self.lexicon = {key: relations()[key] for key in use}
        self.others = [relations()[key] for key in others]
        self.prose, self.held_out, self.broad = prose, held_out, broad
        self.subjects: dict[str, list[str]] = defaultdict(list)
        self.targets: dict[str, list[str]] = defaultdict(list)
        for triple in triples:
            if triple.relation in self.lexicon:
                self.subjects[triple.relation].append(triple.subject)
                self.targets[triple.relation].append(triple.target)
        self.ids = list(self.lexicon)

    def fact(self, rng: random.Random) -> Triple:
        """A fact that somebody might store: real or invented subject, any plausible target."""
        relation = self.lexicon[rng.choice(self.ids)]
        real = self.subjects[relation.id]
        subject = rng.choice(real) if real and rng.random() < 0.6 else invent(relation.subject_type, rng)
        if self.broad and rng.random() < 0.08:
            subject = odd(rng)
        known = self.targets[relation.id]
        target = rng.choice(known) if known and rng.random() < 0.6 else invent(relation.target_type, rng)
        return Triple(relation.id, subject, target)

    def statement(self, rng: random.Random, fact: Triple) -> str:
        """The fact as a store holds it: prompt and target, or as a user typed it."""
        relation, form = self.lexicon[fact.relation], rng.random()
        if form < 0.64:
            return f"{fill(rng.choice(relation.statements), fact.subject)} {fact.target}"
        if form < 0.76:
            return f"{fill(rng.choice(relation.questions), fact.subject)} {fact.target}"
        if form < 0.82:
            return f"{fill(rng.choice(relation.target_first), fact.subject, fact.target)}"
        if form < 0.86:
            return f"{fill(rng.choice(relation.oblique), fact.subject)} {fact.target}"
        return f"{_framed(rng.choice(FRAMES), rng.choice(relation.names), fact.subject)} {fact.target}"

    def query(self, rng: random.Random, relation: Relation, subject: str, *, oblique: float = 0.25) -> str:
        """A query for the relation's value, as prompt, question, short cue or oblique prompt."""
        form = rng.random()
        if form < oblique:
            pool = relation.held_out_oblique if self.held_out else relation.oblique
        elif form < oblique + 0.1:
            return _framed(rng.choice(ASKED + FRAMES), rng.choice(relation.names), subject)
        elif form < oblique + 0.1 + (0.9 - oblique) / 2:
            pool = relation.held_out_statements if self.held_out else relation.statements
        else:
            pool = relation.held_out_questions if self.held_out else relation.questions
        return fill(rng.choice(pool), subject)

    def about(self, rng: random.Random, fact: Triple, kind: str, statement: str | None = None, frame: str | None = None) -> str:
        """A query that the fact does not govern, of one of the negative kinds.

        Args:
            statement: the fact as it was stated; drawn if None.
            frame: the one of `FRAMES` that it was stated in, if any.
        """
        relation = self.lexicon[fact.relation]
        if kind == "mention":
            return rng.choice(MENTIONS).replace("{}", fact.subject)
        if kind == "unrelated":
            return rng.choice(self.prose)
        if kind == "same_subject" and (frame is not None or rng.random() < 0.25):
            return self.dress(rng, self._named_elsewhere(rng, fact, frame or rng.choice(FRAMES)))
        elsewhere = kind == "same_subject" or (kind == "distractor" and rng.random() < 0.5)
        query = self._elsewhere(rng, fact) if elsewhere else self.query(rng, relation, self._other_subject(rng, fact.subject, relation))
        if kind == "distractor":
            return f"{statement or self.statement(rng, fact)}. {query}"
        return self.dress(rng, query)

    def pair(self, rng: random.Random, kind: str) -> Pair:
        """One pair of a kind (see `KINDS`)."""
        fact = self.fact(rng)
        relation = self.lexicon[fact.relation]
        frame = rng.choice(FRAMES) if kind == "same_subject" and rng.random() < 0.2 else None
        statement = f"{_framed(frame, rng.choice(relation.names), fact.subject)} {fact.target}" if frame else self.statement(rng, fact)
        if kind == "in_scope":
            return Pair(statement, self.dress(rng, self.query(rng, relation, fact.subject)), True, kind)
        return Pair(statement, self.about(rng, fact, kind, statement, frame), False, kind)

    def _named_elsewhere(self, rng: random.Random, fact: Triple, frame: str) -> str:
        """A query for something else in its own name, often in the fact's frame; or for any value but the stored one."""
        relation = self.lexicon[fact.relation]
        if rng.random() < 0.1:
            asked = _framed("the {a} of {s}", rng.choice(relation.names), fact.subject)
            query = rng.choice(EXCLUDED).replace("{q}", asked).replace("{t}", fact.target)
            return query[0].upper() + query[1:]
        beyond = self.broad and rng.random() < 0.4
        names = attributes.pick(rng, relation.subject_type, relation.names).names if beyond else self._other_relation(rng, relation).names
        return _framed(frame if rng.random() < 0.5 else rng.choice(ASKED + FRAMES), rng.choice(names), fact.subject)

    def draw(self, rng: random.Random) -> Pair:
        """A pair for training."""
        kind = rng.choices(KINDS, (40, 34, 14, 7, 3, 2))[0]
        if self.broad and kind not in ("mention", "unrelated") and rng.random() < 0.25:
            return self._attribute_pair(rng, kind)
        return self.pair(rng, kind)

    def _attribute_pair(self, rng: random.Random, kind: str) -> Pair:
        """A pair about an attribute beyond the lexicon."""
        near = self.fact(rng)  # lends its subject
        relation = self.lexicon[near.relation]
        own = attributes.pick(rng, relation.subject_type)
        target = near.target if rng.random() < 0.3 else invent(rng.choice(["text", "number", "date", "person", "concept", "place"]), rng)
        statement = attributes.statement(rng, own, near.subject, target)
        if kind == "in_scope":
            return Pair(statement, self.dress(rng, attributes.query(rng, own, near.subject)), True, kind)
        if kind == "neighborhood" or (kind == "distractor" and rng.random() < 0.5):
            query = attributes.query(rng, own, self._other_subject(rng, near.subject, relation))
        elif rng.random() < 0.6:
            query = attributes.query(rng, attributes.pick(rng, relation.subject_type, own.names), near.subject)
        else:
            query = self.query(rng, relation, near.subject)
        return Pair(statement, f"{statement}. {query}" if kind == "distractor" else self.dress(rng, query), False, kind)

    def dress(self, rng: random.Random, query: str) -> str:
        """The query as people put it: behind other text, in a phrase, in lower case, without its mark; mostly as it is."""
        form = rng.random()
        if form < 0.08:
            return f"{rng.choice(self.prose)} {query}"
        if form < 0.1:
            return f"{self.statement(rng, self.fact(rng))}. {query}"
        if form < 0.16:
            return rng.choice(WRAPPERS).replace("{}", query)
        if form < 0.2:
            return query.lower()
        return query.rstrip("?") if form < 0.24 else query

    def _elsewhere(self, rng: random.Random, fact: Triple) -> str:
        """A query about the fact's subject (or its target) for another relation."""
        relation = self.lexicon[fact.relation]
        if self.broad and rng.random() < 0.2:
            return attributes.query(rng, attributes.pick(rng, relation.subject_type, relation.names), fact.subject)
        other = self._other_relation(rng, relation)
        if rng.random() < 0.08:  # the target as a subject: of the same relation, or of any
            return self.query(rng, relation if rng.random() < 0.5 else other, fact.target)
        return self.query(rng, other, fact.subject)

    def _other_relation(self, rng: random.Random, relation: Relation) -> Relation:
        """A relation that the fact says nothing of, mostly of the same kind of subject."""
        pool = self.others if self.others and rng.random() < 0.5 else list(self.lexicon.values())
        others = [r for r in pool if not ambiguous(r.id, relation.id)]
        alike = [r for r in others if r.subject_type == relation.subject_type]
        near = [r for r in alike if r.target_type == relation.target_type]
        if near and self.broad and rng.random() < NEAR:  # the father, not the mother
            return rng.choice(near)
        return rng.choice(alike if alike and rng.random() < 0.75 else others)

    def _other_subject(self, rng: random.Random, subject: str, relation: Relation) -> str:
        form = rng.random()
        if form < 0.35:  # a similar name: one word changed, added or dropped
            words = subject.split()
            at = rng.randrange(len(words))
            change = rng.random()
            if len(words) > 1 and change < 0.6:
                words[at] = word(rng, 1, 2) if change < 0.3 else rng.choice(self.subjects[relation.id] or [word(rng)]).split()[0]
            elif change < 0.8:
                words.insert(at, rng.choice(["New", "North", "South", "Upper", "Old", "Great", "Little", "Saint", "Lower", "West"]))
            else:
                words[at] = _misspelt(rng, words[at])
            similar = " ".join(words)
            if similar != subject:
                return similar
        pool = self.subjects[relation.id]
        for _ in range(10):
            other = rng.choice(pool) if pool and form < 0.8 else invent(relation.subject_type, rng)
            if other != subject:
                return other
        return invent("person", rng)


def _framed(frame: str, name: str, subject: str) -> str:
    return frame.replace("{a}", name).replace("{s}", subject)


def _misspelt(rng: random.Random, name: str) -> str:
    """A name one or two letters away, as Austria is from Australia."""
    letters = list(name)
    for _ in range(rng.randint(2, 3)):
        letters[rng.randrange(len(letters))] = rng.choice("aeiourtlnsm")
    return "".join(letters)
