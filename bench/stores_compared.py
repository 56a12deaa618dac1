"""What one store shows beside another, or beside a running consolidation: for `bench/consolidation.py`."""

from __future__ import annotations

import json
import shutil
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from hybrid.consolidation.workshop import Workshop
from hybrid.memory import HybridMemory
from policies.consolidation import canonical


def given(values: Path, folder: Path) -> Path:
    """A folder for a store that has another's cached values, and base answers."""
    folder.mkdir()
    with closing(sqlite3.connect(values)) as source, closing(sqlite3.connect(folder / "values.db")) as target:
        source.backup(target)
    return folder


def same_set(one: HybridMemory, other: HybridMemory) -> dict[str, Any]:
    """How far apart the weights are that two stores, filled in other orders, give to the same set: what the other has in its weights, as far as both know it."""
    manifest, _ = other.generations.load(other.generations.live())
    wanted = {(f.subject, f.prompt) for f in map(other.ledger.get, manifest.fact_ids)} & {(f.subject, f.prompt) for f in one.ledger.facts()}
    sides = []
    for memory in (one, other):
        facts = canonical(f for f in memory.ledger.facts() if (f.subject, f.prompt) in wanted)
        with Workshop(memory).open() as shop:
            solver = shop.as_made(manifest)
            solver.fill_values(facts)
            sides.append(solver.solve(facts, manifest.settings.get("weight")).changes)
    worst = max(float(np.linalg.norm(sides[0][n].dense - sides[1][n].dense) / np.linalg.norm(sides[1][n].dense)) for n in sides[0])
    return {"same_set": len(wanted), "relative_difference": worst}


CHILD = """
import json, resource, sys
from hybrid.memory import HybridMemory
memory = HybridMemory(sys.argv[1])
memory.ask("The Eiffel Tower is in")
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
loaded = peak()
print("ready", flush=True)
sys.stdin.readline()
done = memory.consolidate(force=True, retry=True)
print(json.dumps({"loaded_mib": round(loaded, 1), "peak_mib": round(peak(), 1), "seconds": done.seconds}), flush=True)
"""


def beside(memory: HybridMemory, asked: Sequence[str], folder: Path) -> dict[str, Any]:
    """Queries to a copy of a store, alone and while another process chooses its set anew, on the same processors; and that process's memory."""
    memory.save()
    shutil.copytree(memory.folder, folder)
    with HybridMemory(folder) as copy:
        number = copy.generations.live()

        old: list[bool] = []

        def times() -> list[float]:
            found = []
            for query in asked:
                started = time.perf_counter()
                answer = copy.ask(query)
                found.append((time.perf_counter() - started) * 1000)
                old.append(answer.generation == number)
            return found

        times()
        alone = times()
        process = subprocess.Popen([sys.executable, "-c", CHILD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.stdin.write("\n")
        process.stdin.flush()
        time.sleep(5)
        during = times() if process.poll() is None else []
        told = json.loads(process.stdout.readline())
        process.communicate()
    return {
        "old_generation_answers": round(sum(old) / len(old), 4),
        "query_ms_alone": round(statistics.median(alone), 1),
        "query_ms_during": round(statistics.median(during), 1) if during else None,
        **told,
    }
