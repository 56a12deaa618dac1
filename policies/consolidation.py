"""Which facts may go into the weights, in what order, and within which limits a generation may go live."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from stores.records import Fact


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A fact in force, with what the store knows about its use."""

    fact: Fact
    answered: int = 0
    """Queries that it governed."""
    confirmed: int = 0
    """Times that it was added again, word for word."""
    held: str | None = None
    """'pin' or 'hold', by hand."""
    failed: str | None = None
    """Why it failed its check before, under the same settings."""
    in_weights: bool = False
    """The live generation was solved for it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a fact may go into the weights, and why (not)."""

    fact: Fact
    eligible: bool
    reason: str


@dataclass(frozen=True, kw_only=True)
class ConsolidationPolicy:
    """When a fact counts as stable, and what the weights cannot hold.

    A fact is stable when it is `min_age_hours` old and was answered or confirmed often enough, or when it has stood for
    `settled_days`; each new value of a fact begins anew. A pinned fact, one that is in the weights already, and every fact of a
    forced run need not wait.
    """

    min_age_hours: float = 24.0
    min_answered: int = 2
    min_confirmed: int = 1
    settled_days: float = 7.0
    namespaces: tuple[str, ...] = ("default",)
    """Weights answer every query alike, so only facts that everyone may see belong in them."""
    authors: tuple[str, ...] | None = None
    """Those whose facts are trusted; all if None."""
    most_a_subject: int = 3
    """Facts on one subject; their keys are alike, and the solve cannot tell many apart."""

    def __post_init__(self) -> None:
        if min(self.min_age_hours, self.min_answered, self.min_confirmed, self.settled_days) < 0 or self.most_a_subject < 1:
            raise ValueError(f"ages and counts must not be negative, and most_a_subject at least 1: {self}")

    def judge(self, candidates: Sequence[Candidate], moment: str, *, force: bool = False, retry: bool = False) -> list[Verdict]:
        """A verdict on each fact, in canonical order.

        Args:
            moment: the present, ISO 8601.
            force: do not wait for facts to prove stable.
            retry: facts that failed before may try again.
        """
        disputed = _disputed([each.fact for each in candidates])
        verdicts = {each.fact.id: self._alone(each, moment, disputed, force, retry) for each in candidates}
        by_subject: dict[str, list[Candidate]] = defaultdict(list)
        for each in candidates:
            if verdicts[each.fact.id].eligible:
                by_subject[each.fact.subject.casefold()].append(each)
        for group in by_subject.values():
            ranked = sorted(group, key=lambda c: (c.held != "pin", content(c.fact)))
            for each in ranked[self.most_a_subject :]:
                why = f"{len(group)} facts are about {each.fact.subject}; weights take {self.most_a_subject} on one subject"
                verdicts[each.fact.id] = Verdict(each.fact, False, why)
        return [verdicts[fact.id] for fact in canonical(each.fact for each in candidates)]

    def _alone(self, candidate: Candidate, moment: str, disputed: set[str], force: bool, retry: bool) -> Verdict:
        fact = candidate.fact
        reason = self._obstacle(candidate, moment, disputed, retry)
        if reason is not None:
            return Verdict(fact, False, reason)
        if candidate.held == "pin":
            return Verdict(fact, True, "pinned")
        if candidate.in_weights:
            return Verdict(fact, True, "in the weights already")
        if force:
            return Verdict(fact, True, "forced")
        hours = (datetime.fromisoformat(moment) - datetime.fromisoformat(fact.created_at)).total_seconds() / 3600
        if hours >= 24 * self.settled_days:
            return Verdict(fact, True, f"has stood for {hours / 24:.0f} days")
        if hours < self.min_age_hours:
            return Verdict(fact, False, f"{hours:.1f} hours old; stable after {self.min_age_hours:g}")
        if candidate.answered >= self.min_answered or candidate.confirmed >= self.min_confirmed:
            return Verdict(fact, True, f"answered {candidate.answered} times, confirmed {candidate.confirmed} times")
        return Verdict(fact, False, f"answered {candidate.answered} times; stable after {self.min_answered}, or after {self.settled_days:g} days")

    def _obstacle(self, candidate: Candidate, moment: str, disputed: set[str], retry: bool) -> str | None:
        """What keeps a fact out of the weights, however old it is."""
        fact = candidate.fact
        if candidate.held == "hold":
            return "held back by hand; `hybrid facts release` lets it go"
        if not fact.subject.strip() or fact.prompt.count("{}") != 1:
            return "no subject in its prompt, so there is nothing to write it to"
        if fact.valid_to is not None:
            return f"ends at {fact.valid_to[:19]}; weights cannot expire"
        if not fact.valid_at(moment):
            return f"begins at {(fact.valid_from or '')[:19]}"
        if fact.namespace not in self.namespaces:
            return f"the namespace {fact.namespace!r} stays in memory"
        if self.authors is not None and fact.author not in self.authors:
            return f"the author {fact.author!r} is not among the trusted"
        if fact.id in disputed:
            return "another fact in force says otherwise"
        if candidate.failed is not None and not retry:
            return f"failed before: {candidate.failed}; --retry tries again"
        return None


