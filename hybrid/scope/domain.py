"""A classifier for a store's own domain: trained on from the shipped one, with the store's subjects, targets and relations among the pairs."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from hybrid.lexicon import find, phrased
from hybrid.pocket.facts import Triple
from hybrid.scope.authored import Author
from hybrid.scope.judge import FILE
from hybrid.scope.own import unrelated
from hybrid.scope.pairs import PairMaker
from hybrid.scope.scorer import WEIGHTS, ScopeScorer
from hybrid.scope.stages import classifier
from hybrid.scope.train import CALIBRATE, SCORE, run
from stores import events
from stores.errors import NotFound
from stores.records import Fact

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hybrid.memory import HybridMemory

FURTHER = 30
"""Relations beside the store's own, so that the classifier does not forget how others are asked for."""


ELSEWHERE = 0.25
"""Share of the pairs that are the shipped classifier's authored ones, for the same reason."""


def maker(facts: Sequence[Fact], prose: Sequence[str], seed: int = 0) -> PairMaker:
    """Pairs about the facts' subjects and targets. Relations that the lexicon has no phrasings for are covered by its attributes' frames.

    Raises:
        NotFound: if there are no facts.
    """
    if not facts:
        raise NotFound("the store has no facts to train with; add some with `hybrid add-fact`")
    held = {*CALIBRATE, *SCORE}
    usable = [key for key in phrased() if key not in held]
    triples = [Triple(found.id, fact.subject, fact.target_new) for fact in facts if (found := find(fact.relation)) is not None and found.id in usable]
    own = sorted({triple.relation for triple in triples})
    others = random.Random(seed).sample([key for key in usable if key not in own], min(FURTHER, len(usable) - len(own)))
    made = PairMaker(triples, [*own, *others], prose, broad=True, others=usable)
    made.ids = [*own * max(1, FURTHER // max(1, len(own))), *others]  # half of the pairs about the store's own relations
    return made


def train(memory: HybridMemory, out: Path, pairs: int, lr: float, prose: Sequence[str] = (), threads: int = 0) -> Path:
    """Train on from the classifier that ships, and make the result the store's own; `hybrid scope calibrate` has to follow.

    Args:
        out: folder of the run, resumed if it exists.
        prose: sentences of the domain, for prefixes and texts that are out of scope; the project's own if empty.
    Returns:
        The folder of the weights, in the store.
    """
    weights = memory.folder / "scope"
    drawn = Author(maker(memory.ledger.facts(), prose or unrelated(False)), ELSEWHERE)
    run(drawn, out, weights, pairs, threads, lr=lr, start=WEIGHTS)
    manifest, shipped = weights / "manifest.json", ScopeScorer()
    shutil.copyfile(shipped.folder / FILE, weights / FILE)
    lent = {"judge": shipped.about["judge"], "evidence": shipped.about["evidence"], "started_from": classifier(shipped)}
    about = json.loads(manifest.read_text(encoding="utf-8")) | lent
    manifest.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    adopt(memory, classifier(ScopeScorer(weights)))
    return weights


def adopt(memory: HybridMemory, known: str | None) -> None:
    """Make the classifier in the store's folder its own, or go back to the one that ships (None)."""
    ledger = memory.ledger
    with ledger.transaction():
        ledger.db.execute("DELETE FROM settings WHERE name IN ('scope_classifier', 'scope_weights')")
        if known is not None:
            ledger.db.execute("INSERT INTO settings VALUES ('scope_classifier', ?)", [known])
        events.append(ledger.db, memory.author, "calibrate", None, {"classifier": known})
    memory.__dict__.pop("router", None)
