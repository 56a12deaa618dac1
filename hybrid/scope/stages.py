"""Ending early: what a fact that shares little with a query could reach at most, so that the classifier need not read what can not fire.

`python -m hybrid.scope.stages --facts facts.tsv --text prose.txt` measures the bounds on the relations that `hybrid.scope.calibrate` uses, and on those for
scoring how many decisions they change. They belong to one classifier; with another they are not used, and everything is read.
The bounds are on what is costly (the logit, the contrast), whatever the weights of the evidence: those may be a store's own.
"""

from __future__ import annotations

import hashlib
import json
import random
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from hybrid.scope.phrasings import Wording
from policies.scope import Evidence

if TYPE_CHECKING:
    from hybrid.memory import HybridMemory
    from hybrid.scope.pairs import PairMaker
    from hybrid.scope.reading import Reading
    from hybrid.scope.scorer import ScopeScorer

FILE = Path(__file__).with_suffix(".json")
SHARES = (0.5, 0.999)
NEAR = (0.2, 0.3, 0.4, 0.5, 0.6)
"""Cosines of query and statement that part the candidates further."""
MISSED = 1 / 500
"""Share of a group's logits that may lie above its bound."""
SLACK = 0.25
"""Added to the bounds."""

Worth = Callable[[Evidence], bool]


def classifier(scorer: ScopeScorer) -> str:
    """Which classifier this is: a hash over the checksums of its weights."""
    return hashlib.sha256(json.dumps(scorer.about["files"], sort_keys=True).encode()).hexdigest()


def group(share: float, bare: bool) -> int:
    """Of a fact: none of its name's telling words, up to half of the name, more, or all of it stands in what is asked."""
    return 1 + sum(share > edge for edge in SHARES) if bare else 0


def near(cosine: float) -> int:
    """Where a cosine lies among `NEAR`."""
    return sum(cosine > edge for edge in NEAR)


@dataclass(frozen=True)
class Bounds:
    """What evidence that is costly to gather reaches at most."""

    highest: tuple[tuple[float, ...], ...]
    """Logit, by group and cosine."""
    usual: tuple[float, ...]
    """The median logit, by group: what is told of a fact that was not read."""
    rise: float
    """How far the mean over all wordings lies above the logit of the fact's own."""
    contrast: float

    def ceiling(self, reading: Reading, cosine: float, logit: float | None = None, wording: Wording | None = None) -> Evidence:
        """The most that a fact could have for it; the logit and the wording, if they are known, lower it."""
        top = self.highest[group(reading.shared, reading.bare is not None)][near(cosine)] if logit is None else logit
        best = wording or (Wording() if reading.bare is None else Wording(own=1.0))
        return reading.evidence(top, best, self.contrast if reading.comparable else 0.0)

    def unread(self, reading: Reading, wording: Wording) -> Evidence:
        """What is told of a fact that the classifier did not read."""
        return reading.evidence(self.usual[group(reading.shared, reading.bare is not None)], wording)


@lru_cache(maxsize=4)
def bounds(known: str, file: Path = FILE) -> Bounds | None:
    """The bounds of a classifier (see `classifier`); None if none were measured for it."""
    if not file.is_file():
        return None
    about = json.loads(file.read_text(encoding="utf-8"))
    if about["classifier"] != known:
        return None
    found = about["bounds"]
    return Bounds(tuple(map(tuple, found["highest"])), tuple(found["usual"]), found["rise"], found["contrast"])


class Candidate(NamedTuple):
    """What was seen of one candidate."""

    share: float
    bare: bool
    cosine: float
    own: float
    """The logit of its own wording."""
    mean: float
    contrast: float


