"""Paths through the facts from an entity that a question names, and how well the question's words explain them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hybrid.chains.asks import ASKS, NOUNS
from hybrid.chains.wording import by_word, content, cues, full_names, joined, stem, weight
from hybrid.lexicon import Relation, fill, find, relations
from hybrid.scope.names import fold
from hybrid.scope.phrasings import PRONOUN, Phrasings
from hybrid.scope.words import UNENDED
from policies.chains import ChainPolicy, Cues, Word, explain
from stores.records import Fact

SENTENCE = re.compile(rf"(?<=[.!?]){UNENDED}\s+(?=[\"'“‘(]*[^\W_a-z])")
LONGEST = 9
"""Words of a name."""
TOKEN = re.compile(r"[^\s/]+")
LED = re.compile(r"(?<=[\w,] )((?:[A-Z][a-z]+ )+)$")
FOLLOWED = re.compile(r"(?: [A-Z][a-z]+)+")
JOINT = re.compile(r"(?i)(?<=\w)['’]s?\b(?= )|(?<=\w )(?:of|where|that|which|who|whose|whom)\b")
OWNED = re.compile(r"[\"'”’]*['’]s? ((?:[\w-]+['’]s )*)")
QUOTES = "\"'“”‘’«»()[],;:"
AROUND = "\"'“”‘’«»()[],;:!?."


@dataclass(frozen=True, slots=True)
class Step:
    """One hop: a fact, or a relation of the lexicon for which the model is asked."""

    cues: Cues
    fact: Fact | None = None
    relation: Relation | None = None


Path = tuple[Step, ...]


class Meanings:
    """The words that speak for a fact: its relation's in the lexicon, or those of the relation that its prompt is nearest to, and its own.

    Args:
        embed: from texts to unit vectors (n, d), of the embedder that made the lexicon's.
    """

    NEAR = 0.6
    """Cosine from which a prompt of no known relation is taken for one of the lexicon's."""

    def __init__(self, embed: Callable[[list[str]], NDArray[np.float32]], phrasings: Phrasings):
        self.embed, self.phrasings = embed, phrasings
        self._kept: dict[tuple[str, str], tuple[Cues, Relation | None]] = {}

    def of(self, fact: Fact) -> tuple[Cues, Relation | None]:
        """Words and their strength, and the relation if the lexicon has it or one like it."""
        key = fact.prompt, fact.relation
        if key not in self._kept:
            relation, trust = find(fact.relation), 1.0
            if relation is None:
                relation, trust = self.phrasings.relation(self.embed([fill(fact.prompt, PRONOUN)]), self.NEAR), 0.8
            words = {word: trust * strength for word, strength in cues()[relation.id].items()} if relation else {}
            for word in {*content(fact.prompt.replace("{}", " ")), *map(" ".join, joined(content(fact.relation)))}:
                words[word] = max(words.get(word, 0.0), 0.9)
            self._kept[key] = words, relation
        return self._kept[key]


def question(query: str) -> str:
    """Where a query asks: its last sentence. A full stop after an initial or a title ends none."""
    return SENTENCE.split(query.strip())[-1]


def names(text: str) -> list[str]:
    """Every run of words that could be a name, without the signs around it."""
    tokens = [match.span() for match in TOKEN.finditer(text)]
    found: dict[str, None] = {}
    for n, (start, _) in enumerate(tokens):
        for _, end in tokens[n : n + LONGEST]:
            run = text[start:end]
            bare = run.strip(AROUND)
            if not content(run) and run[1:].islower() and (start == 0 or run.islower()):  # "Who is"
                continue
            found |= dict.fromkeys(
                each
                for each in (run, bare, run.lstrip(AROUND), run.strip(QUOTES), re.sub(r"['’]s?$", "", bare).strip(AROUND), bare + ".")
                if each and each in text
            )
    return list(found)


def joints(text: str, name: tuple[int, int]) -> int:
    """How often a question goes on from one thing to the next: "of", "'s", and clauses with "that", "where" and the like.

    Neither the name at a span ("The Knight in the Panther's Skin") nor what the question begins with ("At which station") counts.
    """
    start, end = name
    bare = f"{text[:start]}X{text[end:]}"
    begins = ASKS.match(bare)
    return len(JOINT.findall(bare, begins.end("word") if begins is not None else 0))


