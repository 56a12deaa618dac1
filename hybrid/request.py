"""A request: a fact as it comes in, before it has an id. Checked here, so that nothing half-right is stored."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from hybrid.cue import understand
from policies.conflict import Outcome
from stores.errors import FormatError
from stores.records import Fact

LONGEST = 2000
"""Characters of a statement; longer text is a document, not a fact."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to store; the fields are those of `stores.records.Fact`."""

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

    @property
    def statement(self) -> str:
        """The request as a sentence."""
        before, _, after = self.prompt.partition("{}")
        return f"{before}{self.subject}{after} {self.target_new}"

    def checked(self) -> Request:
        """The request with white space folded and times in UTC.

        Raises:
            FormatError: naming the field that cannot be stored, and what it should be.
        """
        fold = {name: " ".join(getattr(self, name).split()) for name in ("subject", "relation", "prompt", "target_new", "namespace")}
        for name, value in fold.items():
            if not value:
                raise FormatError(f"the {name} is empty; a fact needs a subject, a relation, a prompt, a target and a namespace")
        if fold["prompt"].count("{}") != 1:
            raise FormatError(f"the prompt {fold['prompt']!r} needs exactly one {{}}, where the subject belongs")
        times = {name: utc(getattr(self, name), name) for name in ("valid_from", "valid_to")}
        if times["valid_from"] and times["valid_to"] and times["valid_from"] >= times["valid_to"]:
            raise FormatError(f"the fact would end ({times['valid_to']}) before it begins ({times['valid_from']})")
        questions = tuple(dict.fromkeys(" ".join(q.split()) for q in self.questions if q.strip()))
        aliases = tuple(dict.fromkeys(" ".join(a.split()) for a in self.aliases if a.strip()))
        made = replace(self, **fold, **times, questions=questions, aliases=aliases)  # type: ignore[arg-type]
        if len(made.statement) > LONGEST:
            raise FormatError(f"the statement has {len(made.statement)} characters, more than {LONGEST}; store a shorter fact")
        return made

    def to_fact(self, fact_id: str, author: str, moment: str) -> Fact:
        """The fact that the ledger stores."""
        return Fact(
            id=fact_id, subject=self.subject, relation=self.relation, prompt=self.prompt, target_new=self.target_new,
            target_true=self.target_true, questions=self.questions, aliases=self.aliases, source=self.source,
            author=self.author or author, namespace=self.namespace, valid_from=self.valid_from, valid_to=self.valid_to, created_at=moment,
        )  # fmt: skip


@dataclass(frozen=True)
class Added:
    """What became of a fact: the fact in force, what happened, and the value that it superseded."""

    fact: Fact
    """Of a refused one, the fact that was not stored."""
    outcome: Outcome
    superseded: Fact | None = None
    contender: Fact | None = None
    """The value of another party that lost, the one superseded or the new one."""
    reason: str | None = None
    """Why it was refused."""


def from_cue(cue: str, target: str, *, subject: str | None = None, relation: str | None = None, questions: tuple[str, ...] = (), **fields: Any) -> Request:
    """The request that a cue makes; see `hybrid.cue.understand`. `fields` are the others of `Request`.

    Raises:
        CueError: if the cue was not understood.
    """
    seen = understand(cue, subject=subject, relation=relation)
    asked = (*questions, *seen.questions)
    return Request(subject=seen.subject, relation=seen.relation, prompt=seen.prompt, target_new=target, questions=asked, **fields)


def utc(text: str | None, name: str) -> str | None:
    """An ISO 8601 date or time in UTC; dates begin at midnight.

    Raises:
        FormatError: if it is neither.
    """
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise FormatError(f"{name} is {text!r}; write a date or time such as 2026-03-01 or 2026-03-01T09:00:00+00:00") from error
    return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC).isoformat(timespec="microseconds")