def _disputed(facts: Iterable[Fact]) -> set[str]:
    """Facts that contradict each other: one subject and relation, or one subject and prompt, with several targets."""
    said: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for fact in facts:
        for asked in {f"relation {fact.relation.casefold()}", f"prompt {fact.prompt}"}:
            said[fact.subject.casefold(), asked][fact.id] = fact.target_new
    return {each for targets in said.values() if len(set(targets.values())) > 1 for each in targets}


def content(fact: Fact) -> str:
    """What a fact says, without its id and history; facts are ordered by it, so arrival does not matter."""
    return json.dumps([fact.subject, fact.relation, fact.prompt, fact.target_new, fact.namespace, list(fact.questions)], ensure_ascii=False)


def canonical(facts: Iterable[Fact]) -> list[Fact]:
    """Facts in the order in which they are solved."""
    return sorted(facts, key=lambda fact: (content(fact), fact.id))


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a generation may cost, and what a fact must show."""

    min_phrasings: float = 0.5
    """Share of a fact's own questions and other phrasings that it must be given back for, beside its prompt, which it always must."""
    min_same_subject: float = 0.5
    """Share of what the base model knows otherwise about a fact's subject that must stay."""
    min_locality: float = 0.99
    """Share of the whole set's neighbours answered as by the base model, to the letter; those of which it is sure."""
    max_perplexity_drift: float = 0.01
    """Relative change of perplexity on the fixed text."""
    min_fluency: float = 0.9
    """N-gram entropy of free text, relative to the base model's."""
    rounds: int = 12
    """Candidates that are verified, at most."""

    def __post_init__(self) -> None:
        if not all(0 <= share <= 1 for share in (self.min_phrasings, self.min_same_subject, self.min_locality, self.min_fluency)):
            raise ValueError(f"shares lie between 0 and 1: {self}")
        if self.max_perplexity_drift < 0 or self.rounds < 1:
            raise ValueError(f"the drift must not be negative, and there is at least one round: {self}")

    def broken(self, *, locality: float, drift: float, fluency: float, probes: float) -> list[str]:
        """The limits that a candidate breaks, in words."""
        found = []
        if locality < self.min_locality:
            found.append(f"locality {locality:.1%} is below {self.min_locality:.1%}")
        if drift > self.max_perplexity_drift:
            found.append(f"perplexity drift {drift:+.2%} is above {self.max_perplexity_drift:.2%}")
        if fluency < self.min_fluency:
            found.append(f"fluency {fluency:.1%} of the base model's is below {self.min_fluency:.1%}")
        if probes < 1:
            found.append(f"{probes:.1%} of the probes hold")
        return found

    def affordable(self, costs: Sequence[float], total: float, drift: float, spent: float = 0.0) -> int:
        """How many of the cheapest facts to keep within the limit on drift.

        Perplexity drifts with the square of the change, to first order; so the sum of squared costs is brought under the limit.

        Args:
            costs: of the facts that could stay.
            total: sum of the squares of all costs that led to the drift.
            spent: sum of the squares of what stays in any case.
        """
        if drift <= self.max_perplexity_drift:
            return len(costs)
        budget = total * 0.9 * self.max_perplexity_drift / drift
        kept = 0
        for cost in sorted(costs):
            spent += cost**2
            if spent > budget:
                break
            kept += 1
        return kept


def candidates(eligible: Sequence[Fact], live: Collection[str], refused: Collection[str]) -> tuple[list[Fact], set[str]]:
    """Which facts a run takes up, and which of them are newcomers, who leave first when there is no room.

    What is in the weights stays, and newcomers are tried beside it. What found no room before is not tried again because another fact was added or
    forgotten, so a set that loses what it gained is the set that it was.

    Args:
        live: ids in the live generation; empty if there is none, or if it was made with other settings.
        refused: ids that found no room under the same settings.
    """
    new = {fact.id for fact in eligible if fact.id not in live and fact.id not in refused}
    return [fact for fact in eligible if fact.id in live or fact.id in new], new if live else set()


def blamed(shares: Sequence[Sequence[float]], allowed: int) -> list[int]:
    """Which facts to take out so that few enough queries stay changed, those that change most first.

    A changed query counts as restored when the fact with the largest share in its change is out.

    Args:
        shares: of each changed query, how much each fact moves it.
        allowed: queries that may stay changed.
    """
    blame = Counter(max(range(len(row)), key=lambda n: row[n]) for row in shares if any(row))
    left, leaving = len(shares), []
    for fact, count in sorted(blame.items(), key=lambda each: (-each[1], each[0])):
        if left <= allowed:
            break
        leaving.append(fact)
        left -= count
    return leaving
