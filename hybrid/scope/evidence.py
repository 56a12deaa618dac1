"""What speaks for a fact governing a query: the classifier's opinion, the subject's name, and the relation's wording.

The classifier reads the fact in several wordings (its own statement, and the lexicon's for its relation) and its logits are averaged. It also reads
what the fact would be if it told of one of the relations that the query is worded most like: a query about the mother suits "the father of" a little,
and "the mother of" far better. How names and wordings are compared: `hybrid.scope.reading`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.embedder import DEFAULT, Embedder
from hybrid.lexicon import fill, find, relations
from hybrid.lexicon.ambiguous import ambiguous
from hybrid.scope.names import WORD, fold, shared
from hybrid.scope.nouns import another_kind, told_by_name
from hybrid.scope.phrasings import PRONOUN, Phrasings, Wording
from hybrid.scope.reading import Reading
from hybrid.scope.scorer import ScopeScorer
from hybrid.scope.stages import Bounds, Worth, bounds, classifier
from hybrid.scope.typos import mended
from policies.scope import Evidence
from stores.records import Fact

RIVALS = 4
"""Other relations that the fact is read as if it told of."""
TOLD = 5
"""Relations that a fact of an unknown one is compared with."""
CERTAIN, AHEAD = 4.0, 0.7
"""From which logit, and how far ahead of any other that it cannot be taken for, one of them is what the fact tells."""


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
        """Each fact beside the query, slips of the pen put right in both."""
        names = {word for fact in facts for name in (fact.subject, *fact.aliases) for word in WORD.findall(fold(name))}
        query, prompts = mended(query, names), [mended(fact.prompt, names) for fact in facts]
        facts = [fact if prompt == fact.prompt else replace(fact, prompt=prompt) for fact, prompt in zip(facts, prompts, strict=True)]
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
        for prompt, each in near.items():
            guess = told_by_name(prompt, PRONOUN, self.phrasings.hidden) or self.phrasings.surely(each)
            self._guesses[prompt] = None if guess is None or another_kind(prompt, relations()[guess]) else guess
        for fact in named:
            prompt = prompts[fact.statement]
            among = [relation for relation in self.phrasings.best(near[prompt], TOLD) if not another_kind(prompt, relations()[relation])]
            self._guesses[fact.statement] = self._told(fact, among, self._guesses[prompt])
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
        if guess is not None and means.get(guess, -math.inf) >= means[best] - AHEAD:
            return guess
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
