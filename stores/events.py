"""The append-only log: every change of state, chained by hashes so that tampering shows.

An event never holds a fact's content, only a salted digest of it, so that forgetting can erase the content
(and the salt) without breaking the chain.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from sqlite_utils import Database

from stores.errors import Corrupt
from stores.records import Event, Fact

GENESIS = "0" * 64


def now() -> str:
    """The present moment, ISO 8601 in UTC with microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def digest(fact: Fact, salt: str) -> str:
    """A salted SHA-256 of what a fact says; with the salt gone it says nothing about the content."""
    return digest_of({k: v for k, v in fact.to_dict().items() if k not in ("status", "target_true")}, salt)


def digest_of(said: dict[str, Any], salt: str) -> str:
    """A salted SHA-256 of content that is plain types."""
    return hashlib.sha256((salt + json.dumps(said, sort_keys=True, ensure_ascii=False)).encode()).hexdigest()


def chain(previous: str, at: str, actor: str, action: str, fact_id: str | None, detail: str) -> str:
    """The hash of an event, over all that it says and the hash before it."""
    return hashlib.sha256(json.dumps([previous, at, actor, action, fact_id, detail]).encode()).hexdigest()


def append(db: Database, actor: str, action: str, fact_id: str | None, detail: dict[str, Any]) -> int:
    """Add an event inside the caller's transaction and return its number."""
    last = db.execute("SELECT seq, hash FROM events ORDER BY seq DESC LIMIT 1").fetchone() or (0, GENESIS)
    at, said = now(), json.dumps(detail, sort_keys=True, ensure_ascii=False)
    link = chain(last[1], at, actor, action, fact_id, said)
    db.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?)", [last[0] + 1, at, actor, action, fact_id, said, last[1], link])
    return int(last[0]) + 1


def read(db: Database, after: int = 0, fact_id: str | None = None) -> Iterator[Event]:
    """Events in order, optionally of one fact."""
    where, values = ("seq > ?", [after]) if fact_id is None else ("seq > ? AND fact_id = ?", [after, fact_id])
    for row in db.execute(f"SELECT seq, at, actor, action, fact_id, detail, previous, hash FROM events WHERE {where} ORDER BY seq", values):
        yield Event(row[0], row[1], row[2], row[3], row[4], json.loads(row[5]), row[6], row[7])


def verify(db: Database) -> int:
    """Recompute the chain and the digests of the facts that are still there; returns the number of events.

    Raises:
        Corrupt: naming the first event or fact that does not match.
    """
    previous, count = GENESIS, 0
    recorded: dict[str, str] = {}
    for event in read(db):
        said = json.dumps(event.detail, sort_keys=True, ensure_ascii=False)
        link = chain(previous, event.at, event.actor, event.action, event.fact_id, said)
        if event.previous != previous or event.hash != link or event.seq != count + 1:
            raise Corrupt(f"event {event.seq} ({event.action}) does not continue the chain: the log was altered; restore the ledger from a backup")
        if event.fact_id and "content" in event.detail:
            recorded[event.fact_id] = event.detail["content"]
        previous, count = link, event.seq
    db_rows = db.query("SELECT * FROM facts WHERE status != 'forgotten'")
    for row in db_rows:
        fact = Fact.from_dict(row | {name: json.loads(row[name]) for name in ("questions", "aliases")})
        if recorded.get(fact.id) != digest(fact, row["salt"]):
            raise Corrupt(f"fact {fact.id} differs from what the log recorded: it was altered; restore the ledger from a backup")
    for row in db.query("SELECT * FROM rules WHERE status != 'forgotten'"):
        rule = {k: json.loads(v) if k in ("phrases", "examples", "counterexamples") else v for k, v in row.items()}
        content = {k: v for k, v in rule.items() if k not in ("number", "key", "salt", "status")}
        if recorded.get(row["id"]) != digest_of(content, row["salt"]):
            raise Corrupt(f"rule {row['id']} differs from what the log recorded: it was altered; restore the ledger from a backup")
    return count
