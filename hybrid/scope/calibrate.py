"""Weigh the evidence: `python -m hybrid.scope.calibrate --facts facts.tsv --text prose.txt`.

What `policies.scope.Evidence` adds up to is fitted (`hybrid.scope.judge`) on queries to stores of 1,000 facts whose subjects and wordings the
classifier was not trained on. In two of them it was not trained on their relations either; of these, the lexicon knows the relations in one. In the
third, half of the facts are stored in words that the lexicon does not have. The fourth holds the authored facts that were kept from training
(`hybrid.scope.authored`).
"""

from __future__ import annotations

import json
import multiprocessing
import random
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
from tqdm import tqdm

from hybrid.embedder import file_hash
from hybrid.memory import HybridMemory
from hybrid.request import from_cue
from hybrid.scope.authored import examples
from hybrid.scope.evaluate import INSIDE, ask, distinct_facts
from hybrid.scope.evidence import Witness
from hybrid.scope.judge import FILE, Judge, table
from hybrid.scope.phrasings import Phrasings
from hybrid.scope.scorer import WEIGHTS, ScopeScorer
from hybrid.scope.train import CALIBRATE, SCORE, makers
from policies.scope import Evidence
from stores.records import Hit

OTHERS = 0.15
"""Importance of a candidate that the query was not made for, beside the one that it was made for."""
SORTS = {"known": 0.25, "unknown": 0.1, "familiar": 0.4, "authored": 0.25}
"""Facts of relations that the lexicon knows, and the classifier does not; that neither knows; that both know; that were written one by one; and how much
they count."""
EMPHASIS = {"same_subject": 2.0, "neighborhood": 6.0, "oblique": 0.5}
"""Kinds of queries that count for more or less than the others: the one is what fools a router most, the other what people ask least."""
FOLDS = 4
"""Parts of the queries, each of which is judged by what was fitted on the others, to see how far the judgement is to be trusted."""


class Seen(NamedTuple):
    """A candidate of a query."""

    query: tuple[str, int]
    """The sort of store, and a number in it; with and without the lexicon the same queries have the same numbers."""
    kind: str
    evidence: Evidence
    meant: bool
    """Whether the query was made for this fact."""

    @property
    def governs(self) -> bool:
        """Whether the fact governs the query."""
        return self.meant and self.kind in INSIDE


def gather(folder: Path, facts: Path, text: Path, sort: str, count: int, queries: int, seed: int) -> list[Seen]:
    """The candidates of queries of every kind to a store of one of `SORTS`."""
    scorer = ScopeScorer(folder)
    scorer.about.pop("judge", None)  # all candidates alike, whatever was fitted before
    scorer.about["evidence"] = dict.fromkeys(Evidence.__dataclass_fields__, 0.0) | {"bias": 0.0}
    with tempfile.TemporaryDirectory() as store, HybridMemory(store) as memory:
        memory.router.witness = Witness(scorer, memory.embedder, Phrasings(hidden=(*SCORE, *CALIBRATE) if sort == "unknown" else SCORE))
        written = sort == "authored"
        asked = authored(memory, queries, seed) if written else _drawn(memory, facts, text, sort, count, queries, seed)
        return [
            Seen((sort, number), kind, Evidence(**hit.evidence), hit.fact.id == meant)
            for number, (kind, meant, candidates) in enumerate(asked)
            for hit in candidates
            if not (written and hit.fact.id != meant and hit.evidence["shared"] > 0.9)  # what one authored fact tells, another one's query may ask
        ]


def _drawn(memory: HybridMemory, facts: Path, text: Path, sort: str, count: int, queries: int, seed: int) -> Iterator[tuple[str, str, list[Hit]]]:
    made = makers(facts, text)
    maker, foreign = (made.familiar, 0.5) if sort == "familiar" else (made.calibrate, 0.0)
    return ask(memory, maker, distinct_facts(maker, count, random.Random(11)), queries, seed, foreign)


