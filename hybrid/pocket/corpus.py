"""Documents to train pocket on: facts by heart, reading new facts from context, and some prose.

A document is a list of pieces, each with a flag that says whether it is learnt (answers, prose) or only
read. Formats are those that `hybrid.prompts` makes at inference: a statement to complete, or
`Q: ...\\nA:`; before it, optionally, demonstrations and `New fact: ...` lines.
"""

from __future__ import annotations

import random
import re
import tomllib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from hybrid.lexicon import SUBJECT, TARGET, Relation, fill, phrased
from hybrid.pocket.facts import Split, Triple
from hybrid.pocket.names import WORDS, invent, word
from hybrid.prompts import demonstration, new_fact, query_text

Document = list[tuple[str, bool]]
"""(text, learnt) pieces, to be tokenized one by one and joined."""


@dataclass(frozen=True)
class Mixture:
    """Shares of the kinds of documents, and when contexts grow long."""

    prose: float = 0.02
    closed: float = 0.25
    """By heart: no context."""
    retain: float = 0.32
    """A fact known by heart is asked while the context holds facts about other things."""
    several_from: int = 435_000
    """Documents after which contexts hold several facts: reading one is learnt faster alone."""
    again: float = 0.3
    """Of documents with a context, those that go on with a second question on the same context."""
    remark: float = 0.22
    """Of questions without a context, those that stand behind a remark, which may be about anything."""
    gap: float = 0.1
    """Of queries, those whose wording loses a word or two, so that no single word is relied upon."""
    strange: float = 0.15
    """Of facts in context, those with words that mean nothing, so that names are found whatever stands around them."""
    familiar: float = 0.65
    """Of new facts, those of a relation that is also known by heart; the others are of any relation."""
    contradict: float = 0.55
    """Of these, those whose subject has a known value, so that the context must win."""


def read_sentences(path: Path, longest: int = 110) -> list[str]:
    """Sentences of a text that fit on a line, for prefixes and passing remarks."""
    sentences = re.split(r"(?<=[.!?])\s+", " ".join(path.read_text(encoding="utf-8", errors="ignore").replace("\ufffd", " ").split()))
    return [sentence for sentence in sentences if 15 <= len(sentence) <= longest]


@lru_cache(maxsize=1)
def practised() -> Mapping[str, Relation]:
    """The relations that documents are made of: the lexicon's, with the further wordings of those that pocket is taught."""
    more = tomllib.loads(Path(__file__).with_name("wordings.toml").read_text(encoding="utf-8"))
    return {key: _with(relation, more.get(key, {})) for key, relation in phrased().items()}


def _with(relation: Relation, more: Mapping[str, Any]) -> Relation:
    fields: dict[str, Any] = {field: (*getattr(relation, field), *wordings) for field, wordings in more.items()}
    return replace(relation, **fields)


