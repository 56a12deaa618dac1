"""Killed at any moment, the store opens and nothing acknowledged is lost; two processes share it without error."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from stores.ledger import Ledger
from stores.vectors import VectorIndex

# Writes facts through the library's own path, with vectors that need no model, and acknowledges each on stdout.
WRITER = textwrap.dedent(
    """
    import sys
    import numpy as np
    from hybrid.memory import HybridMemory
    from hybrid.request import Request
    from stores.records import Identity

    class Counting:
        name, dimension, identity = "counting", 8, Identity("counting", "1", "hash")
        def embed(self, texts, **_):
            made = np.stack([np.random.default_rng(abs(hash(t)) % 2**32).normal(size=8) for t in texts]).astype("float32")
            return made / np.linalg.norm(made, axis=1, keepdims=True)

    def open_memory(folder):
        memory = HybridMemory(folder, author="writer")
        memory.embedder = Counting()
        return memory

    def requests(tag, count):
        for i in range(count):
            yield Request(subject=f"{tag}{i}", relation="capital", prompt="The capital of {} is", target_new=f"Town{i}")

    if __name__ == "__main__":
        folder, tag, count, batch = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
        memory = open_memory(folder)
        print("ready", flush=True)
        for number, added in enumerate(memory.add_facts(requests(tag, count), batch=batch)):
            print(added.fact.id, flush=True)
            if number % 10 == 0:
                memory.save()
        print("done", flush=True)
    """
)


@pytest.fixture
def writer(tmp_path: Path) -> Path:
    path = tmp_path / "writer.py"
    path.write_text(WRITER)
    return path


def start(writer: Path, store: Path, tag: str, count: int, batch: int) -> subprocess.Popen[str]:
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    return subprocess.Popen(
        [sys.executable, str(writer), str(store), tag, str(count), str(batch)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    )


@pytest.mark.parametrize("batch", [1, 7])
def test_sigkill_loses_nothing_acknowledged(writer: Path, store: Path, batch: int) -> None:
    rng = random.Random(batch)
    acknowledged: set[str] = set()
    killed = 0
    for attempt in range(8):
        process = start(writer, store, f"r{attempt}-", 4000, batch)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0.02, 0.5))
        process.send_signal(signal.SIGKILL)
        said = process.communicate()[0].split("\n")
        killed += process.returncode == -signal.SIGKILL
        acknowledged |= {line for line in said[:-1] if len(line) == 26}
        ledger = Ledger(store / "ledger.db")
        assert acknowledged <= {fact.id for fact in ledger.facts()}
        assert ledger.verify() >= len(acknowledged)
        index = VectorIndex(ledger, store, 8, "hash")
        assert len(index) == len(ledger.facts())
        ledger.close()
    assert killed >= 6 and acknowledged, "the writer was meant to be killed while it worked"


def test_two_writers_and_a_reader(writer: Path, store: Path) -> None:
    processes = [start(writer, store, tag, 150, 3) for tag in ("left", "right")]
    reader = Ledger(store / "ledger.db")
    index = VectorIndex(reader, store, 8, "hash")
    seen = 0
    while any(process.poll() is None for process in processes):
        index.refresh()
        assert len(index) >= seen
        seen = len(index)
        time.sleep(0.01)
    for process in processes:
        out, err = process.communicate()
        assert process.returncode == 0, err
        assert out.endswith("done\n")
    index.refresh()
    assert len(index) == 300 == len(reader.facts())
    tags = {fact.subject.rstrip("0123456789") for fact in reader.facts()}
    assert tags == {"left", "right"}
    assert reader.verify() >= 300


def test_a_fact_of_another_process_is_seen_by_the_next_query(writer: Path, store: Path) -> None:
    sys.path.insert(0, str(writer.parent))
    try:
        import writer as module  # type: ignore[import-not-found]
    finally:
        sys.path.pop(0)
    mine = module.open_memory(store)
    assert len(mine.index) == 0
    out, err = start(writer, store, "other", 5, 1).communicate()
    assert out.endswith("done\n"), err
    mine.index.refresh()
    assert len(mine.index) == 5
    mine.close()
