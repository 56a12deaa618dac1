"""The decision with very many facts: recall, time and memory of the index, cost of the name search, and what routing adds to an answer.

python bench/scale.py --count 1000000 --out bench/results/scale.json

Facts are synthetic: invented subjects, the lexicon's wordings, vectors drawn as `bench/vectors.py` says. Times are of one thread, in milliseconds of
the processor (`process_time`) as well as of the clock, so that a busy machine shows.
"""

from __future__ import annotations

import json
import os
import platform
import random
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import faiss
import numpy as np
import torch
from output import write
from ulid import ULID
from vectors import Matrix, Sample, multiply, nearest_cosine, sample

from hybrid.embedder import Embedder
from hybrid.lexicon import fill, plentiful
from hybrid.memory import HybridMemory
from hybrid.pocket.names import invent
from stores import events
from stores.ledger import Ledger
from stores.vectors import VectorIndex

UNRELATED = Path(__file__).parent.parent / "hybrid" / "evaluation" / "unrelated.txt"
K = 8


@contextmanager
def timed(into: dict[str, Any], name: str) -> Iterator[None]:
    """Seconds by the clock and by the processor."""
    clock, processor = time.perf_counter(), time.process_time()
    yield
    into[name] = {"seconds": round(time.perf_counter() - clock, 2), "processor_seconds": round(time.process_time() - processor, 2)}


def each(action: Callable[[Any], Any], items: list[Any]) -> dict[str, float]:
    """Median and 95th percentile of an action, in milliseconds."""
    clock, processor = [], []
    for item in items:
        start, begun = time.perf_counter(), time.process_time()
        action(item)
        processor.append((time.process_time() - begun) * 1000)
        clock.append((time.perf_counter() - start) * 1000)
    found = {"median": statistics.median(clock), "processor_median": statistics.median(processor), "processor_p95": sorted(processor)[int(0.95 * len(items))]}
    return {name: round(value, 3) for name, value in found.items()}


