"""Rules of behaviour and attached steering vectors: the part of the ledger that is not about facts."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from stores import events
from stores.errors import NotFound
from stores.ledger import Ledger

Kind = Literal["answer", "refuse", "suppress", "never", "instruct"]
LISTS = ("phrases", "examples", "counterexamples")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """One rule. An empty `topic` without `examples` means everywhere.

    `said` is the fixed answer, the refusal or the instruction. `phrases` are the strings that `never` forbids, or the names of
    the subject that `suppress` is about.
    """

    id: str
    kind: Kind
    topic: str
    said: str = ""
    phrases: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()
    counterexamples: tuple[str, ...] = ()
    author: str = ""
    created_at: str = ""
    status: str = "active"

    @property
    def key(self) -> str:
        """What a new rule supersedes: the same topic, treated in the same manner."""
        manner = {"suppress": "suppress", "never": "never"}.get(self.kind, "say")
        said = sorted(phrase.casefold() for phrase in self.phrases) if manner == "never" else []
        return json.dumps([manner, self.topic.casefold(), said], ensure_ascii=False)

    @property
    def everywhere(self) -> bool:
        """Whether it holds for every query."""
        return not self.topic and not self.examples

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return asdict(self) | {name: list(getattr(self, name)) for name in LISTS}

    def same_content(self, other: Rule) -> bool:
        """Whether nothing would change by storing it."""
        mine, theirs = self.content(), other.content()
        return all(mine[name] == theirs[name] for name in mine if name not in ("id", "author", "created_at"))

    def content(self) -> dict[str, Any]:
        """What the log's digest covers."""
        found = self.to_dict()
        del found["status"]
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Steer:
    """A steering vector as the store knows it; the vector lies in a folder of its name."""

    name: str
    sha256: str
    attached: bool = False
    strength: float | None = None
    """Instead of the one that was chosen when it was made."""
    topic: str = ""
    examples: tuple[str, ...] = ()
    counterexamples: tuple[str, ...] = ()

    @property
    def everywhere(self) -> bool:
        """Whether it steers every query."""
        return not self.topic and not self.examples


class RuleTable:
    """Reads and writes rules and steering vectors. Every change is an event; forgetting leaves a tombstone."""

    def __init__(self, ledger: Ledger):
        self.ledger, self.db = ledger, ledger.db

    # -- rules -------------------------------------------------------------------------------

    def rules(self, status: str | None = "active") -> list[Rule]:
        """Rules in the order they came."""
        where, values = ("status = ?", [status]) if status else ("1", [])
        return [_rule(row) for row in self.db.query(f"SELECT * FROM rules WHERE {where} ORDER BY number", values)]

    def get(self, rule_id: str) -> Rule:
        """A rule by its id, or the beginning or the end of it.

        Raises:
            NotFound: if there is none, or several.
        """
        given = rule_id.strip().upper()
        found = [rule for rule in self.rules(None) if given and (rule.id.startswith(given) or rule.id.endswith(given))]
        if len(found) != 1:
            problem = f"there is no rule {rule_id!r}" if not found else f"{len(found)} rules have ids like {rule_id!r}"
            raise NotFound(f"{problem}; `hybrid rules list` shows them")
        return found[0]

    def add(self, rule: Rule) -> tuple[Rule, Rule | None]:
        """Store a rule; returns the one in force and the one that it superseded. A repeated rule changes nothing."""
        with self.ledger.transaction():
            old = next((each for each in self.rules() if each.key == rule.key), None)
            if old is not None and old.same_content(rule):
                return old, None
            if old is not None:
                self.db.execute("UPDATE rules SET status = 'superseded' WHERE id = ?", [old.id])
            salt = secrets.token_hex(16)
            row = rule.to_dict() | {name: json.dumps(getattr(rule, name), ensure_ascii=False) for name in LISTS} | {"key": rule.key, "salt": salt}
            self.db.execute(f"INSERT INTO rules ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})", list(row.values()))
            detail = {"content": events.digest_of(rule.content(), salt), "kind": rule.kind} | ({"superseded": old.id} if old else {})
            events.append(self.db, self.ledger.actor, "add-rule", rule.id, detail)
            return rule, old

    def forget(self, rule_id: str) -> str:
        """Erase a rule with those that it superseded; returns its id.

        Raises:
            NotFound: if there is none, or it has been forgotten already.
        """
        rule = self.get(rule_id)
        if rule.status == "forgotten":
            raise NotFound(f"rule {rule.id} has been forgotten already")
        with self.ledger.transaction():
            for each in [one for one in self.rules(None) if one.key == rule.key and one.status != "forgotten"]:
                self.db.execute(
                    "UPDATE rules SET status = 'forgotten', key = NULL, salt = NULL, topic = '', said = '', phrases = '[]', "
                    "examples = '[]', counterexamples = '[]', author = '' WHERE id = ?",
                    [each.id],
                )
                events.append(self.db, self.ledger.actor, "forget-rule", each.id, {})
        self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # the erased pages must not survive in the log file
        return rule.id

    # -- steering ----------------------------------------------------------------------------

    def steers(self, attached: bool = False) -> list[Steer]:
        """Steering vectors by name, all or only those that are attached."""
        rows = self.db.query("SELECT * FROM steering WHERE attached >= ? ORDER BY name", [int(attached)])
        return [Steer(**_typed(row, ("examples", "counterexamples")) | {"attached": bool(row["attached"])}) for row in rows]

    def steer(self, name: str) -> Steer:
        """One steering vector.

        Raises:
            NotFound: naming those that there are.
        """
        every = {each.name: each for each in self.steers()}
        if name not in every:
            raise NotFound(f"there is no steering vector {name!r}; there {'are ' + ', '.join(every) if every else 'is none: `hybrid steer make` makes one'}")
        return every[name]

    def put_steer(self, steer: Steer, action: str) -> None:
        """Write a steering vector's row; `action` names the event: 'steer' (made), 'attach' or 'detach'."""
        row = asdict(steer) | {name: json.dumps(getattr(steer, name), ensure_ascii=False) for name in ("examples", "counterexamples")}
        with self.ledger.transaction():
            self.db.execute(f"INSERT OR REPLACE INTO steering ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})", list(row.values()))
            events.append(self.db, self.ledger.actor, action, None, {"name": steer.name, "sha256": steer.sha256})

    def remove_steer(self, name: str) -> None:
        """Forget a steering vector."""
        self.steer(name)
        with self.ledger.transaction():
            self.db.execute("DELETE FROM steering WHERE name = ?", [name])
            events.append(self.db, self.ledger.actor, "remove-steer", None, {"name": name})


def _typed(row: Mapping[str, Any], lists: tuple[str, ...]) -> dict[str, Any]:
    return {key: tuple(json.loads(value)) if key in lists else value for key, value in row.items()}


def _rule(row: Mapping[str, Any]) -> Rule:
    known = {field.name for field in fields(Rule)}
    return Rule(**{key: value for key, value in _typed(row, LISTS).items() if key in known})
