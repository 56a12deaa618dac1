"""The vector index is derived: whatever happens to its file, the ledger gives the same answers again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from stores.ledger import Change, Ledger
from stores.vectors import VectorIndex
from tests.test_ledger import fact

DIMENSION = 8


def unit(seed: int) -> np.ndarray:
    vector = np.random.default_rng(seed).normal(size=DIMENSION).astype("<f4")
    return vector / np.linalg.norm(vector)


@pytest.fixture
def ledger(store: Path) -> Ledger:
    made = Ledger(store / "ledger.db")
    with made.transaction():
        made.write([Change(fact(n), unit(n).tobytes()) for n in range(1, 21)])
    return made


def index(ledger: Ledger, store: Path, embedder: str = "hash") -> VectorIndex:
    return VectorIndex(ledger, store, DIMENSION, embedder)


def test_nearest_first_and_exact(ledger: Ledger, store: Path) -> None:
    found = index(ledger, store).search(unit(7)[None], 3)[0]
    assert found[0][0] == 7 and found[0][1] == pytest.approx(1, abs=1e-6)
    assert [s for _, s in found] == sorted((s for _, s in found), reverse=True)


@pytest.mark.parametrize("damage", ["missing", "truncated", "garbage", "no manifest", "bad manifest", "stale", "other embedder"])
def test_a_damaged_file_is_rebuilt(ledger: Ledger, store: Path, damage: str) -> None:
    first = index(ledger, store)
    wanted = first.search(unit(3)[None], 20)
    first.save()
    file, manifest = store / "vectors.faiss", store / "vectors.json"
    assert file.exists()
    if damage == "missing":
        file.unlink()
    elif damage == "truncated":
        file.write_bytes(file.read_bytes()[:-30])
    elif damage == "garbage":
        file.write_bytes(b"\x00" * 100)
    elif damage == "no manifest":
        manifest.unlink()
    elif damage == "bad manifest":
        manifest.write_text("{")
    elif damage == "stale":
        about = json.loads(manifest.read_text())
        manifest.write_text(json.dumps(about | {"revision": 9999}))
    elif damage == "other embedder":
        about = json.loads(manifest.read_text())
        manifest.write_text(json.dumps(about | {"embedder": "another"}))
    assert index(ledger, store).search(unit(3)[None], 20) == wanted


def test_changes_of_others_are_seen(ledger: Ledger, store: Path) -> None:
    reader = index(ledger, store)
    writer = Ledger(store / "ledger.db")
    with writer.transaction():
        writer.write([Change(fact(50), unit(50).tobytes())])
    writer.forget(writer.get(fact(3).id))
    reader.refresh()
    assert len(reader) == 20
    assert reader.search(unit(50)[None], 1)[0][0][1] == pytest.approx(1, abs=1e-6)
    assert 3 not in {number for number, _ in reader.search(unit(3)[None], 20)[0]}


def test_a_saved_file_is_used_and_topped_up(ledger: Ledger, store: Path) -> None:
    index(ledger, store).save()
    with ledger.transaction():
        ledger.write([Change(fact(60), unit(60).tobytes())])
    again = index(ledger, store)
    assert len(again) == 21 and again.saved_revision == 20


def test_empty(store: Path) -> None:
    assert index(Ledger(store / "ledger.db"), store).search(unit(1)[None], 5) == [[]]
