"""Claims and yes/no questions of the records that the verifier was not trained on, all their facts in one store.

    python bench/claims.py --out bench/results/claims.json

A claim that a fact decides is right if it is answered so, with that fact; one that none decides has to be answered by the model alone.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import click
from output import write

from hybrid.claims.pairs import OPEN, SUPPORTED, records
from hybrid.evaluation.fields import stated
from hybrid.evaluation.readers import claimed
from hybrid.memory import HybridMemory
from stores.errors import HybridError


@click.command()
@click.option("--out", type=click.Path(path_type=Path), help="Where the JSON goes.")
def main(out: Path | None) -> None:
    """Ask every claim of the records kept apart."""
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder, HybridMemory(folder, author="bench") as memory:
        kept = []
        for record in {each.subject: each for each in records() if each.apart}.values():  # two records of a subject may decide each other's claims
            try:
                request = stated(record.statement, record.subject)
            except HybridError:
                counts["unreadable"] += 1  # its subject stands behind what could be its target
                continue
            kept.append((record, next(iter(memory.add_facts([request]))).fact.id))
        for record, fact in kept:
            for _, claim, label in record.pairs:
                answer = memory.ask(claimed(claim))
                if label == OPEN:
                    counts["open"] += 1
                    counts["left_to_the_model"] += answer.route == "base"
                    continue
                counts["decided"] += 1
                counts["right_fact"] += any(hit.fact.id == fact for hit in answer.facts)
                counts["right"] += answer.text.startswith("Yes" if label == SUPPORTED else "No")
    figures = {
        "right": round(counts["right"] / counts["decided"], 4),
        "right_fact": round(counts["right_fact"] / counts["decided"], 4),
        "left_to_the_model": round(counts["left_to_the_model"] / counts["open"], 4),
    }
    write(out, {"command": "python bench/claims.py", "facts": len(kept), **counts, "shares": figures})


if __name__ == "__main__":
    main()
