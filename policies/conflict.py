"""What happens when a fact meets the one already in force for its subject and relation."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from stores.errors import Conflict
from stores.records import Fact


class Outcome(Enum):
    """What to do with a new fact."""

    ADD = "add"
    SUPERSEDE = "supersede"
    NOTHING = "nothing"


def decide(new: Fact, current: Fact | None) -> Outcome:
    """A repeated fact changes nothing, another value supersedes, history is kept."""
    if current is None:
        return Outcome.ADD
    return Outcome.NOTHING if new.same_content(current) else Outcome.SUPERSEDE


def met(new: Fact, in_force: Sequence[Fact]) -> Fact | None:
    """Which of the facts in force for its subject and relation a new one meets: the one whose period of validity overlaps with its own.

    Raises:
        Conflict: if it overlaps with several periods, and says the same as none of them.
    """
    found = [fact for fact in in_force if fact.overlaps(new)]
    same = [fact for fact in found if new.same_content(fact)]
    if len(found) > 1 and not same:
        told = "; ".join(f"{fact.target_new} from {(fact.valid_from or 'ever')[:10]} to {(fact.valid_to or 'now')[:10]} ({fact.id})" for fact in found)
        raise Conflict(f"{new.statement!r} overlaps with {len(found)} periods: {told}; give --valid-from and --valid-to, or forget one of them first")
    return next(iter(same or found), None)
