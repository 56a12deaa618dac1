"""The approximate indexes find what exact search finds, but for the odd neighbour, and stay in step with the ledger."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stores.ledger import Change, Ledger
from stores.nearest import Matrix, Nearest, Sizes, lists, probes
from stores.vectors import VectorIndex
from tests.test_ledger import fact

SMALL = Sizes(flat=200, full=500)
ROOT = Path(__file__).parent.parent


def cloud(count: int, dimension: int, seed: int = 0) -> Matrix:
    """Unit vectors in clusters of about fifty, as subjects of a kind are."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(max(1, count // 50), dimension))
    vectors = centres[rng.integers(len(centres), size=count)] + 0.7 * rng.normal(size=(count, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("<f4")


@pytest.mark.parametrize(("kind", "sizes"), [("lists", Sizes(flat=10_000, full=50_000)), ("quantized", Sizes(flat=1000, full=10_000))])
def test_approximate_search_finds_what_exact_search_finds(kind: str, sizes: Sizes) -> None:
    vectors, ids = cloud(20_000, 48), np.arange(20_000) * 3
    made = Nearest.build(20_000, 48, sizes, lambda n: vectors[:: 20_000 // n], [(ids[:9000], vectors[:9000]), (ids[9000:], vectors[9000:])])
    assert made.kind == kind and len(made) == 20_000
    rng = np.random.default_rng(1)
    queries = vectors[rng.integers(20_000, size=200)] + 0.08 * rng.normal(size=(200, 48))
    queries = (queries / np.linalg.norm(queries, axis=1, keepdims=True)).astype(np.float32)

    def fetch(numbers: list[int]) -> tuple[list[int], Matrix]:
        return numbers, vectors[np.array(numbers) // 3]

    exact = queries @ vectors.T
    hits = 0
    for row, found in zip(exact, made.search(queries, 8, fetch), strict=True):
        assert len(found) == 8 and [c for _, c in found] == sorted((c for _, c in found), reverse=True)
        assert all(c == pytest.approx(row[n // 3], abs=1e-5) for n, c in found)  # cosines are exact even where codes are not
        hits += len({n // 3 for n, _ in found} & set(np.argsort(-row)[:8].tolist()))
    assert hits / 1600 >= 0.99
    made.remove(ids[:100])
    assert len(made) == 19_900
    assert not {n for found in made.search(vectors[:100], 8, fetch) for n, _ in found} & set(ids[:100].tolist())


def test_sizes_choose_and_have_slack() -> None:
    assert [Sizes().kind(n) for n in (0, 50_000, 50_001, 250_000, 250_001)] == ["flat", "flat", "lists", "lists", "quantized"]
    assert lists(1_000_000) == 2048 and probes(2048) == 768
    with pytest.raises(ValueError, match="rise"):
        Sizes(flat=10, full=5)
    flat = Nearest.empty(4)
    flat.add(np.arange(300), cloud(300, 4))
    assert not flat.fits(SMALL) and flat.fits(SMALL, slack=2) and flat.fits(Sizes())


def fill(ledger: Ledger, first: int, last: int) -> Matrix:
    vectors = cloud(last - first, 16, seed=first)
    with ledger.transaction():
        ledger.write([Change(fact(n), v.tobytes()) for n, v in zip(range(first, last), vectors, strict=True)])
    return vectors


def index(ledger: Ledger, store: Path, sizes: Sizes = SMALL) -> VectorIndex:
    return VectorIndex(ledger, store, 16, "hash", sizes)


def test_a_store_that_grows_gets_another_index_when_it_is_saved(store: Path) -> None:
    ledger = Ledger(store / "ledger.db")
    vectors = fill(ledger, 1, 151)
    held = index(ledger, store)
    held.save()
    assert held.nearest.kind == "flat"
    fill(ledger, 151, 301)
    held.refresh()
    assert held.nearest.kind == "flat" and len(held) == 300  # within twice the size
    held.save()
    assert held.nearest.kind == "lists" and json.loads(held.manifest.read_text())["kind"] == "lists"
    fill(ledger, 301, 1101)
    held.refresh()
    assert held.nearest.kind == "quantized" and len(held) == 1100  # more than twice: in a running process, too
    assert held.search(vectors[:1], 1)[0][0] == (1, pytest.approx(1, abs=1e-5))


@pytest.mark.parametrize("sizes", [SMALL, Sizes(flat=100, full=200)])
def test_changes_of_others_reach_an_approximate_index(store: Path, sizes: Sizes) -> None:
    ledger = Ledger(store / "ledger.db")
    fill(ledger, 1, 401)
    held = index(ledger, store, sizes)
    held.save()
    writer = Ledger(store / "ledger.db")
    fresh = fill(writer, 401, 404)
    gone = np.frombuffer(next(iter(writer.vectors([7])))[1], dtype="<f4")
    writer.forget(writer.get(fact(7).id))
    held.refresh()
    assert len(held) == 402
    assert held.search(fresh[:1], 1)[0][0][0] == 401
    assert 7 not in {n for n, _ in held.search(gone[None], 50)[0]}
    again = index(Ledger(store / "ledger.db"), store, sizes)  # the file, topped up
    assert again.search(fresh, 5) == held.search(fresh, 5)


def test_few_additions_are_not_written_but_removals_are(store: Path) -> None:
    ledger = Ledger(store / "ledger.db")
    fill(ledger, 1, 401)
    held = index(ledger, store)
    held.save()
    written = held.file.stat().st_mtime_ns
    fill(ledger, 401, 404)
    held.refresh()
    held.save()
    assert held.file.stat().st_mtime_ns == written and len(index(ledger, store)) == 403
    ledger.forget(ledger.get(fact(9).id))
    held.refresh()
    held.save()
    assert held.file.stat().st_mtime_ns > written and held.saved_revision == ledger.revision()


@pytest.mark.parametrize("moment", ["while writing", "between the two files"])
def test_a_crash_while_saving_loses_nothing(store: Path, moment: str) -> None:
    ledger = Ledger(store / "ledger.db")
    fill(ledger, 1, 401)
    index(ledger, store).save()
    fill(ledger, 401, 501)
    held = index(ledger, store)
    wanted = {n for n, _ in held.search(cloud(1, 16, seed=401), 3)[0]}
    die = "faiss.write_index = lambda i, p: (open(p, 'wb').write(b'half'), os._exit(9))"
    if moment == "between the two files":
        die = "real = pathlib.Path.replace\npathlib.Path.replace = lambda a, b: (real(a, b), os._exit(9))"
    code = f"""
import faiss, os, pathlib, sys
from stores.ledger import Ledger
from stores.nearest import Sizes
from stores.vectors import VectorIndex
store = pathlib.Path(sys.argv[1])
held = VectorIndex(Ledger(store / "ledger.db"), store, 16, "hash", Sizes(flat=200, full=500))
{die}
held.save()
"""
    done = subprocess.run([sys.executable, "-c", code, str(store)], cwd=ROOT, check=False)
    assert done.returncode == 9
    again = index(Ledger(store / "ledger.db"), store)
    assert len(again) == 500 and {n for n, _ in again.search(cloud(1, 16, seed=401), 3)[0]} == wanted


def test_two_processes_may_save_at_once(store: Path) -> None:
    ledger = Ledger(store / "ledger.db")
    fill(ledger, 1, 401)
    code = """
import pathlib, sys
from stores.ledger import Ledger
from stores.nearest import Sizes
from stores.vectors import VectorIndex
store = pathlib.Path(sys.argv[1])
held = VectorIndex(Ledger(store / "ledger.db"), store, 16, "hash", Sizes(flat=200, full=500))
for _ in range(12):
    held.saved_revision = -1
    held.save()
"""
    running = [subprocess.Popen([sys.executable, "-c", code, str(store)], cwd=ROOT) for _ in range(2)]
    assert [each.wait(60) for each in running] == [0, 0]
    again = index(ledger, store)
    assert again.saved_revision == ledger.revision() and len(again) == 400  # the file and its manifest belong together
