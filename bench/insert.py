"""How long a fact takes to store: one at a time on a warm process, and in bulk beside the embedder alone.

python bench/insert.py --out bench/results/insert.json
"""

from __future__ import annotations

import platform
import statistics
import tempfile
import time
from pathlib import Path

import click
import torch
from output import write

from hybrid.memory import HybridMemory
from hybrid.request import Request


def request(number: int) -> Request:
    """A synthetic fact."""
    return Request(subject=f"Harbour {number}", relation="capital", prompt="The capital of {} is", target_new=f"Town {number}")


@click.command()
@click.option("--out", type=click.Path(path_type=Path))
@click.option("--bulk", default=5000, show_default=True)
def main(out: Path | None, bulk: int) -> None:
    """Time single and bulk inserts."""
    single: list[float] = []
    embedding: list[float] = []
    with tempfile.TemporaryDirectory() as folder, HybridMemory(folder) as memory:
        for number in range(120):
            started = time.perf_counter()
            memory.add_fact(f"Freedonia{number} capital", f"Sylvan{number}")
            middle = time.perf_counter()
            memory.embedder.embed([f"The capital of Freedonia{number} is Sylvan{number}"])
            single.append((middle - started) * 1000)
            embedding.append((time.perf_counter() - middle) * 1000)
        requests = [request(number) for number in range(bulk)]
        started = time.perf_counter()
        memory.embedder.embed([each.statement for each in requests], batch=64)
        alone = time.perf_counter() - started
        started = time.perf_counter()
        for _ in memory.add_facts(requests):
            pass
        together = time.perf_counter() - started
    beyond = [a - b for a, b in zip(single[20:], embedding[20:], strict=True)]
    result = {
        "command": f"python bench/insert.py --bulk {bulk}",
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "add_fact_ms_median": round(statistics.median(single[20:]), 2),
        "embedding_ms_median": round(statistics.median(embedding[20:]), 2),
        "beyond_embedding_ms_median": round(statistics.median(beyond), 2),
        "beyond_embedding_ms_p95": round(sorted(beyond)[int(0.95 * len(beyond))], 2),
        "bulk_facts": bulk,
        "bulk_facts_per_second": round(bulk / together, 1),
        "embedder_alone_per_second": round(bulk / alone, 1),
    }
    write(out, result)


if __name__ == "__main__":
    main()