def memory_mb() -> float:
    """What this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1]) if Path("/proc/self/statm").exists() else 0
    return round(pages * resource.getpagesize() / 1e6, 1)


def load(ledger: Ledger, vectors: Matrix, seed: int = 1) -> list[tuple[str, str]]:
    """Rows of facts, names and vectors, written at once with a single event (adding them one by one is what `bench/insert.py` times)."""
    rng = random.Random(seed)
    kinds, subjects, batch = list(plentiful().values()), [], 50_000
    for first in range(0, len(vectors), batch):
        rows, names, blobs = [], [], []
        for number in range(first + 1, min(first + batch, len(vectors)) + 1):
            relation = rng.choice(kinds)
            subject, target = invent(relation.subject_type, rng), f"Town {number}"
            key = json.dumps(["default", f"{subject.casefold()} {number}", relation.name])
            rows.append(
                (number, str(ULID()), key, "active", subject, relation.name, rng.choice(relation.statements), target, "[]", "[]", "default", events.now(), 1)
            )
            names.append((number, subject))
            blobs.append((number, vectors[number - 1].astype("<f4").tobytes()))
            subjects.append((subject, relation.id))
        with ledger.transaction():
            ledger.db.conn.executemany(
                "INSERT INTO facts (number, id, key, status, subject, relation, prompt, target_new, questions, aliases, namespace, created_at, revision) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                rows,
            )
            ledger.db.conn.executemany("INSERT INTO subject_names(rowid, words) VALUES (?, ?)", names)
            ledger.db.conn.executemany("INSERT INTO embeddings VALUES (?, ?)", blobs)
    with ledger.transaction():
        events.append(ledger.db, ledger.actor, "reindex", None, {"facts": len(vectors)})
    return subjects


def exact(vectors: Matrix, queries: Matrix, k: int) -> list[set[int]]:
    """Row numbers of the k nearest of each query, all compared."""
    best: list[tuple[Matrix, Any]] = []
    for at in range(0, len(vectors), 50_000):
        scores = queries @ vectors[at : at + 50_000].T
        top = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        best.append((np.take_along_axis(scores, top, axis=1), top + at + 1))
    scores, numbers = np.hstack([s for s, _ in best]), np.hstack([n for _, n in best])
    order = np.argsort(-scores, axis=1)[:, :k]
    return [set(row) for row in np.take_along_axis(numbers, order, axis=1).tolist()]


def index_part(folder: Path, ledger: Ledger, vectors: Matrix, queries: Matrix, embedder: Embedder) -> dict[str, Any]:
    """Building, saving, loading, recall and time of the vector index; adding to it, removing from it."""
    found: dict[str, Any] = {}
    held = memory_mb()
    with timed(found, "build"):
        index = VectorIndex(ledger, folder, embedder.dimension, embedder.identity.weights_hash)
    found |= {"kind": index.nearest.kind, "memory_mb": round(memory_mb() - held, 1)}
    with timed(found, "save"):
        index.save()
    found["file_mb"] = round(index.file.stat().st_size / 1e6, 1)
    with timed(found, "load"):
        index = VectorIndex(ledger, folder, embedder.dimension, embedder.identity.weights_hash)
    truth = exact(vectors, queries, K)
    hits = [len({n for n, _ in index.search(query[None], K)[0]} & right) for query, right in zip(queries, truth, strict=True)]
    found["recall_at_8"] = round(sum(hits) / (K * len(queries)), 4)
    found["queries"] = len(queries)
    found["search_ms"] = each(lambda query: index.search(query[None], K), list(queries[:200]))
    fresh = np.arange(len(vectors) + 1, len(vectors) + 21, dtype=np.int64)
    found["add_one_ms"] = each(lambda n: index.nearest.add(np.array([n]), queries[:1]), fresh.tolist())
    found["remove_one_ms"] = each(lambda n: index.nearest.remove(np.array([n])), fresh.tolist())
    return found


def names_part(ledger: Ledger, subjects: list[tuple[str, str]], asked: int) -> dict[str, Any]:
    """Time of the name search, and how often a query that names a subject finds a fact about it."""
    rng = random.Random(3)
    queries, right = [], []
    for number in rng.sample(range(len(subjects)), asked):
        subject, relation = subjects[number]
        queries.append(fill(rng.choice(plentiful()[relation].questions), subject))
        right.append(subject)
    found = [ledger.by_number(ledger.search_names(query, K)) for query in queries]
    hits = sum(any(fact.subject == name for fact in facts.values()) for name, facts in zip(right, found, strict=True))
    lines = UNRELATED.read_text(encoding="utf-8").splitlines()
    common = ["the river of the valley in the United Kingdom", "New School of the North and The Republic of the South Island", "My house in the green valley"]
    search = lambda query: ledger.search_names(query, K)  # noqa: E731
    return {
        "subject_found": round(hits / asked, 4),
        "ms": each(search, queries),
        "unrelated_ms": each(search, lines),
        "common_words_ms": each(search, common * 5),
    }


def routing_part(folder: Path, subjects: list[tuple[str, str]], asked: int, quick: bool) -> dict[str, Any]:
    """What deciding costs beside embedding the query and reading its candidates, and beside generating an answer."""
    rng = random.Random(4)
    inside = []
    for number in rng.sample(range(len(subjects)), asked):
        subject, relation = subjects[number]
        inside.append(fill(rng.choice(plentiful()[relation].questions), subject))
    outside = UNRELATED.read_text(encoding="utf-8").splitlines()[:asked]
    found: dict[str, Any] = {"ending_early": quick}
    with HybridMemory(folder) as memory:
        router, scorer = memory.router, memory.router.witness.scorer
        if not quick:
            router._worth = lambda weights: None  # type: ignore[method-assign]
        memory.ask(outside[0], max_new_tokens=4)
        for name, queries in (("named", inside), ("unrelated", outside)):
            parts: dict[str, list[float]] = {"embed": [], "read_all": [], "route": [], "generate": [], "pairs": []}
            for query in queries:
                begun = time.process_time()
                memory.embedder.embed([query])
                parts["embed"].append(time.process_time() - begun)
                before, begun = scorer.pairs, time.process_time()
                decision = memory.route(query)
                parts["route"].append(time.process_time() - begun)
                parts["pairs"].append(float(scorer.pairs - before))
                readings = router.witness.readings(query, [hit.fact for hit in decision.candidates])
                begun = time.process_time()
                router.witness.logits(readings)
                parts["read_all"].append(time.process_time() - begun)
                if name == "unrelated":
                    begun = time.process_time()
                    "".join(memory.stream(query, decision, 48))
                    parts["generate"].append(time.process_time() - begun)
            medians = {part: statistics.median(values) for part, values in parts.items() if values}
            row = {f"{part}_ms": round(value * 1000, 2) for part, value in medians.items() if part != "pairs"}
            row["pairs_read"] = round(statistics.mean(parts["pairs"]), 2)
            row["route_over_embed_and_read_all"] = round(medians["route"] / (medians["embed"] + medians["read_all"]), 3)
            if parts["generate"]:
                row["route_over_generated_answer"] = round(sum(parts["route"]) / sum(parts["generate"]), 4)
            found[name] = row
    return found


def stored_sample(path: Path | None, embedder: Embedder, count: int, asked: int) -> Sample:
    """The embedded statements, kept in a file between runs if one is named."""
    if path is not None and path.is_file():
        with np.load(path) as kept:
            return Sample(kept["st"], kept["g"], kept["q"], kept["sub"].tolist())
    made = sample(embedder, count, asked)
    if path is not None:
        np.savez(path, st=made.statements, g=made.groups, q=made.questions, sub=np.array(made.subjects))
    return made


@click.command()
@click.option("--count", default=1_000_000, show_default=True, help="Facts.")
@click.option("--embedded", default=30_000, show_default=True, help="Statements that are really embedded.")
@click.option("--queries", default=500, show_default=True, help="Questions for the recall.")
@click.option("--routed", default=40, show_default=True, help="Queries that are routed.")
@click.option("--keep", type=click.Path(path_type=Path), help="File for the embedded statements, to spare a second run the embedding.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where the store is made; a temporary folder if none is named.")
@click.option("--out", type=click.Path(path_type=Path))
def main(count: int, embedded: int, queries: int, routed: int, keep: Path | None, folder: Path | None, out: Path | None) -> None:
    """Fill a store with synthetic facts and measure the decision."""
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    embedder = Embedder()
    embedder.embed(["a warm-up"])
    found = stored_sample(keep, embedder, min(embedded, count), queries)
    vectors = multiply(found, count)
    some = np.random.default_rng(5).integers(min(count, len(found.statements)), size=300)
    drawn = vectors[np.random.default_rng(6).permutation(count)[: len(found.statements)]]
    result: dict[str, Any] = {
        "command": f"python bench/scale.py --count {count} --embedded {embedded} --queries {queries} --routed {routed}",
        "machine": f"{platform.machine()}, 1 thread, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores",
        "facts": count,
        "vectors": f"{len(found.statements)} embedded statements of invented facts, the others drawn: a relation's mean and two of its residuals mixed",
        "median_cosine_with_nearest": {
            "embedded": round(nearest_cosine(found.statements[some], found.statements), 4),
            "drawn, as many": round(nearest_cosine(drawn[some], drawn), 4),
        },
    }
    with tempfile.TemporaryDirectory() as temporary:
        place = folder or Path(temporary)
        ledger = Ledger(place / "ledger.db")
        ledger.identify("embedder", embedder.identity)
        with timed(result, "ledger_rows"):
            subjects = load(ledger, vectors)
        result["ledger_mb"] = round((place / "ledger.db").stat().st_size / 1e6, 1)
        result["index"] = index_part(place, ledger, vectors, found.questions[:queries], embedder)
        del vectors, drawn
        write(out, result, echo=False)
        result["names"] = names_part(ledger, subjects, 200)
        ledger.close()
        write(out, result, echo=False)
        result["routing"] = [routing_part(place, subjects, routed, quick) for quick in (True, False)]
    write(out, result)


if __name__ == "__main__":
    main()
