"""One at a time: a lock that the operating system lets go of when its holder dies, however it dies."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stores.errors import Locked


@contextmanager
def exclusive(path: Path, wait_seconds: float = 0.0) -> Iterator[None]:
    """Hold a lock file while the context lasts; SQLite's own locking, so it works wherever the ledger does.

    Raises:
        Locked: if another process still holds it after the wait.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=0, isolation_level=None)
    deadline = time.monotonic() + wait_seconds
    try:
        while True:
            try:
                connection.execute("BEGIN EXCLUSIVE")
                break
            except sqlite3.OperationalError as error:
                if time.monotonic() >= deadline:
                    raise Locked("another process is at work on the weights of this store; wait for it to end, then try again") from error
                time.sleep(0.05)
        yield
    finally:
        connection.close()
