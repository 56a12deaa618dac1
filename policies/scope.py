"""Which stored facts govern a query: calibrated probabilities, a threshold, and what stays of several."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from stores.records import Hit


@dataclass(frozen=True, kw_only=True)
class ScopePolicy:
    """How candidates become governing facts.

    A fact governs when its calibrated probability reaches `threshold`, or, by what the query has of its name and what is known of its relation, one of the two
    beside it; of several, those stay whose probability is within `margin` of the best, at most `most`.
    """

    threshold: float = 0.18
    unfamiliar: float = 0.12
    """The same for facts that the query names and whose relation the lexicon does not know by name: their odd wordings are judged too low."""
    unnamed: float = 0.5
    """The same for facts of whose names the query has half at most: a crowd always has one about something alike."""
    margin: float = 0.25
    most: int = 3
    candidates: int = 8
    """How many facts of the index are looked at."""

    def __post_init__(self) -> None:
        within = all(0 < each < 1 for each in (self.threshold, self.unfamiliar, self.unnamed))
        if not within or self.most < 1 or self.candidates < 1 or self.margin < 0:
            raise ValueError(f"threshold, unfamiliar and unnamed must lie between 0 and 1, most and candidates be at least 1, margin at least 0: {self}")

    def bar(self, evidence: Mapping[str, float]) -> float:
        """From which probability a fact with such evidence (see `Evidence`) governs; `threshold` where nothing is known of it."""
        if not evidence:
            return self.threshold
        if evidence["named"] or evidence["variant"]:
            return self.threshold if evidence["known"] > evidence["guessed"] else self.unfamiliar
        return self.threshold if evidence["shared"] > 0.5 or evidence["before"] else self.unnamed

    def govern(self, hits: Sequence[Hit], moment: str, namespaces: Sequence[str] | None = None) -> list[Hit]:
        """The facts that govern, best first; facts that are not valid at the moment or belong to others never do."""
        firing = sorted((h for h in in_force(hits, moment, namespaces) if h.score >= self.bar(h.evidence)), key=lambda h: (-h.score, h.fact.id))
        return [h for h in firing if h.score >= firing[0].score - self.margin][: self.most]


def in_force(hits: Sequence[Hit], moment: str, namespaces: Sequence[str] | None = None) -> list[Hit]:
    """The hits whose facts are valid at the moment, and belong to one of the namespaces if any are named."""
    return [h for h in hits if h.fact.valid_at(moment) and (namespaces is None or h.fact.namespace in namespaces)]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What speaks for and against a fact governing a query."""

    logit: float
    """The cross-encoder's, averaged over wordings of the fact."""
    named: float
    """1 if the subject's name stands in what is asked."""
    variant: float
    """1 if another spelling of it stands there."""
    longer: float
    """1 if the name found there is part of a longer one."""
    before: float
    """1 if the name stands only in what precedes."""
    shared: float
    """Share of the name's words that stand in what is asked, 0 to 1."""
    own: float
    """How near (cosine) the wording is to the fact's own prompt and relation, and to its relation's wordings in the lexicon; 0 if the name is not found."""
    rival: float
    """How near it is to another relation of the lexicon, at most."""
    known: float
    """1 if the lexicon knows the fact's relation."""
    guessed: float = 0.0
    """1 if it was told from the fact's wording, for want of a name that the lexicon has; for the threshold alone."""
    elsewhere: float = 0.0
    """1 if the query names what it asks for ("the mother of"), and that is not what the fact tells; 2 if there is no doubt about it, if it is worded as
    another relation is, or asks for another kind of value ("where", beside a person)."""
    excluded: float = 0.0
    """1 if the query rules the fact's value out ("other than Oslo")."""
    contrast: float = 0.0
    """By how much `logit` exceeds the highest that the fact would have if it told the same of one of the nearest other relations."""
    judged: float = 0.0
    """What all of this adds up to, in log-odds (`hybrid.scope.judge`)."""

    @property
    def margin(self) -> float:
        """How much nearer the wording is to the fact's relation than to any other."""
        return self.own - self.rival


def probability(evidence: Evidence, weights: Mapping[str, float]) -> float:
    """The calibrated probability that the fact governs: logistic in the evidence; `weights` has `bias`, and one a name that counts."""
    x = weights["bias"] + sum(weights.get(name, 0.0) * value for name, value in asdict(evidence).items())
    return 1 / (1 + math.exp(-max(-60.0, min(60.0, x))))