class Corpus:
    """An endless stream of documents; document n depends on the seed and n alone."""

    def __init__(self, split: Split, prose: str, sentences: Sequence[str], *, seed: int, mixture: Mixture | None = None):
        self.split, self.prose, self.sentences, self.seed = split, prose, sentences, seed
        self.mixture = mixture or Mixture()
        self.lexicon = practised()
        self.targets: dict[str, list[str]] = defaultdict(list)
        self.subjects: dict[str, list[str]] = defaultdict(list)
        for triple in (*split.taught, *split.practice):
            self.targets[triple.relation].append(triple.target)
            self.subjects[self.lexicon[triple.relation].subject_type].append(triple.subject)
        self.every = [t for triple in (*split.taught, *split.practice) for t in (triple.subject, triple.target)]
        self.by_subject: dict[str, list[Triple]] = defaultdict(list)
        for triple in split.taught:
            self.by_subject[triple.subject].append(triple)
        self.by_relation: dict[str, list[Triple]] = defaultdict(list)
        for triple in split.taught:
            self.by_relation[triple.relation].append(triple)
        self.familiar, self.every_relation = list(self.by_relation), list(self.lexicon)

    def documents(self, chunk: int, count: int, several: bool | None = None) -> list[Document]:
        """Chunk number `chunk` of `count` documents; contexts of several facts when the time has come, unless told."""
        rng = random.Random(f"{self.seed}/{chunk}")
        late = chunk * count >= self.mixture.several_from if several is None else several
        return [self._document(rng, late) for _ in range(count)]

    def _document(self, rng: random.Random, several: bool) -> Document:
        kind, mixture = rng.random(), self.mixture
        if kind < mixture.prose:
            return self._prose(rng)
        kind -= mixture.prose
        if kind < mixture.closed:
            triple = rng.choice(self.split.taught)
            return [(self._prefix(rng, mixture.remark), False), *self._ask(rng, triple)]
        kind -= mixture.closed
        if kind < mixture.retain:
            return self._retain(rng, several)
        return self._update(rng, several)

    # -- kinds of documents ------------------------------------------------------------------

    def _prose(self, rng: random.Random) -> Document:
        start = rng.randrange(max(1, len(self.prose) - 300))
        return [(" ".join(self.prose[start : start + 200].split(" ")[1:-1]), True)]

    def _update(self, rng: random.Random, several: bool) -> Document:
        """The context states a new fact; the question is about it."""
        triple = self._new_triple(rng)
        count = rng.choice([1, 1, 1, 1, 2, 2, 3]) if several else 1
        facts = [triple, *(self.unrelated(rng, triple) for _ in range(count - 1))]
        if rng.random() < 0.5:
            rng.shuffle(facts)
        else:
            facts.reverse()  # the governing fact last, as answerers put it
        document = [*self._context(rng, facts, several), (self._prefix(rng, 0.08), False), *self._ask(rng, triple)]
        if several and rng.random() < self.mixture.again:
            others = [fact for fact in facts if fact != triple]
            other = rng.choice(others) if others and rng.random() < 0.6 else self._known_beside(rng, facts)
            document += self._ask(rng, other)
        return document

    def _known_beside(self, rng: random.Random, facts: Sequence[Triple]) -> Triple:
        """A fact known by heart that none of the facts contradicts."""
        told = {(fact.subject, relation) for fact in facts for relation in self.lexicon if relation == fact.relation or overlapping(relation, fact.relation)}
        while True:
            triple = rng.choice(self.split.taught)
            if (triple.subject, triple.relation) not in told:
                return triple

    def _retain(self, rng: random.Random, several: bool) -> Document:
        """The context states facts about other things; what is known by heart still holds."""
        triple = rng.choice(self.split.taught)
        count = rng.choice([1, 1, 1, 2, 2, 3]) if several else 1
        facts = [self.unrelated(rng, triple) for _ in range(count)]
        document = [*self._context(rng, facts, several), (self._prefix(rng, 0.08), False), *self._ask(rng, triple)]
        if several and rng.random() < self.mixture.again:
            document += self._ask(rng, facts[0])
        return document

    # -- parts -------------------------------------------------------------------------------

    def _context(self, rng: random.Random, facts: Sequence[Triple], several: bool) -> Document:
        pieces: Document = []
        for _ in range(rng.choice([0] * 14 + [1, 2]) if several else 0):
            pieces += self._demonstration(rng, facts[-1])
        return [*pieces, *((new_fact(self.statement(rng, fact)), False) for fact in facts)]

    def _demonstration(self, rng: random.Random, near: Triple) -> Document:
        """A finished example of the paper's kinds: copy and update follow the new fact, retain does not."""
        relation = near.relation if rng.random() < 0.5 else None
        triple = self._new_triple(rng, relation)
        asked = rng.choice(self.split.taught) if rng.random() < 0.25 else triple
        query, answer = self.question(rng, asked)
        return [(demonstration(self.statement(rng, triple), query, answer), False)]

    def _ask(self, rng: random.Random, triple: Triple) -> Document:
        query, answer = self.question(rng, triple)
        return [(query_text(query), False), (" " + answer + "</s>", True)]

    def _prefix(self, rng: random.Random, share: float) -> str:
        """A sentence of prose or about a thing of its own, if there is one."""
        if rng.random() >= share:
            return ""
        return rng.choice(self.sentences) + " " if rng.random() < 0.6 else self.statement(rng, self._new_triple(rng)) + ". "

    def question(self, rng: random.Random, triple: Triple) -> tuple[str, str]:
        """A trained phrasing that asks for the triple's target, and the target."""
        relation = self.lexicon[triple.relation]
        form = rng.random()
        pool = relation.statements if form < 0.5 else relation.questions if form < 0.88 else relation.oblique
        template = rng.choice(pool)
        if rng.random() < self.mixture.gap:
            template = _with_gap(rng, template)
        query = fill(template, triple.subject)
        if query.endswith("?") and rng.random() < 0.06:
            query = query[:-1] if rng.random() < 0.5 else query[0].lower() + query[1:]
            query = query if query.endswith("?") else query + "?"
        return query, triple.target

    def statement(self, rng: random.Random, triple: Triple) -> str:
        """The triple as a sentence, the target at either end, or as curt as users type."""
        relation = self.lexicon[triple.relation]
        form = rng.random()
        if form < 0.75:
            template = f"{rng.choice(relation.statements)} {TARGET}" if form < 0.5 else rng.choice(relation.target_first)
            if rng.random() < self.mixture.strange:
                template = _with_strange_words(rng, template)
            return fill(template, triple.subject, triple.target)
        if form < 0.85:
            return f"{fill(rng.choice(relation.questions), triple.subject)} {triple.target}"
        if form < 0.9:
            return f"{fill(rng.choice(relation.oblique), triple.subject)} {triple.target}"
        name = rng.choice(relation.names)
        return rng.choice(
            [
                f"The {name} of {triple.subject} is {triple.target}",
                f"{triple.subject} {name}: {triple.target}",
                f"{triple.subject}'s {name} is {triple.target}",
                f"{triple.subject}, {name}, {triple.target}",
                f"{triple.subject} | {name} | {triple.target}",
            ]
        )

    def _new_triple(self, rng: random.Random, relation_id: str | None = None) -> Triple:
        """A counterfactual or invented triple; subject and target from everywhere."""
        relation = self.lexicon[relation_id or rng.choice(self.familiar if rng.random() < self.mixture.familiar else self.every_relation)]
        form = rng.random()
        if form < self.mixture.contradict and self.by_relation[relation.id]:
            subject = rng.choice(self.by_relation[relation.id]).subject
        elif form < self.mixture.contradict + 0.2 and self.subjects[relation.subject_type]:
            subject = rng.choice(self.subjects[relation.subject_type])
        else:
            subject = invent(relation.subject_type, rng)
        return Triple(relation.id, subject, self._target(rng, relation, avoid=subject))

    def _target(self, rng: random.Random, relation: Relation, avoid: str) -> str:
        for _ in range(20):
            form = rng.random()
            if form < 0.35 and self.targets[relation.id]:
                target = rng.choice(self.targets[relation.id])
            elif form < 0.5:
                target = rng.choice(self.every)
            else:
                target = invent(relation.target_type, rng)
            if target != avoid:
                return target
        return invent("person", rng)

    def unrelated(self, rng: random.Random, triple: Triple) -> Triple:
        """A new fact that does not govern the triple: another subject, or another relation of the same subject."""
        form = rng.random()
        if form < 0.3:  # same subject, another relation
            kind = self.lexicon[triple.relation].subject_type
            pool = [t.relation for t in self.by_subject[triple.subject] if t.relation != triple.relation]
            if not pool or rng.random() < 0.5:
                same = [r.id for r in self.lexicon.values() if r.subject_type == kind and r.id != triple.relation]
                pool = [r for r in same if not overlapping(r, triple.relation)] or same
            relation = self.lexicon[rng.choice(pool)] if pool else rng.choice(list(self.lexicon.values()))
            if relation.id != triple.relation and not overlapping(relation.id, triple.relation):
                return Triple(relation.id, triple.subject, self._target(rng, relation, avoid=triple.subject))
        for _ in range(20):
            other = self._new_triple(rng, triple.relation if form < 0.7 else None)
            if other.subject != triple.subject:
                return other
        return Triple(triple.relation, invent("person", rng), invent("place", rng))