def outside(text: str, span: tuple[int, int]) -> list[Word]:
    """The question's words, without those of the entity's name; several that are a name together are one.

    Capitals beside the name are taken for more of it ("Major", "Inc").
    """
    start, end = span
    if led := LED.search(text[:start]):
        start = led.start(1)
    if followed := FOLLOWED.match(text[end:]):
        end += followed.end()
    before, after = joined(content(text[:start])), joined(content(text[end:]))
    if owned := OWNED.match(text[end:]):  # "spouse of X's child" asks what "spouse of the child of X" does
        count = 1 + len(owned[1].split())
        before, after = before + after[:count][::-1], after[count:]
    placed = [*((run, at - len(before)) for at, run in enumerate(before)), *((run, at + 1) for at, run in enumerate(after))]
    return [Word(" ".join(run), max(map(weight, run)), place, run if len(run) > 1 else ()) for run, place in placed]


def longer(
    policy: ChainPolicy, words: Sequence[Word], paths: Sequence[Path], about: Callable[[Sequence[str]], dict[str, list[Fact]]], step: Callable[[Fact], Step]
) -> list[Path]:
    """Every path by one more fact, the best of them first; `about` gives facts by the folded name of their subject."""
    ends = {fold(path[-1].fact.target_new): path[-1].fact.target_new for path in paths if path[-1].fact is not None}
    next_facts = about(list(ends.values()))
    found = []
    for path in paths:
        visited = {fold(each.fact.subject) for each in path if each.fact is not None}
        for fact in next_facts.get(fold(path[-1].fact.target_new), ()) if path[-1].fact is not None else ():
            if fold(fact.target_new) not in visited:
                found.append((*path, step(fact)))
    return best(policy, words, found)


def best(policy: ChainPolicy, words: Sequence[Word], paths: Sequence[Path]) -> list[Path]:
    """The paths that explain the question best, best first; of equals, the one that was found first."""
    return sorted(paths, key=lambda path: -score(policy, words, path))[: policy.beam]


def score(policy: ChainPolicy, words: Sequence[Word], path: Path) -> float:
    """See `ChainPolicy.score`."""
    return policy.score(words, [step.cues for step in path], sum(step.fact is None for step in path))


def coverage(words: Sequence[Word], path: Path) -> float:
    """How much of the question a path explains."""
    return explain(words, [step.cues for step in path]).coverage


def typed(found: Cues, relation: Relation | None, asks: str | None) -> Cues:
    """The words of a hop, and the noun behind "which" if the hop leads to such a thing: it then asks for no further one."""
    return {**found, stem(asks): 1.0} if asks is not None and relation is not None and relation.target_type in NOUNS[asks] - {"place"} else found


def lexical(words: Sequence[Word], subject_type: str | None, asks: str | None, most: int = 12) -> list[Step]:
    """Relations of the lexicon that a question names, about things of a type if it is known, those that explain most first."""
    keys = {key for word in words for key in by_word().get(word.stem, {}) if word.stem in full_names(key)}
    fitting = [
        key for key in keys if subject_type is None or (alike(subject_type, relations()[key].subject_type) and relations()[key].subject_type != "concept")
    ]
    ranked = sorted(fitting, key=lambda key: (-sum(word.weight * word.speaks(cues()[key]) for word in words), key))
    return [Step(typed(cues()[key], relations()[key], asks), None, relations()[key]) for key in ranked[:most]]


KINDS = (
    {"place", "country", "city", "continent", "building"},
    {"organization", "company", "team", "band"},
    {"work", "software", "product"},
    {"person", "band"},
    {"concept", "field", "genre", "language", "sport", "species", "chemical", "disease", "event", "award"},
)


def alike(a: str, b: str) -> bool:
    """Whether a thing of one type of the lexicon may be of the other."""
    return a == b or any(a in kind and b in kind for kind in KINDS)