def authored(memory: HybridMemory, queries: int, seed: int) -> Iterator[tuple[str, str, list[Hit]]]:
    """(kind, the id of the fact that was had in mind, candidates) of the queries beside the authored facts that were kept from training, all of them in memory."""
    rng = random.Random(seed)
    chosen = list({each.subject.casefold(): each for each in examples() if each.apart}.values())  # what one tells of a subject, another one's queries may ask
    added = memory.add_facts(from_cue(each.statement, each.target, subject=each.subject) for each in chosen)
    asked: dict[str, list[tuple[str, str]]] = {kind: [] for kind in ("in_scope", "same_subject", "neighborhood", "distractor")}
    for each, fact in zip(chosen, added, strict=True):
        asked["in_scope"] += [(fact.fact.id, query) for query in each.ask]
        asked["same_subject"] += [(fact.fact.id, query) for query in each.other]
        asked["neighborhood"] += [(fact.fact.id, query) for query in each.near]
        asked["distractor"].append((fact.fact.id, f"{fact.fact.statement}. {rng.choice(each.other)}"))
    drawn = [(kind, *pair) for kind, pairs in asked.items() for pair in rng.sample(pairs, min(queries, len(pairs)))]
    for kind, meant, query in tqdm(drawn, unit="query", disable=None):
        yield kind, meant, memory.router.candidates(query)[0]


def importance(seen: Sequence[Seen]) -> list[float]:
    """Weight of each candidate: kinds of queries count alike within a sort of store, but for `EMPHASIS`."""
    rows, asked = Counter((one.query[0], one.kind) for one in seen), Counter((one.query[0], one.kind) for one in seen if one.meant)
    sizes = {key: max(asked[key], rows[key] / 9) / (SORTS[key[0]] * EMPHASIS.get(key[1], 1.0)) for key in rows}
    return [(1.0 if one.meant else OTHERS) / sizes[one.query[0], one.kind] for one in seen]


def conclude(seen: Sequence[Seen]) -> tuple[Judge, dict[str, float]]:
    """What evidence adds up to, on a scale fitted to the best candidates of queries; and the weights of `policies.scope.probability`, which take it so."""
    rows, labels, share = table([one.evidence for one in seen]), np.array([one.governs for one in seen]), np.array(importance(seen))
    part, apart = np.array([one.query[1] % FOLDS for one in seen]), np.zeros(len(seen))
    for fold in range(FOLDS):
        rest = part != fold
        apart[~rest] = Judge.fit(rows[rest], labels[rest], share[rest]).log_odds(rows[~rest])
    best: dict[tuple[str, int], int] = {}
    for number, one in enumerate(seen):
        if one.query not in best or apart[number] > apart[best[one.query]]:
            best[one.query] = number
    top = np.array(list(best.values()))
    kinds = Counter((seen[number].query[0], seen[number].kind) for number in top)
    alike = np.array([1 / kinds[seen[number].query[0], seen[number].kind] for number in top])
    judge = Judge.fit(rows, labels, share).calibrated(apart[top], labels[top], alike)
    return judge, dict.fromkeys(Evidence.__dataclass_fields__, 0.0) | {"judged": 1.0, "bias": 0.0}


def write(folder: Path, judge: Judge, weights: dict[str, float]) -> None:
    """Put them beside the classifier."""
    about = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    judge.save(folder)
    about |= {"judge": file_hash(folder / FILE), "evidence": weights, "calibration_relations": list(CALIBRATE), "scoring_relations": list(SCORE)}
    (folder / "manifest.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def calibrate(folder: Path, facts: Path, text: Path, count: int = 1000, queries: int = 400, seed: int = 31) -> dict[str, Any]:
    """Fit to a classifier and write beside it."""
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        parts = [pool.submit(gather, folder, facts, text, sort, count, queries, seed) for sort in SORTS]
        judge, weights = conclude([one for part in parts for one in part.result()])
    write(folder, judge, weights)
    return weights


@click.command()
@click.option("--facts", type=click.Path(exists=True, path_type=Path), required=True, help="Tab-separated triples.")
@click.option("--text", type=click.Path(exists=True, path_type=Path), required=True, help="Plain prose.")
@click.option("--weights", type=click.Path(exists=True, path_type=Path), default=WEIGHTS, help="Folder of the classifier.")
@click.option("--queries", default=400, show_default=True, help="Queries of each kind.")
def main(facts: Path, text: Path, weights: Path, queries: int) -> None:
    """Weigh the evidence."""
    click.echo(json.dumps(calibrate(weights, facts, text, queries=queries), indent=1))


if __name__ == "__main__":
    main()
