"""The records that cross every layer: a fact, a hit, the identity of a store."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from stores.errors import FormatError

Status = Literal["active", "superseded", "contender", "forgotten"]
"""A contender contradicts the fact in force, and lost against it; see `policies.conflict`."""
LISTS = ("questions", "aliases")


@dataclass(frozen=True, kw_only=True, slots=True)
class Fact:
    """One correction, as the user gave it.

    `prompt` is a template with one `{}` for the subject; the target follows it. Times are ISO 8601 in UTC.
    `target_true` is what the model said before, filled when somebody asks for it.
    """

    id: str
    subject: str
    relation: str
    prompt: str
    target_new: str
    target_true: str | None = None
    questions: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    source: str | None = None
    author: str | None = None
    namespace: str = "default"
    valid_from: str | None = None
    valid_to: str | None = None
    created_at: str = ""
    status: Status = "active"
    revision: int = 1
    supersedes: str | None = None

    @property
    def cloze(self) -> str:
        """The prompt with the subject in its place, the target still to come."""
        before, _, after = self.prompt.partition("{}")
        return before + self.subject + after

    @property
    def statement(self) -> str:
        """The fact as a sentence without its period."""
        return f"{self.cloze} {self.target_new}"

    @property
    def key(self) -> str:
        """What a new value supersedes: the same subject and relation in the same namespace."""
        return json.dumps([self.namespace, self.subject.casefold(), self.relation.casefold()], ensure_ascii=False)

    def valid_at(self, moment: str) -> bool:
        """Whether the fact holds at an ISO 8601 moment; `valid_to` is the first moment at which it no longer does."""
        return (self.valid_from or "") <= moment and (self.valid_to is None or moment < self.valid_to)

    def overlaps(self, other: Fact) -> bool:
        """Whether there is a moment at which both hold."""
        return (self.valid_to is None or (other.valid_from or "") < self.valid_to) and (other.valid_to is None or (self.valid_from or "") < other.valid_to)

    def same_content(self, other: Fact) -> bool:
        """Whether the other says exactly the same: nothing would change by storing it."""
        said = ("key", "prompt", "target_new", "questions", "aliases", "source", "valid_from", "valid_to")
        return all(getattr(self, name) == getattr(other, name) for name in said)

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return asdict(self) | {name: list(getattr(self, name)) for name in LISTS}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Fact:
        """The inverse of `to_dict`; keys that a fact does not have are ignored.

        Raises:
            FormatError: if a required field is missing.
        """
        known = {field.name for field in fields(cls)}
        given: dict[str, Any] = {key: tuple(value) if key in LISTS else value for key, value in values.items() if key in known}
        try:
            return cls(**given)
        except TypeError as error:
            raise FormatError(f"not a fact: {error}; it has the fields {', '.join(sorted(values))}") from error

    def tombstone(self) -> Fact:
        """What is left after forgetting: the id and when it was, none of the content."""
        return replace(
            self, subject="", relation="", prompt="", target_new="", target_true=None, questions=(), aliases=(),
            source=None, author=None, valid_from=None, valid_to=None, status="forgotten",
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Hit:
    """A candidate for a query."""

    fact: Fact
    similarity: float
    """Cosine between query and statement, -1 to 1."""
    score: float = 0.0
    """Probability that the fact governs the query, 0 to 1, once the evidence has been weighed."""
    evidence: Mapping[str, float] = field(default_factory=dict, compare=False)
    """What was weighed, see `policies.scope.Evidence`."""


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the append-only log."""

    seq: int
    at: str
    actor: str
    action: str
    fact_id: str | None
    detail: dict[str, Any]
    previous: str
    hash: str


@dataclass(frozen=True, slots=True)
class Identity:
    """A model or embedder as the store knows it."""

    name: str
    revision: str
    weights_hash: str

    def __str__(self) -> str:
        return f"{self.name} ({self.weights_hash[:12]})"
