"""What speaks for a fact governing a query: the classifier's opinion, the subject's name, and the relation's wording.

The classifier reads the fact in several wordings (its own statement, and the lexicon's for its relation) and its logits are averaged. It also reads
what the fact would be if it told of one of the relations that the query is worded most like: a query about the mother suits "the father of" a little,
and "the mother of" far better. What is asked stands in a query's last sentence, if that names the subject; what precedes it then only distracts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.embedder import DEFAULT, Embedder
from hybrid.lexicon import fill, find, relations
from hybrid.lexicon.ambiguous import ambiguous, opposite
from hybrid.scope.names import fold, longer, shared, span, titled, variant, without
from hybrid.scope.nouns import another_kind, elsewhere, excluded
from hybrid.scope.nouns import asked as asked_for
from hybrid.scope.phrasings import PRONOUN, Phrasings, Wording
from hybrid.scope.scorer import ScopeScorer
from hybrid.scope.shortened import partly
from hybrid.scope.stages import Bounds, Worth, bounds, classifier
from policies.scope import Evidence
from stores.records import Fact

SENTENCE = re.compile(r"(?<=[.!?:])(?<!\b\w\.)(?<!\b(?:Dr|Mr|Ms|St)\.)(?<!\bMrs\.)\s+")
"""Initials and titles end no sentence."""
WORDINGS = 3
"""Further wordings of a fact that the classifier reads."""
EXACT, APART = 0.97, 0.1
"""From which cosine with another relation's wording, and how much more than with the fact's own, a query is worded as that relation is."""
RIVALS = 4
"""Other relations that the fact is read as if it told of."""
TOLD = 5
"""Relations that a fact of an unknown one is compared with."""
CERTAIN, AHEAD = 4.4, 1.0
"""From which logit, and how far ahead of any other that it cannot be taken for, one of them is what the fact tells."""


def last_sentence(query: str, *names: str) -> str:
    """Where a query asks; a full stop or a colon in a name ends no sentence, nor does a colon behind it."""
    query = query.strip()
    spelt = (fold(name.rstrip(" .")).removeprefix("the ") for name in names)
    whole = [found.span() for name in spelt for found in re.finditer(re.escape(name) + ":? ?", fold(query))]
    ends = [end.end() for end in SENTENCE.finditer(query) if not any(low < end.end() <= high for low, high in whole)]
    last = query[ends[-1] :] if ends else query
    return last if len(last) >= 8 else query


@dataclass(frozen=True)
class Reading:
    """One fact beside one query: under which name, in which part, and in what words it is to be judged."""

    asked: str
    """Where the query asks; another spelling of the name is written as the fact has it."""
    named: bool
    variant: bool
    longer: bool
    before: bool
    shared: float
    bare: str | None
    """What is asked, without the name."""
    wordings: tuple[str, ...]
    relation: str | None
    forms: tuple[str, ...]
    """The fact's own prompt and relation, without the name."""
    elsewhere: int
    """Whether something else is asked for by name, or another kind of value, see `hybrid.scope.nouns`."""
    excluded: bool
    name: str
    """The fact's name that is compared."""
    target: str

    @classmethod
    def of(cls, query: str, fact: Fact, hidden: Collection[str] = (), guess: str | None = None) -> Reading:
        """Compare names; what stands in the last sentence counts first.

        Args:
            hidden: relations that are treated as unknown to the lexicon.
            guess: the fact's relation if the lexicon does not know the name that it was stored with.
        """
        relation = find(fact.relation) or (relations()[guess] if guess else None)
        relation = None if relation is None or relation.id in hidden else relation
        person = relation is not None and relation.subject_type == "person"
        names = (fact.subject, *fact.aliases)
        last = last_sentence(query, *names)
        name = max(names, key=lambda n: (span(n, last) is not None, span(n, query) is not None, shared(n, last)))
        where, spelt = span(name, last), False
        if where is not None and _ordinary(name, last[slice(*where)], query):
            where = None
        if where is None and span(name, query) is None:
            name, where = next(((n, found) for n in names if (found := variant(n, last)) and not _ordinary(n, last[slice(*found)], query)), (name, None))
            if where is None and person:
                where = partly(name, last)
            if where is not None:
                last, spelt = last[: where[0]] + name + last[where[1] :], True
                where = where[0], where[0] + len(name)
        share = shared(name, last)
        before = where is None and span(name, query) is not None
        asked = last if where is not None or share > 0.5 else query
        statements = [f"{fill(fact.prompt, name)} {fact.target_new}"]
        if relation is not None and share > 0.5:
            templates = (relation.questions[0], relation.statements[1], relation.statements[0], relation.questions[1])
            statements += [f"{fill(template, name)} {fact.target_new}" for template in templates]
        elif share > 0.5:
            statements += [f"{question} {fact.target_new}" for question in fact.questions]
        wordings = tuple(dict.fromkeys(statements))[: 1 + WORDINGS]
        forms = (fill(fact.prompt, PRONOUN), f"{PRONOUN} {fact.relation}")
        stands = span(name, asked)
        bare = without(name, asked, None if stands is None else titled(stands, asked, person), PRONOUN)
        other = 0 if bare is None else elsewhere(asked_for(bare, PRONOUN), relation, " ".join(forms), hidden)
        if bare is not None and relation is not None and another_kind(bare, relation):
            other = 2
        within = where is not None and longer(where, last, person)
        return cls(
            asked,
            where is not None and not spelt,
            spelt,
            within,
            before,
            share,
            bare,
            wordings,
            None if relation is None else relation.id,
            forms,
            other,
            excluded(fact.target_new, last),
            name,
            fact.target_new,
        )

    @property
    def comparable(self) -> bool:
        """Whether enough of the name stands in the query to ask what else is asked about it."""
        return self.bare is not None and self.shared > 0.5

    def _elsewhere(self, wording: Wording) -> float:
        """Whether something else is asked for by name (1); in so many words, or in the words of another relation, too (2)."""
        worded = wording.rival >= EXACT and wording.own <= wording.rival - APART
        if worded and self.relation is not None and wording.rivals and opposite(self.relation, wording.rivals[0]):
            return 2.0
        return 2.0 if self.elsewhere and worded else float(self.elsewhere)

    def evidence(self, logit: float, wording: Wording, contrast: float = 0.0) -> Evidence:
        """What the names tell, with what the classifier and the wordings say."""
        return Evidence(
            logit=logit,
            named=float(self.named),
            variant=float(self.variant),
            longer=float(self.longer),
            before=float(self.before),
            shared=self.shared,
            own=wording.own,
            rival=wording.rival,
            known=float(self.relation is not None),
            elsewhere=self._elsewhere(wording),
            excluded=float(self.excluded),
            contrast=contrast,
        )