def _with_gap(rng: random.Random, template: str) -> str:
    """The template without one word in five; its last word stays, for the target follows it."""
    words = template.split()
    kept = [word for number, word in enumerate(words) if SUBJECT in word or number == len(words) - 1 or rng.random() > 0.2]
    return " ".join(kept)


def _with_strange_words(rng: random.Random, template: str) -> str:
    """The template with one word in three exchanged for another or for one that nobody knows."""
    return " ".join(
        part if SUBJECT in part or TARGET in part or rng.random() > 0.33 else rng.choice(WORDS) if rng.random() < 0.5 else word(rng).lower()
        for part in template.split()
    )


OVERLAPS = (
    {"P17", "P131", "P276", "P30", "P495", "P1001", "P47"},
    {"P103", "P1412"},
    {"P407", "P364"},
    {"P19", "P27", "P551", "P937", "P20"},
    {"P106", "P101", "P39", "P641", "P413", "P136", "P1303"},
    {"P176", "P178", "P127", "P1056"},
    {"P159", "P740"},
    {"P31", "P279", "P361", "P171"},
    {"P36", "P1376", "largest_city"},
    {"P35", "P6", "monarch"},
    {"P50", "P57", "P58", "P162", "P170"},
)


def overlapping(a: str, b: str) -> bool:
    """Whether one relation's value may pass for the other's, so that neither is a fair distractor."""
    return any(a in group and b in group for group in OVERLAPS)