def measure(rows: Sequence[Candidate]) -> Bounds:
    """Bounds from candidates of many queries.

    Raises:
        ValueError: if a group has none.
    """
    cells: dict[tuple[int, int], list[float]] = defaultdict(list)
    for row in rows:
        cells[group(row.share, row.bare), near(row.cosine)].append(row.mean)
    groups = range(len(SHARES) + 2)
    usual = [sorted(row.mean for row in rows if group(row.share, row.bare) == at) for at in groups]
    if not all(usual):
        raise ValueError("there are no candidates of some group; measure on more queries")
    lowest = min(row.mean for row in rows)
    # sharing more of a name, or lying nearer, never lowers a bound
    tops = [
        [max(_top(cells[g, n]) if (g, n) in cells else lowest for g in range(at + 1) for n in range(to + 1)) + SLACK for to in range(len(NEAR) + 1)]
        for at in groups
    ]
    return Bounds(
        highest=tuple(tuple(round(top, 3) for top in row) for row in tops),
        usual=tuple(round(each[len(each) // 2], 3) for each in usual),
        rise=round(_top([row.mean - row.own for row in rows if row.share > SHARES[0]]) + SLACK, 3),
        contrast=round(max(row.contrast for row in rows) + SLACK, 3),
    )


def _top(values: Sequence[float]) -> float:
    """What all but a share of `MISSED` lie below."""
    return sorted(values)[max(0, len(values) - 1 - int(len(values) * MISSED))]


def prepare(memory: HybridMemory, maker: PairMaker, count: int, queries: int, seed: int) -> list[tuple[str, str]]:
    """Load facts, and draw (kind, query) of every kind."""
    from hybrid.scope import evaluate
    from hybrid.scope.pairs import KINDS

    rng = random.Random(seed)
    chosen = evaluate.distinct_facts(maker, count, rng)
    evaluate.store(memory, maker, chosen, rng)
    return [(kind, query) for kind in (*evaluate.INSIDE, *KINDS[1:]) for _, query in evaluate.queries(maker, chosen, kind, queries, rng)]


def observe(memory: HybridMemory, query: str) -> Iterator[Candidate]:
    """A query's candidates."""
    witness = memory.router.witness
    hits, _ = memory.router.candidates(query)
    readings = witness.readings(query, [hit.fact for hit in hits])
    for hit, one, (own,) in zip(hits, readings, witness.logits(readings, slice(1)), strict=True):
        yield Candidate(one.shared, one.bare is not None, hit.similarity, own, hit.evidence["logit"], hit.evidence["contrast"])


def compare(memory: HybridMemory, asked: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """How many decisions ending early changes, and what it saves: seconds of the processor, and pairs that the classifier reads."""
    router, found = memory.router, Counter[str]()
    spent = {True: 0.0, False: 0.0}
    for kind, query in asked:
        governing = {}
        for quick in (True, False):  # the second finds vectors of wordings that the first has made
            started, before = time.process_time(), router.witness.scorer.pairs
            hits, _ = router.candidates(query, quick=quick)
            spent[quick] += time.process_time() - started
            found["pairs_quick" if quick else "pairs_all"] += router.witness.scorer.pairs - before
            governing[quick] = [hit.fact.id for hit in router.policy.govern(hits, "9999")]
        found[f"changed_{kind}"] += governing[True] != governing[False]
        found["changed"] += governing[True] != governing[False]
    total = len(asked)
    return {
        "queries": total,
        "changed": found["changed"],
        "changed_kinds": {kind: found[f"changed_{kind}"] for kind in dict.fromkeys(kind for kind, _ in asked) if found[f"changed_{kind}"]},
        "pairs_a_query": {"all": round(found["pairs_all"] / total, 2), "quick": round(found["pairs_quick"] / total, 2)},
        "processor_ms_a_query": {"all": round(1000 * spent[False] / total, 1), "quick": round(1000 * spent[True] / total, 1)},
    }


@click.command()
@click.option("--facts", type=click.Path(exists=True, path_type=Path), required=True, help="Tab-separated triples.")
@click.option("--text", type=click.Path(exists=True, path_type=Path), required=True, help="Plain prose.")
@click.option("--count", default=1000, show_default=True, help="Facts in memory.")
@click.option("--queries", default=150, show_default=True, help="Queries of each kind.")
@click.option("--out", type=click.Path(path_type=Path), default=FILE, help="Where the bounds go.")
def main(facts: Path, text: Path, count: int, queries: int, out: Path) -> None:
    """Measure the bounds, and the decisions that they change."""
    from hybrid.memory import HybridMemory
    from hybrid.scope.train import makers

    made = makers(facts, text)
    about: dict[str, Any] = {"command": f"python -m hybrid.scope.stages --count {count} --queries {queries}"}
    with tempfile.TemporaryDirectory() as folder, HybridMemory(folder) as memory:
        rows = [row for _, query in prepare(memory, made.calibrate, count, queries, 21) for row in observe(memory, query)]
        about |= {"classifier": classifier(memory.router.witness.scorer), "candidates": len(rows), "missed": MISSED, "bounds": asdict(measure(rows))}
    out.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    if out == FILE:
        bounds.cache_clear()
        with tempfile.TemporaryDirectory() as folder, HybridMemory(folder) as memory:
            about["checked"] = compare(memory, prepare(memory, made.score, count, queries, 22))
        out.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    click.echo(json.dumps(about, indent=1))


if __name__ == "__main__":
    main()