@lru_cache(maxsize=1)
def _words() -> frozenset[str]:
    """Ordinary words: those that the lexicon's phrasings are made of."""
    templates = (t for each in relations().values() for t in (*each.statements, *each.questions, *each.oblique))
    return frozenset(word for template in templates for word in re.findall(r"\w+", template) if word.islower())


def _ordinary(name: str, found: str, query: str) -> bool:
    """Whether what was found is an ordinary word and not the name: a name with a capital found without one by somebody who uses them, or HOW found as "How"."""
    smaller = (name[:1].isupper() and found.islower()) or (len(name) > 1 and name.isupper() and not found.isupper())
    return smaller and not query.islower() and fold(found) in _words()


class Witness:
    """Gathers evidence; vectors of wordings that come again are kept."""

    def __init__(self, scorer: ScopeScorer, embedder: Embedder, phrasings: Phrasings | None = None):
        self.scorer, self.phrasings = scorer, phrasings or Phrasings()
        self.embedder = embedder if embedder.name == DEFAULT else Embedder(DEFAULT)
        self._kept: dict[str, NDArray[np.float32]] = {}
        self._guesses: dict[str, str | None] = {}
        """Relations of prompts about a pronoun, and of whole statements."""

    def gather(self, query: str, facts: Sequence[Fact]) -> list[Evidence]:
        """The evidence for each fact."""
        return self.weigh(self.readings(query, facts))

    def readings(self, query: str, facts: Sequence[Fact]) -> list[Reading]:
        """Each fact beside the query."""
        guesses = self._guessed(query, [fact for fact in facts if find(fact.relation) is None])
        return [Reading.of(query, fact, self.phrasings.hidden, guesses.get(fact.statement)) for fact in facts]

    def _guessed(self, query: str, facts: Sequence[Fact]) -> dict[str, str | None]:
        """The relations that statements are worded like, None where that leaves a doubt; where the query names the subject, the classifier is asked, too."""
        if len(self._guesses) > 65536:
            self._guesses.clear()
        prompts = {fact.statement: fill(fact.prompt, PRONOUN) for fact in facts}
        named = [fact for fact in facts if max(shared(name, query) for name in (fact.subject, *fact.aliases)) > 0.5 and fact.statement not in self._guesses]
        new = {prompts[fact.statement] for fact in named} | {prompt for prompt in prompts.values() if prompt not in self._guesses}
        self._embed(sorted(new))
        near = {prompt: self.phrasings.nearest(self._kept[prompt][None])[0] for prompt in new}
        self._guesses |= {prompt: self.phrasings.surely(each) for prompt, each in near.items()}
        for fact in named:
            prompt = prompts[fact.statement]
            self._guesses[fact.statement] = self._told(fact, self.phrasings.best(near[prompt], TOLD), self._guesses[prompt])
        return {said: self._guesses.get(said, self._guesses[prompt]) for said, prompt in prompts.items()}

    def _told(self, fact: Fact, among: Sequence[str], guess: str | None) -> str | None:
        """Which relation the classifier finds told by a statement: the guess, or one that it is sure of and takes for no other; None if there is a doubt."""
        forms = [
            (relation, fill(form, fact.subject)) for relation in among for form in (relations()[relation].questions[0], relations()[relation].statements[0])
        ]
        logits = self.scorer.logits([fact.statement] * len(forms), [form for _, form in forms]) if forms else []
        means = {relation: (a + b) / 2 for relation, a, b in zip(among, logits[::2], logits[1::2], strict=True)}
        best = max(means, key=lambda relation: (means[relation], relation), default=None)
        if best is None or best == guess:
            return best
        rival = max((logit for relation, logit in means.items() if not ambiguous(relation, best)), default=-math.inf)
        return best if means[best] >= CERTAIN and means[best] - rival >= AHEAD else None

    def weigh(self, readings: Sequence[Reading], cosines: Sequence[float] = (), worth: Worth | None = None) -> list[Evidence]:
        """The evidence for each fact.

        Args:
            cosines: of the query with each fact's statement; for `worth` only.
            worth: whether a fact with such evidence would fire. What would not at its best is not read to the end (see `hybrid.scope.stages`), and
                is told of with its own wording's logit, or the usual one. Everything is read if this is None.
        """
        limits = None if worth is None else self.limits
        if worth is None or limits is None:
            wordings, means = self._wordings(readings), [sum(found) / len(found) for found in self.logits(readings)]
            contrasts = self._contrasts(readings, wordings, means)
            told = zip(readings, means, wordings, contrasts, strict=True)
            return [self._judged(one.evidence(mean, wording, contrast)) for one, mean, wording, contrast in told]
        return self._weigh_early(readings, cosines, worth, limits)

    def _weigh_early(self, readings: Sequence[Reading], cosines: Sequence[float], worth: Worth, limits: Bounds) -> list[Evidence]:
        def still(i: int, **known: Any) -> bool:
            return worth(self._judged(limits.ceiling(readings[i], cosines[i], **known)))

        alive = [i for i in range(len(readings)) if still(i)]
        worded = dict(zip(alive, self._wordings([readings[i] for i in alive]), strict=True))
        told = [limits.unread(each, worded.get(i, Wording())) for i, each in enumerate(readings)]
        alive = [i for i in alive if still(i, wording=worded[i])]
        own = dict(zip(alive, (found[0] for found in self.logits([readings[i] for i in alive], slice(1))), strict=True))
        more = [i for i in alive if len(readings[i].wordings) > 1 and still(i, wording=worded[i], logit=own[i] + limits.rise)]
        rest = dict(zip(more, self.logits([readings[i] for i in more], slice(1, None)), strict=True))
        means = {i: (own[i] + sum(rest.get(i, ()))) / (1 + len(rest.get(i, ()))) for i in alive}
        unread = {i for i in alive if len(readings[i].wordings) > 1 and i not in rest}
        alive = [i for i in alive if i not in unread and still(i, wording=worded[i], logit=means[i])]
        contrasts = dict(zip(alive, self._contrasts([readings[i] for i in alive], [worded[i] for i in alive], [means[i] for i in alive]), strict=True))
        for i, mean in means.items():
            told[i] = readings[i].evidence(mean + min(0.0, limits.rise if i in unread else 0.0), worded[i], contrasts.get(i, 0.0))
        return [self._judged(each) for each in told]

    def _judged(self, evidence: Evidence) -> Evidence:
        """With what it adds up to; as it is while that has not been fitted."""
        judge = self.scorer.judge
        return evidence if judge is None else judge.judged(evidence)

    def logits(self, readings: Sequence[Reading], which: slice = slice(None)) -> list[list[float]]:
        """The classifier's logits for the wordings (or some) of each fact, in one batch."""
        pairs = [(wording, reading.asked) for reading in readings for wording in reading.wordings[which]]
        found = iter(self.scorer.logits([wording for wording, _ in pairs], [asked for _, asked in pairs]) if pairs else [])
        return [[next(found) for _ in reading.wordings[which]] for reading in readings]

    @property
    def limits(self) -> Bounds | None:
        """The bounds measured for this classifier, if there are."""
        return bounds(classifier(self.scorer))

    def texts(self, readings: Sequence[Reading]) -> list[str]:
        """What has to be embedded for the facts that the query names, and is not kept, so that a caller can do it with other texts, and `keep` it."""
        return self._new([text for each in readings if each.bare is not None and each.comparable for text in (each.bare, *each.forms)])

    def keep(self, texts: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Remember vectors of texts."""
        if len(self._kept) > 4096:
            self._kept.clear()
        self._kept |= dict(zip(texts, vectors, strict=True))

    def _wordings(self, readings: Sequence[Reading]) -> list[Wording]:
        """What the query's wording is near to; nothing where nothing of the name is found."""
        told = [reading for reading in readings if reading.bare is not None]
        self._embed([text for reading in told for text in (reading.bare, *reading.forms) if text is not None])
        found = []
        for reading in readings:
            if reading.bare is None:
                found.append(Wording())
                continue
            vector = self._kept[reading.bare]
            near = self.phrasings.nearest(vector[None])[0]
            own, rival = self.phrasings.own_and_rival(near, reading.relation)
            own = max(own, *(float(vector @ self._kept[form]) for form in reading.forms))
            found.append(Wording(own, rival, self.phrasings.rivals(near, reading.relation, RIVALS) if reading.comparable else ()))
        return found

    def _contrasts(self, readings: Sequence[Reading], wordings: Sequence[Wording], logits: Sequence[float]) -> list[float]:
        """By how much the logits of facts exceed the highest that they would have if they told of another relation; 0 where there is none to compare."""
        pairs = [
            (f"{fill(relations()[rival].statements[0], reading.name)} {reading.target}", reading.asked)
            for reading, wording in zip(readings, wordings, strict=True)
            for rival in wording.rivals
        ]
        read = iter(self.scorer.logits([statement for statement, _ in pairs], [asked for _, asked in pairs]) if pairs else [])
        highest = [max((next(read) for _ in wording.rivals), default=None) for wording in wordings]
        return [0.0 if top is None else logit - top for logit, top in zip(logits, highest, strict=True)]

    def _new(self, texts: Sequence[str]) -> list[str]:
        return [text for text in dict.fromkeys(texts) if text not in self._kept]

    def _embed(self, texts: Sequence[str]) -> None:
        """Fill the memory of vectors; all of these are in it afterwards."""
        if len(self._kept) > 4096:
            self._kept.clear()
        new = self._new(texts)
        if new:
            self.keep(new, self.embedder.embed(new))
