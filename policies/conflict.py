"""What happens when a fact meets the one already in force for its subject and relation."""

from __future__ import annotations

from enum import Enum

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
