"""Optimised values by content, so that a value is computed once; what the base answered, and its columns, likewise: SQLite, beside the ledger or in the cache folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sqlite_utils

ROOM = 2**30
"""Bytes that columns may take; beyond that none are added, and they are computed in each run."""


@dataclass(frozen=True)
class StoredValue:
    """A value (d,) float32, the loss that it reached and the steps that it took."""

    target: np.ndarray
    loss: float
    steps: int


def content_key(**parts: Any) -> str:
    """The key of a value: a hash over everything that it depends on."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


class ValueStore:
    """Values by key. Rows of one write are one transaction."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.db = sqlite_utils.Database(path)
        self.db.enable_wal()
        self.db.execute("PRAGMA busy_timeout = 30000")
        self.db.execute("PRAGMA secure_delete = on")
        self.db["target_values"].create({"key": str, "target": bytes, "loss": float, "steps": int}, pk="key", if_not_exists=True)
        self.db["answers"].create({"key": str, "text": str}, pk="key", if_not_exists=True)
        self.db["columns"].create({"key": str, "size": int, "data": bytes}, pk="key", if_not_exists=True)

    def get(self, keys: Sequence[str]) -> dict[str, StoredValue]:
        """Those of the keys that are stored."""
        found = {}
        for start in range(0, len(keys), 500):
            part = keys[start : start + 500]
            marks = ",".join("?" * len(part))
            for key, target, loss, steps in self.db.execute(f"SELECT key, target, loss, steps FROM target_values WHERE key IN ({marks})", list(part)):
                found[key] = StoredValue(np.frombuffer(target, dtype="<f4"), loss, steps)
        return found

    def put(self, rows: Iterable[tuple[str, StoredValue]]) -> None:
        """Store values; what is there already is replaced."""
        written = [{"key": key, "target": v.target.astype("<f4").tobytes(), "loss": v.loss, "steps": v.steps} for key, v in rows]
        self.db["target_values"].insert_all(written, pk="key", replace=True)

    def answers(self, keys: Sequence[str]) -> dict[str, str]:
        """What the base model answered, by key; those that are stored."""
        found: dict[str, str] = {}
        for start in range(0, len(keys), 500):
            part = list(keys[start : start + 500])
            found |= dict(self.db.execute(f"SELECT key, text FROM answers WHERE key IN ({','.join('?' * len(part))})", part).fetchall())
        return found

    def put_answers(self, texts: Iterable[tuple[str, str]]) -> None:
        """Store answers."""
        self.db["answers"].insert_all([{"key": key, "text": text} for key, text in texts], pk="key", replace=True)

    def columns(self, key: str) -> bytes | None:
        """Some columns as a safetensors file's content; None if they are not stored."""
        row = self.db.execute("SELECT data FROM columns WHERE key = ?", [key]).fetchone()
        return None if row is None else bytes(row[0])

    def has_columns(self, key: str) -> bool:
        """Whether columns are stored."""
        return self.db.execute("SELECT 1 FROM columns WHERE key = ?", [key]).fetchone() is not None

    def put_columns(self, key: str, data: bytes) -> None:
        """Store columns, unless they have taken up their room; what is there already is replaced."""
        with self.db.conn:
            (taken,) = self.db.execute("SELECT coalesce(sum(size), 0) FROM columns WHERE key != ?", [key]).fetchone()
            if taken + len(data) <= ROOM:
                self.db.execute("INSERT OR REPLACE INTO columns VALUES (?, ?, ?)", [key, len(data), data])

    def keep_columns(self, keys: Iterable[str]) -> None:
        """Erase all columns but these."""
        kept = set(keys)
        gone = [row for row in self.db.execute("SELECT key FROM columns").fetchall() if row[0] not in kept]
        with self.db.conn:
            self.db.conn.executemany("DELETE FROM columns WHERE key = ?", gone)

    def forget(self, keys: Iterable[str]) -> None:
        """Erase values, answers and columns, the pages that held them included."""
        gone = [(key,) for key in keys]
        with self.db.conn:
            for table in ("target_values", "answers", "columns"):
                self.db.conn.executemany(f"DELETE FROM {table} WHERE key = ?", gone)
        self.db.vacuum()
        self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Release the file."""
        self.db.close()
