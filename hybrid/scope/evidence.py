"""What speaks for a fact governing a query: the classifier's opinion, the subject's name, and the relation's wording.

The classifier reads the fact in several wordings (its own statement, and the lexicon's for its relation) and its logits are averaged.
What is asked stands in a query's last sentence, if that names the subject; what precedes it then only distracts.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hybrid.embedder import DEFAULT, Embedder
from hybrid.lexicon import fill, find
from hybrid.scope.names import longer, shared, span, variant, without
from hybrid.scope.phrasings import PRONOUN, Phrasings
from hybrid.scope.scorer import ScopeScorer
from policies.scope import Evidence
from stores.records import Fact

SENTENCE = re.compile(r"(?<=[.!?:])\s+")
WORDINGS = 3
"""Further wordings of a fact that the classifier reads."""


def last_sentence(query: str) -> str:
    """Where a query asks."""
    last = SENTENCE.split(query.strip())[-1]
    return last if len(last) >= 8 else query.strip()


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

    @classmethod
    def of(cls, query: str, fact: Fact, hidden: Collection[str] = ()) -> Reading:
        """Compare names; what stands in the last sentence counts first. Relations that are `hidden` are treated as unknown to the lexicon."""
        last = last_sentence(query)
        names = (fact.subject, *fact.aliases)
        name = max(names, key=lambda n: (span(n, last) is not None, span(n, query) is not None, shared(n, last)))
        where, spelt = span(name, last), False
        if where is None and span(name, query) is None:
            name, where = next(((n, found) for n in names if (found := variant(n, last))), (name, None))
            if where is not None:
                last, spelt = last[: where[0]] + name + last[where[1] :], True
                where = where[0], where[0] + len(name)
        share = shared(name, last)
        before = where is None and span(name, query) is not None
        asked = last if where is not None or share > 0.5 else query
        relation = find(fact.relation)
        relation = None if relation is None or relation.id in hidden else relation
        statements = [f"{fill(fact.prompt, name)} {fact.target_new}"]
        if relation is not None and share > 0.5:
            templates = (relation.questions[0], relation.statements[1], relation.statements[0], relation.questions[1])
            statements += [f"{fill(template, name)} {fact.target_new}" for template in templates]
        elif share > 0.5:
            statements += [f"{question} {fact.target_new}" for question in fact.questions]
        wordings = tuple(dict.fromkeys(statements))[: 1 + WORDINGS]
        forms = (fill(fact.prompt, PRONOUN), f"{PRONOUN} {fact.relation}")
        bare = without(name, asked, span(name, asked), PRONOUN)
        within = where is not None and longer(where, last)
        return cls(asked, where is not None and not spelt, spelt, within, before, share, bare, wordings, None if relation is None else relation.id, forms)


class Witness:
    """Gathers evidence; vectors of wordings that come again are kept."""

    def __init__(self, scorer: ScopeScorer, embedder: Embedder, phrasings: Phrasings | None = None):
        self.scorer, self.phrasings = scorer, phrasings or Phrasings()
        self.embedder = embedder if embedder.name == DEFAULT else Embedder(DEFAULT)
        self._kept: dict[str, NDArray[np.float32]] = {}

    def gather(self, query: str, facts: Sequence[Fact]) -> list[Evidence]:
        """The evidence for each fact."""
        readings = [Reading.of(query, fact, self.phrasings.hidden) for fact in facts]
        pairs = [(wording, reading.asked) for reading in readings for wording in reading.wordings]
        logits = iter(self.scorer.logits([wording for wording, _ in pairs], [asked for _, asked in pairs]))
        margins = self._margins(readings)
        return [
            Evidence(
                logit=sum(next(logits) for _ in reading.wordings) / len(reading.wordings),
                named=float(reading.named),
                variant=float(reading.variant),
                longer=float(reading.longer),
                before=float(reading.before),
                shared=reading.shared,
                margin=margin if reading.relation is not None else 0.0,
                strange=margin if reading.relation is None else 0.0,
            )
            for reading, margin in zip(readings, margins, strict=True)
        ]

    def _margins(self, readings: Sequence[Reading]) -> list[float]:
        """How much nearer the query's wording is to the fact's relation than to any other; 0 where nothing of the name is found."""
        told = [reading for reading in readings if reading.bare is not None]
        self._embed([text for reading in told for text in (reading.bare, *reading.forms) if text is not None])
        margins = []
        for reading in readings:
            if reading.bare is None:
                margins.append(0.0)
                continue
            vector = self._kept[reading.bare]
            own, rival = self.phrasings.own_and_rival(self.phrasings.nearest(vector[None])[0], reading.relation)
            margins.append(max(own, *(float(vector @ self._kept[form]) for form in reading.forms)) - rival)
        return margins

    def _embed(self, texts: Sequence[str]) -> None:
        """Fill the memory of vectors."""
        if len(self._kept) > 4096:
            self._kept.clear()
        new = [text for text in dict.fromkeys(texts) if text not in self._kept]
        self._kept |= dict(zip(new, self.embedder.embed(new), strict=True)) if new else {}
