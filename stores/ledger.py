"""The ledger: the one truth about what is stored. One transaction a change, each with its event.

Readers never block and writers queue (write-ahead log, busy timeout). A `Ledger` belongs to one thread.
"""

from __future__ import annotations

import json
import re
import secrets
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlite_utils import Database

from stores import events
from stores.errors import Conflict, Corrupt, Locked, NotFound
from stores.names import having, search
from stores.records import LISTS, Event, Fact, Identity, Status
from stores.schema import migrations

COLUMNS = "id, subject, relation, prompt, target_new, target_true, questions, aliases, source, author, namespace, valid_from, valid_to, created_at, status, revision, supersedes"
NAMES = 2000
"""Of a query are looked up at most."""


@dataclass(frozen=True, slots=True)
class Change:
    """A fact to write, with its vector (float32 bytes) and the fact that it supersedes; a contender supersedes none."""

    fact: Fact
    vector: bytes
    superseded: Fact | None = None
    left: Status = "superseded"
    """What the superseded fact is now."""
    why: str | None = None
    """By which decision, for the log."""


class Ledger:
    """Facts, events and identity in one SQLite file."""

    def __init__(self, path: Path, *, actor: str = "unknown", wait_seconds: float = 30.0):
        """Open or create the ledger.

        Raises:
            Locked: if another process holds it for longer than `wait_seconds`.
            Corrupt: if the file is not a ledger.
        """
        self.path, self.actor = path, actor
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._errors():
            connection = sqlite3.connect(path, timeout=wait_seconds)
            self.db = Database(connection)
            for pragma in ("journal_mode = wal", "synchronous = full", "secure_delete = on", "foreign_keys = on"):
                self.db.execute(f"PRAGMA {pragma}")
            if not self.db.table("_sqlite_migrations").exists() or migrations.pending(self.db):
                with self.transaction():
                    migrations.apply(self.db)

    def close(self) -> None:
        """Release the file."""
        self.db.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if "locked" in str(error) or "busy" in str(error):
                raise Locked(f"{self.path} is held by another process; wait for it to end, then try again") from error
            raise
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.IntegrityError):
                raise
            raise Corrupt(f"{self.path} cannot be read as a ledger ({error}); restore it from a backup, or name another --store") from error

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing. Takes the write lock at once, so that what was read stays true until the commit."""
        with self._errors():
            self.db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self.db.conn.rollback()
                raise
            self.db.conn.commit()

    # -- reading -----------------------------------------------------------------------------

    def revision(self) -> int:
        """The number of the last event: it changes whenever anything does."""
        return int(self.db.execute("SELECT coalesce(max(seq), 0) FROM events").fetchone()[0])

    def _facts(self, where: str, values: Sequence[Any] = (), tail: str = "ORDER BY number") -> list[Fact]:
        return [_fact(row) for row in self.db.execute(f"SELECT {COLUMNS} FROM facts WHERE {where} {tail}", list(values))]

    def get(self, fact_id: str) -> Fact:
        """The fact with this id, or the only one whose id ends (or starts) with these letters.

        Raises:
            NotFound: if none has it.
            Conflict: if several do.
        """
        wanted = fact_id.strip().upper()
        found = self._facts("id = ?", [wanted])
        if not found and re.fullmatch(r"[0-9A-Z]{4,26}", wanted):
            found = self._facts("id LIKE ? OR id LIKE ?", [f"{wanted}%", f"%{wanted}"])
        if not found:
            raise NotFound(f"no fact has the id {fact_id!r}; `hybrid facts list` shows the ids")
        if len(found) > 1:
            raise Conflict(f"{len(found)} facts have ids like {fact_id!r}; give more letters of the one that is meant")
        return found[0]

    def active(self, key: str) -> Fact | None:
        """The fact in force for a key (see `Fact.key`), the first of several."""
        return next(iter(self.in_force(key)), None)

    def in_force(self, key: str) -> list[Fact]:
        """The facts in force for a key; several have periods of validity that do not overlap."""
        return self._facts("key = ? AND status = 'active'", [key])

    def facts(self, *, namespace: str | None = None, status: str | None = "active", text: str | None = None, limit: int | None = None) -> list[Fact]:
        """Facts in the order they came, optionally of one namespace, status, or holding a text."""
        where, values = ["1"], []
        for column, value in (("namespace", namespace), ("status", status)):
            if value is not None:
                where.append(f"{column} = ?")
                values.append(value)
        if text:
            where.append("instr(lower(subject || ' ' || prompt || ' ' || target_new), ?) > 0")
            values.append(text.lower())
        tail = "ORDER BY number" + (f" LIMIT {int(limit)}" if limit is not None else "")
        return self._facts(" AND ".join(where), values, tail)

    def history(self, fact: Fact) -> list[Fact]:
        """Every revision of the fact, oldest first; not those of other periods under its key."""
        if fact.status == "forgotten":
            return [fact]
        under, line = self._facts("key = ?", [fact.key]), {fact.id}
        for _ in under:  # each look finds at least one more, or all are there
            line |= {each.id for each in under if each.supersedes in line} | {each.supersedes for each in under if each.id in line and each.supersedes}
        return [each for each in under if each.id in line]

    def erased_with(self, fact: Fact) -> list[Fact]:
        """What leaves when the fact is forgotten: its history, but of a contender only itself."""
        return [fact] if fact.status == "contender" else self.history(fact)

    def by_number(self, numbers: Iterable[int]) -> dict[int, Fact]:
        """Active facts by row number."""
        numbers = list(numbers)
        marks = ",".join("?" * len(numbers))
        rows = self.db.execute(f"SELECT number, {COLUMNS} FROM facts WHERE status = 'active' AND number IN ({marks})", numbers)
        return {row[0]: _fact(row[1:]) for row in rows}

    def count(self) -> dict[str, int]:
        """How many facts have each status."""
        return dict(self.db.execute("SELECT status, count(*) FROM facts GROUP BY status").fetchall())

    def search_names(self, query: str, limit: int) -> list[int]:
        """Row numbers of active facts whose subject or alias shares the rarest words with the query; see `stores.names.search`."""
        return search(self.db, query, limit)

    def about(self, names: Sequence[str]) -> list[Fact]:
        """Active facts whose subject is one of these names, whatever the case."""
        return self._facts(f"status = 'active' AND subject COLLATE NOCASE IN ({','.join('?' * len(names))})", names) if names else []

    def called(self, names: Sequence[str]) -> list[Fact]:
        """Active facts that have one of these names for an alias, whatever the case."""
        wanted = {name.casefold() for name in names}
        return [fact for fact in self.by_number(having(self.db, names)).values() if wanted & {alias.casefold() for alias in fact.aliases}]

    def ending_in(self, targets: Sequence[str], relations: Sequence[str], limit: int) -> list[Fact]:
        """Active facts with one of these targets and one of these relations, whatever the case; the first so many."""
        some = list(dict.fromkeys(targets))[:NAMES]
        said, told = (",".join("?" * len(each)) for each in (some, relations))
        where = f"status = 'active' AND target_new COLLATE NOCASE IN ({said}) AND relation COLLATE NOCASE IN ({told})"
        return self._facts(where, [*some, *relations], f"ORDER BY number LIMIT {int(limit)}") if some and relations else []

    def vectors(self, numbers: Sequence[int] | None = None) -> Iterator[tuple[int, bytes]]:
        """(row number, float32 bytes) of active facts, all or some."""
        if numbers is None:
            yield from self.db.execute("SELECT number, vector FROM embeddings ORDER BY number")
            return
        for at in range(0, len(numbers), 500):
            some = list(numbers[at : at + 500])
            yield from self.db.execute(f"SELECT number, vector FROM embeddings WHERE number IN ({','.join('?' * len(some))})", some)

    def embedded(self) -> int:
        """How many vectors there are."""
        return int(self.db.execute("SELECT count(*) FROM embeddings").fetchone()[0])

    def sample_vectors(self, count: int) -> list[bytes]:
        """About so many vectors, spread evenly over all; the same ones each time."""
        numbers = [row[0] for row in self.db.execute("SELECT number FROM embeddings ORDER BY number")]
        return [vector for _, vector in self.vectors(numbers[:: max(1, len(numbers) // count)])]

    def numbers(self) -> list[int]:
        """Row numbers of all active facts."""
        return [row[0] for row in self.db.execute("SELECT number FROM facts WHERE status = 'active' ORDER BY number")]

    def touched(self, after: int) -> tuple[list[int], list[int]] | None:
        """Row numbers (in force, no longer in force) of facts with events after a revision; None if all vectors changed."""
        ids: set[str] = set()
        for event in self.events(after):
            if event.action == "reindex":
                return None
            ids |= {each for each in (event.fact_id, event.detail.get("superseded")) if each}
        rows = [row for each in ids for row in self.db.execute("SELECT number, status FROM facts WHERE id = ?", [each])]
        return sorted(n for n, status in rows if status == "active"), sorted(n for n, status in rows if status != "active")

    # -- writing -----------------------------------------------------------------------------

    def write(self, changes: Sequence[Change], actor: str | None = None) -> None:
        """Store facts with their vectors and events; the caller holds the transaction."""
        for change in changes:
            fact, old = change.fact, change.superseded
            if old is not None:
                self.db.execute("UPDATE facts SET status = ? WHERE id = ?", [change.left, old.id])
                self._unindex(old.id)
            salt = secrets.token_hex(16)
            row = fact.to_dict() | {name: json.dumps(getattr(fact, name), ensure_ascii=False) for name in LISTS} | {"key": fact.key, "salt": salt}
            names = ", ".join(row)
            number = self.db.execute(f"INSERT INTO facts ({names}) VALUES ({', '.join('?' * len(row))})", list(row.values())).lastrowid
            detail = {"content": events.digest(fact, salt), "revision": fact.revision} | ({"why": change.why} if change.why else {})
            if old is not None:
                detail["superseded"] = old.id
            if fact.status == "active":
                self._index(number, fact, change.vector)
                action = "supersede" if old else "add"
            else:
                detail["against"], action = fact.supersedes, "contend"
            events.append(self.db, actor or self.actor, action, fact.id, detail)

    def settle(self, fact: Fact, actor: str | None = None) -> None:
        """A contender whose party says something else now is only history; the caller holds the transaction."""
        self.db.execute("UPDATE facts SET status = 'superseded' WHERE id = ? AND status = 'contender'", [fact.id])
        events.append(self.db, actor or self.actor, "settle", fact.id, {})

    def forget(self, fact: Fact, actor: str | None = None) -> list[str]:
        """Erase a fact with all its earlier revisions; returns their ids. What remains are tombstones."""
        with self.transaction():
            gone = self.erased_with(self.get(fact.id))
            for each in gone:
                if each.status == "forgotten":
                    continue
                self._unindex(each.id)
                empty = each.tombstone()
                self.db.execute(
                    "UPDATE facts SET key = NULL, salt = NULL, status = 'forgotten', subject = '', relation = '', prompt = '', target_new = '', "
                    "target_true = NULL, questions = '[]', aliases = '[]', source = NULL, author = NULL, valid_from = NULL, valid_to = NULL WHERE id = ?",
                    [empty.id],
                )
                events.append(self.db, actor or self.actor, "forget", each.id, {})
            self.db.execute("INSERT INTO subject_names(subject_names) VALUES ('optimize')")  # drops the erased words
        self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # the erased pages must not survive in the log file
        return [each.id for each in gone]

    def restore(self, fact: Fact, instead_of: Fact, vector: bytes, actor: str | None = None, *, left: Status = "superseded") -> None:
        """Undo a supersession, or decide for a contender: `instead_of` is a mere revision, or what `left` says, and `fact` is in force."""
        with self.transaction():
            self._unindex(instead_of.id)
            self.db.execute("UPDATE facts SET status = ? WHERE id = ?", [left, instead_of.id])
            self.db.execute("UPDATE facts SET status = 'active' WHERE id = ?", [fact.id])
            number = self.db.execute("SELECT number FROM facts WHERE id = ?", [fact.id]).fetchone()[0]
            self._index(number, fact, vector)
            events.append(self.db, actor or self.actor, "restore", fact.id, {"superseded": instead_of.id})

    def fill_target_true(self, fact_id: str, text: str) -> None:
        """Remember what the model said before the fact was added."""
        with self.transaction():
            self.db.execute("UPDATE facts SET target_true = ? WHERE id = ? AND status != 'forgotten'", [text, fact_id])
            events.append(self.db, self.actor, "observe", fact_id, {})

    def replace_vectors(self, vectors: Iterable[tuple[int, bytes]], embedder: Identity) -> None:
        """Put the vectors of another embedder in place of all, and remember the embedder."""
        with self.transaction():
            self.db.execute("DELETE FROM embeddings")
            self.db.conn.executemany("INSERT INTO embeddings VALUES (?, ?)", vectors)
            self._identify("embedder", embedder)
            events.append(self.db, self.actor, "reindex", None, {"embedder": embedder.weights_hash})

    def _index(self, number: int, fact: Fact, vector: bytes) -> None:
        self.db.execute("INSERT OR REPLACE INTO embeddings VALUES (?, ?)", [number, vector])
        self.db.execute("INSERT OR REPLACE INTO subject_names(rowid, words) VALUES (?, ?)", [number, " ; ".join((fact.subject, *fact.aliases))])

    def _unindex(self, fact_id: str) -> None:
        number = self.db.execute("SELECT number FROM facts WHERE id = ?", [fact_id]).fetchone()[0]
        self.db.execute("DELETE FROM embeddings WHERE number = ?", [number])
        self.db.execute("DELETE FROM subject_names WHERE rowid = ?", [number])

    # -- log and identity --------------------------------------------------------------------

    def events(self, after: int = 0, fact_id: str | None = None) -> Iterator[Event]:
        """The log, in order."""
        return events.read(self.db, after, fact_id)

    def verify(self) -> int:
        """Prove the log; see `stores.events.verify`."""
        return events.verify(self.db)

    def identity(self, role: str) -> Identity | None:
        """What the store was made with in a role: 'model' or 'embedder'."""
        row = self.db.execute("SELECT name, revision, weights_hash FROM identity WHERE role = ?", [role]).fetchone()
        return Identity(*row) if row else None

    def identify(self, role: str, identity: Identity) -> None:
        """Remember what the store is made with."""
        with self.transaction():
            self._identify(role, identity)
            events.append(self.db, self.actor, "identify", None, {"role": role, "name": identity.name, "weights": identity.weights_hash})

    def _identify(self, role: str, identity: Identity) -> None:
        self.db.execute("INSERT OR REPLACE INTO identity VALUES (?, ?, ?, ?)", [role, identity.name, identity.revision, identity.weights_hash])

    def setting(self, name: str) -> str | None:
        """A setting that the store remembers."""
        row = self.db.execute("SELECT value FROM settings WHERE name = ?", [name]).fetchone()
        return row[0] if row else None

    def set(self, name: str, value: str, *, logged: bool = False) -> None:
        """Remember a setting; `logged` if it decides what is in force."""
        with self.transaction():
            self.db.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", [name, value])
            if logged:
                events.append(self.db, self.actor, "set", None, {name: value})


def _fact(row: Sequence[Any]) -> Fact:
    values = dict(zip(COLUMNS.split(", "), row, strict=True))
    return Fact.from_dict(values | {name: json.loads(values[name]) for name in LISTS})


def superseding(fact: Fact, old: Fact | None) -> Fact:
    """The fact with the revision number that follows the old one's."""
    return fact if old is None else replace(fact, revision=old.revision + 1, supersedes=old.id)
