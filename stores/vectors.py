"""The vector index: FAISS over the ledger's embeddings. Derived: delete it, and it is rebuilt to the same answers.

The file is a cache that spares a long-lived store the rebuild; it is read only if its checksum, embedder and
revision say that it fits the ledger.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

from stores.ledger import Ledger

log = logging.getLogger(__name__)

Matrix = NDArray[np.float32]


class VectorIndex:
    """Exact inner-product search over unit vectors, kept in step with a ledger."""

    def __init__(self, ledger: Ledger, folder: Path, dimension: int, embedder_hash: str):
        self.ledger, self.dimension, self.embedder_hash = ledger, dimension, embedder_hash
        self.file, self.manifest = folder / "vectors.faiss", folder / "vectors.json"
        self.index, self.revision = self._load() or (self._empty(), -1)
        self.saved_revision = self.revision
        self.refresh()

    def __len__(self) -> int:
        return int(self.index.ntotal)

    def _empty(self) -> faiss.Index:
        return faiss.IndexIDMap2(faiss.IndexFlatIP(self.dimension))

    def refresh(self) -> None:
        """Take in what any process has changed since the last look; costs one small query when nothing has."""
        revision = self.ledger.revision()
        if revision == self.revision:
            return
        touched = self.ledger.touched(self.revision) if self.revision >= 0 else None
        if touched is None:
            self.index, rows = self._empty(), list(self.ledger.vectors())
        else:
            added, gone = touched
            if added or gone:  # an added one may be there already: it was taken back and is in force again
                self.index.remove_ids(np.array([*added, *gone], dtype=np.int64))  # type: ignore[arg-type]
            rows = list(self.ledger.vectors(added))
        if rows:
            vectors = np.frombuffer(b"".join(vector for _, vector in rows), dtype="<f4").reshape(len(rows), self.dimension)
            self.index.add_with_ids(np.ascontiguousarray(vectors), np.array([number for number, _ in rows], dtype=np.int64))
        self.revision = revision

    def search(self, queries: Matrix, k: int) -> list[list[tuple[int, float]]]:
        """The k nearest facts of each query (n, d): (row number, cosine), nearest first."""
        k = min(k, len(self))
        if k == 0:
            return [[] for _ in queries]
        scores, numbers = self.index.search(np.ascontiguousarray(queries, dtype=np.float32), k)
        return [[(int(n), float(s)) for n, s in zip(ns, ss, strict=True) if n >= 0] for ns, ss in zip(numbers, scores, strict=True)]

    # -- the file ----------------------------------------------------------------------------

    def save(self) -> None:
        """Write the index beside the ledger: a new file, flushed, then renamed over the old one."""
        if self.revision == self.saved_revision:
            return
        data = faiss.serialize_index(self.index).tobytes()
        about = {"sha256": hashlib.sha256(data).hexdigest(), "revision": self.revision, "embedder": self.embedder_hash, "dimension": self.dimension}
        for path, content in ((self.file, data), (self.manifest, json.dumps(about).encode())):
            partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
            with partial.open("wb") as out:
                out.write(content)
                out.flush()
                os.fsync(out.fileno())
            partial.replace(path)
        self.saved_revision = self.revision

    def _load(self) -> tuple[faiss.Index, int] | None:
        try:
            about = json.loads(self.manifest.read_text(encoding="utf-8"))
            data = self.file.read_bytes()
            if about["embedder"] != self.embedder_hash or about["sha256"] != hashlib.sha256(data).hexdigest():
                raise ValueError("it belongs to another embedder, or is damaged")
            if about["revision"] > self.ledger.revision():
                raise ValueError("it is newer than the ledger")
            index = faiss.deserialize_index(np.frombuffer(data, dtype=np.uint8))
            return index, int(about["revision"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, RuntimeError) as error:
            log.warning("the vector file is not used (%s); it is rebuilt from the ledger", error)
            return None
