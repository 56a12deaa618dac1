"""The vector index: FAISS over the ledger's embeddings. Derived: delete it, and it is rebuilt to the same answers.

Up to `Sizes.flat` facts the answers are exact; beyond, they are those of exact search but for about one neighbour in a hundred.
The file is a cache that spares a long-lived store the rebuild; it is read only if its checksum, embedder and
revision say that it fits the ledger. Few additions since it was written are taken from the ledger; what is removed is written out at once.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from stores.errors import Locked
from stores.ledger import Ledger
from stores.lock import exclusive
from stores.nearest import CHUNK, Matrix, Nearest, Sizes

log = logging.getLogger(__name__)

UNSAVED = 2000
"""Additions, or a hundredth of all if that is less, that may be missing from the file."""


class VectorIndex:
    """Inner-product search over unit vectors, kept in step with a ledger."""

    def __init__(self, ledger: Ledger, folder: Path, dimension: int, embedder_hash: str, sizes: Sizes | None = None):
        self.ledger, self.dimension, self.embedder_hash, self.sizes = ledger, dimension, embedder_hash, sizes or Sizes()
        self.file, self.manifest, self.lock = folder / "vectors.faiss", folder / "vectors.json", folder / "vectors.lock"
        self.nearest, self.revision = self._load() or (Nearest.empty(dimension), -1)
        self.saved_revision = self.revision
        self.added, self.removed = 0, 0
        """Since the file was written."""
        self.refresh()

    def __len__(self) -> int:
        return len(self.nearest)

    def refresh(self) -> None:
        """Take in what any process has changed since the last look; costs one small query when nothing has."""
        revision = self.ledger.revision()
        if revision == self.revision:
            return
        touched = self.ledger.touched(self.revision) if self.revision >= 0 else None
        if touched is None:
            self._rebuild()
        else:
            added, gone = touched
            before = len(self.nearest)
            if added or gone:  # an added one may be there already: it was taken back and is in force again
                self.nearest.remove(np.array([*added, *gone], dtype=np.int64))
            self.removed += before - len(self.nearest)
            for ids, vectors in self._chunks(added):
                self.nearest.add(ids, vectors)
                self.added += len(ids)
            if not self.nearest.fits(self.sizes, slack=2):  # a process that lives long
                self._rebuild()
        self.revision = revision

    def search(self, queries: Matrix, k: int) -> list[list[tuple[int, float]]]:
        """The k nearest facts of each query (n, d): (row number, cosine), nearest first."""
        return self.nearest.search(queries, k, self._fetch)

    # -- from the ledger ---------------------------------------------------------------------

    def _rebuild(self) -> None:
        count = self.ledger.embedded()
        if self.sizes.kind(count) != "flat":
            log.warning("indexing %d vectors; this takes some seconds for every 50,000", count)
        self.nearest = Nearest.build(count, self.dimension, self.sizes, lambda n: self._matrix(self.ledger.sample_vectors(n)), self._chunks(None))
        self.removed += 1  # whatever the file says, it is older

    def _matrix(self, vectors: list[bytes]) -> Matrix:
        return np.frombuffer(b"".join(vectors), dtype="<f4").reshape(len(vectors), self.dimension)

    def _chunks(self, numbers: list[int] | None) -> Iterator[tuple[NDArray[np.int64], Matrix]]:
        """All vectors, or some, with their row numbers."""
        rows: list[tuple[int, bytes]] = []
        for row in self.ledger.vectors(numbers):
            rows.append(row)
            if len(rows) == CHUNK:
                yield self._part(rows)
                rows = []
        if rows:
            yield self._part(rows)

    def _part(self, rows: list[tuple[int, bytes]]) -> tuple[NDArray[np.int64], Matrix]:
        return np.array([number for number, _ in rows], dtype=np.int64), self._matrix([vector for _, vector in rows])

    def _fetch(self, numbers: list[int]) -> tuple[list[int], Matrix]:
        rows = list(self.ledger.vectors(numbers))
        return [number for number, _ in rows], self._matrix([vector for _, vector in rows])

    # -- the file ----------------------------------------------------------------------------

    def save(self) -> None:
        """Write the index beside the ledger: a new file, flushed, then renamed over the old one. Another process that is writing is left to it."""
        if self.revision == self.saved_revision:
            return
        if self.saved_revision >= 0 and not self.removed and self.added <= min(UNSAVED, len(self) // 100):
            return
        if not self.nearest.fits(self.sizes):
            self._rebuild()
        try:
            with exclusive(self.lock, wait_seconds=10.0):
                self._write()
        except Locked:
            log.warning("another process is writing %s; this one leaves it as it is", self.file)

    def _write(self) -> None:
        partial = self.file.with_name(f"{self.file.name}.{os.getpid()}.partial")
        faiss.write_index(self.nearest.index, str(partial))
        with partial.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        about = {"sha256": digest, "revision": self.revision, "embedder": self.embedder_hash, "dimension": self.dimension}
        about |= {"kind": self.nearest.kind, "learnt": self.nearest.learnt}
        described = self.manifest.with_name(f"{self.manifest.name}.{os.getpid()}.partial")
        with described.open("wb") as out:
            out.write(json.dumps(about).encode())
            out.flush()
            os.fsync(out.fileno())
        partial.replace(self.file)
        described.replace(self.manifest)
        self.saved_revision, self.added, self.removed = self.revision, 0, 0

    def _load(self) -> tuple[Nearest, int] | None:
        try:
            about = json.loads(self.manifest.read_text(encoding="utf-8"))
            data: Any = np.asarray(np.memmap(self.file, dtype=np.uint8, mode="r"))
            if about["embedder"] != self.embedder_hash or about["sha256"] != hashlib.sha256(data).hexdigest():
                raise ValueError("it belongs to another embedder, or is damaged")
            if about["revision"] > self.ledger.revision():
                raise ValueError("it is newer than the ledger")
            nearest = Nearest(faiss.deserialize_index(data), about["kind"], about["learnt"])
            if not nearest.fits(self.sizes, slack=2):
                raise ValueError("the store has outgrown it")
            return nearest, int(about["revision"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, RuntimeError) as error:
            log.warning("the vector file is not used (%s); it is rebuilt from the ledger", error)
            return None
