"""What every format is turned into: a record has requests (the edits) and probes (what is asked once all edits are made)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hybrid.request import Request

Kind = Literal["efficacy", "generalization", "portability", "locality", "scope"]
PLACES = ("in_scope", "neighborhood", "same_subject", "distractor", "unrelated")
"""Where a query stands to the facts; the rows of the routing table."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """One query, and how its answer is judged."""

    kind: Kind
    query: str
    answers: tuple[str, ...] = ()
    """The right answer and its aliases; empty for locality, where only the unedited model's answer counts."""
    group: str = ""
    """The data's own name for the slice, such as `Reasoning`."""
    place: str = ""
    """One of `PLACES`, or empty where it is neither in nor out of scope (a consequence of the fact)."""
    note: str = ""
    """A slice that the evaluation cuts across the data's groups: `disputed` or `undisputed`."""
    versus: tuple[str, str] | None = None
    """(wanted, other) for the papers' probability scores."""
    fact: int | None = None
    """Which of the record's requests governs; any of them if None."""
    counted: bool = True
    """Whether it enters `scores`; what the evaluation adds to the data's own queries stands in `slices` only."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One record of a file."""

    number: int
    """From 1, as errors name it; 0 for queries that belong to none."""
    requests: tuple[Request, ...]
    probes: tuple[Probe, ...]
    generation: tuple[str, ...] = ()
    """Prompts for the fluency of long texts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A file's records, and what was left out of it."""

    records: tuple[Record, ...]
    invalid: int = 0
    """Records that could not be read and were skipped, because the user said so."""
    unanswerable: int = 0
    """Portability queries without an answer: nothing to judge them by."""
    guessed: int = 0
    """Records whose subject does not stand in the prompt as it is written; the words that both share were taken."""
