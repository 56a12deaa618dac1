"""What happens when a fact meets the one already in force for its subject and relation.

A party is an author with a source. A party that says something else than before corrects itself; another party that says something else
contradicts. Contradictions are decided by the policy of the store: `newest` (the last one stays in force), `trusted` (the one that comes first in
a list of authors and sources, whichever was told first; among equals the newest), `ask` (nothing is stored until somebody decides). The value that
loses is a contender: it is kept in the history, and shown.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from urllib.parse import urlsplit

from stores.errors import BadRequest, Conflict
from stores.records import Fact

POLICIES = ("newest", "trusted", "ask")
DECISIONS = ("replace", "keep")


class Outcome(Enum):
    """What to do with a new fact."""

    ADD = "add"
    SUPERSEDE = "supersede"
    NOTHING = "nothing"
    KEPT = "kept"
    """The fact in force stays, the new one is a contender."""
    REFUSED = "refused"
    """Not stored; only where many are added, one alone is an error."""


@dataclass(frozen=True)
class ConflictPolicy:
    """How contradictions between parties are decided.

    Args:
        name: one of `POLICIES`.
        trusted: authors, sources (whole, or the beginning up to a slash) and hosts of sources, the most trusted first; for `trusted` only.
    Raises:
        BadRequest: if there is no such policy, or its list is missing or of no use.
    """

    name: str = "newest"
    trusted: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.name not in POLICIES:
            raise BadRequest(f"there is no conflict policy {self.name!r}; choose one of {', '.join(POLICIES)}")
        if (self.name == "trusted") != bool(self.trusted):
            raise BadRequest("`trusted` needs authors or sources, the most trusted first: --trust NAME --trust NAME; the other policies have none")
        if not all(name.strip() for name in self.trusted):
            raise BadRequest("a trusted author or source is empty; give its name")

    def rank(self, fact: Fact) -> int:
        """The place of its author or source in the list, whichever comes first; the length of the list if neither is in it."""
        return next((place for place, name in enumerate(self.trusted) if _vouches(name.strip().casefold(), fact)), len(self.trusted))

    def best(self, facts: Iterable[Fact]) -> Fact:
        """Which of contradicting facts should be in force: the most trusted one, among equals the newest."""
        return min(sorted(facts, key=lambda fact: fact.id, reverse=True), key=self.rank)

    def decide(self, new: Fact, current: Fact | None, contenders: Sequence[Fact] = (), resolve: str | None = None) -> Outcome:
        """What becomes of a new fact that meets `current`.

        Args:
            contenders: the values that lost against `current`.
            resolve: one of `DECISIONS`, by which somebody settles a contradiction whatever the policy.
        Raises:
            Conflict: if the policy is to ask; the message shows both values and the commands that decide.
        """
        if current is None:
            return Outcome.ADD
        if same_value(new, current) and self.rank(new) != self.rank(current):
            return Outcome.SUPERSEDE if self.rank(new) < self.rank(current) else Outcome.NOTHING  # the fact belongs to whom is trusted most
        if new.same_content(current):
            return Outcome.NOTHING
        if not contradicts(new, current) or resolve == "replace":
            return Outcome.SUPERSEDE
        if resolve == "keep" or (known(new, contenders) and self.name == "ask"):
            return Outcome.KEPT
        if self.name == "ask":
            raise Conflict(asked(new, current))
        return Outcome.SUPERSEDE if self.rank(new) <= self.rank(current) else Outcome.KEPT


NEWEST = ConflictPolicy()


def _vouches(name: str, fact: Fact) -> bool:
    source = (fact.source or "").casefold()
    author = (fact.author or "").casefold()
    try:
        host = urlsplit(source).hostname
    except ValueError:
        host = None
    return name in (author, source, host) or source.startswith(name.rstrip("/") + "/")


def same_value(one: Fact, other: Fact) -> bool:
    """Whether both have the same target, but for case and white space."""
    return one.target_new.casefold().split() == other.target_new.casefold().split()


def same_party(one: Fact, other: Fact) -> bool:
    """Whether the same author says both from the same source."""
    return (one.author, one.source) == (other.author, other.source)


def contradicts(one: Fact, other: Fact) -> bool:
    """Whether another party gives another value."""
    return not same_value(one, other) and not same_party(one, other)


def known(new: Fact, contenders: Sequence[Fact]) -> Fact | None:
    """The contender that says what a new fact says."""
    return next((each for each in contenders if same_party(new, each) and new.same_content(each)), None)


def told(fact: Fact) -> str:
    """Who says it, and when: 'anna, https://example.org, told 2026-01-05'."""
    period = [f"valid from {fact.valid_from[:10]}" if fact.valid_from else "", f"valid to {fact.valid_to[:10]}" if fact.valid_to else ""]
    return ", ".join(each for each in (fact.author, fact.source, f"told {fact.created_at[:10]}", *period) if each)


def asked(new: Fact, current: Fact) -> str:
    """The question that the policy `ask` puts, with the commands that answer it."""
    given = [
        "--subject",
        new.subject,
        "--relation",
        new.relation,
        *(word for name in ("source", "author") if (value := getattr(new, name)) for word in (f"--{name}", value)),
    ]
    given += ["--namespace", new.namespace] if new.namespace != "default" else []
    given += [word for name in ("valid_from", "valid_to") if (value := getattr(new, name)) for word in (f"--{name.replace('_', '-')}", value)]
    given += [word for alias in new.aliases for word in ("--alias", alias)]
    command = shlex.join(["hybrid", "add-fact", new.prompt, new.target_new, *given])
    return (
        f"sources contradict each other about {new.subject}, {new.relation}; nothing was stored\n"
        f"  in force  {current.target_new}  ({told(current)}; {current.id})\n"
        f"  new       {new.target_new}  ({told(new)})\n"
        f"Decide: add it again with --resolve replace, or with --resolve keep\n  {command} --resolve replace"
    )


def met(new: Fact, in_force: Sequence[Fact]) -> Fact | None:
    """Which of the facts in force for its subject and relation a new one meets: the one whose period of validity overlaps with its own.

    Raises:
        Conflict: if it overlaps with several periods, and says the same as none of them.
    """
    found = [fact for fact in in_force if fact.overlaps(new)]
    same = [fact for fact in found if new.same_content(fact)]
    if len(found) > 1 and not same:
        periods = "; ".join(f"{fact.target_new} from {(fact.valid_from or 'ever')[:10]} to {(fact.valid_to or 'now')[:10]} ({fact.id})" for fact in found)
        raise Conflict(f"{new.statement!r} overlaps with {len(found)} periods: {periods}; give --valid-from and --valid-to, or forget one of them first")
    return next(iter(same or found), None)
