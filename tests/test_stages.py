"""Ending early reads less and decides the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hybrid.memory import HybridMemory
from hybrid.request import Request
from hybrid.scope import stages
from hybrid.scope.stages import Bounds, Candidate, bounds, classifier, group, measure, near

CELLS = len(stages.NEAR) + 1
TIGHT = Bounds(highest=((-2.0,) * CELLS, (-1.0,) * CELLS, (4.0,) * CELLS, (6.0,) * CELLS), usual=(-4.9, -4.9, -4.9, -1.0), rise=6.0, contrast=8.0)
LOOSE = Bounds(highest=((60.0,) * CELLS,) * 4, usual=(0.0,) * 4, rise=60.0, contrast=60.0)


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HybridMemory]:
    with HybridMemory(tmp_path_factory.mktemp("stages") / "store", author="tester") as made:
        facts = [("Norr Island", "The ferry port of {} is", "Brisk Haven"), ("Tidewater Systems", "The chief executive officer of {} is", "Mara Quell")]
        facts += [(f"Isle {name}", "The ferry port of {} is", f"Port {name}") for name in ("Anvar", "Bremo", "Corsk", "Dalvi", "Ensey", "Fjord")]
        list(made.add_facts([Request(subject=s, relation=p[4:-6], prompt=p, target_new=t) for s, p, t in facts]))
        yield made


QUERIES = (
    "Which port do ferries to Norr Island leave from?",
    "Who is in charge at Tidewater Systems?",
    "How large is Norr Island?",
    "She folded the letter twice and put it away",
    "The ferry port of Norr Island is Brisk Haven. What is the ferry port of Isle Gorm?",
)


@pytest.mark.parametrize("limits", [TIGHT, LOOSE])
def test_the_decision_is_the_same(memory: HybridMemory, limits: Bounds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybrid.scope.evidence.bounds", lambda known: limits)
    router, scorer, read = memory.router, memory.router.witness.scorer, {True: 0, False: 0}
    for query in QUERIES:
        governing = {}
        router.candidates(query)  # what a fact of an unknown relation tells is found out once
        for quick in (True, False):
            before = scorer.pairs
            hits, _ = router.candidates(query, quick=quick)
            read[quick] += scorer.pairs - before
            governing[quick] = [(hit.fact.id, pytest.approx(hit.score, abs=1e-3)) for hit in router.policy.govern(hits, "9999")]
        assert governing[True] == governing[False], query
    assert read[True] < read[False] / 2 if limits is TIGHT else read[False] / 2 < read[True] <= read[False]


def test_what_shares_nothing_costs_no_reading(memory: HybridMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybrid.scope.evidence.bounds", lambda known: TIGHT)
    before = memory.router.witness.scorer.pairs
    decision = memory.router.route("How do I stop my bread from drying out?")
    assert decision.route == "base" and memory.router.witness.scorer.pairs == before
    assert decision.candidates and all(hit.score < 0.01 for hit in decision.candidates)


def test_bounds_of_another_classifier_are_not_used(memory: HybridMemory, tmp_path: Path) -> None:
    file = tmp_path / "stages.json"
    assert bounds("some", file) is None
    file.write_text('{"classifier": "some", "bounds": {"highest": [[1], [1], [1], [1]], "usual": [0, 0, 0, 0], "rise": 1, "contrast": 1}}')
    bounds.cache_clear()
    assert bounds("some", file) is not None and bounds("another", file) is None
    known = classifier(memory.router.witness.scorer)
    assert len(known) == 64 and known == classifier(memory.router.witness.scorer)


def test_weights_that_count_evidence_backwards_end_nothing_early(memory: HybridMemory) -> None:
    weights = dict(memory.router.witness.scorer.about["evidence"])
    assert memory.router._worth(weights) is not None
    assert memory.router._worth(weights | {"logit": -0.1}) is None
    assert memory.router._worth(weights | {"rival": 0.1}) is None


def test_a_forced_route_reads_everything(memory: HybridMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybrid.scope.evidence.bounds", lambda known: TIGHT)
    decision = memory.router.route("How do I stop my bread from drying out?", force="ike")
    thorough, _ = memory.router.candidates("How do I stop my bread from drying out?")
    assert decision.governing[0].fact.id == thorough[0].fact.id and decision.governing[0].score == pytest.approx(thorough[0].score, abs=1e-4)


def test_one_pass_of_the_embedder_for_a_query_that_names_its_subject(memory: HybridMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []
    real = memory.embedder.embed
    monkeypatch.setattr(memory.embedder, "embed", lambda texts, **more: (passes.append(len(texts)), real(texts, **more))[1])
    monkeypatch.setattr("hybrid.scope.evidence.bounds", lambda known: TIGHT)
    memory.router.witness._kept.clear()
    memory.router.route("Which port do ferries to Norr Island leave from?")
    assert len(passes) == 1 and passes[0] > 1


def test_bounds_hold_what_was_seen_and_rise_with_what_is_shared() -> None:
    rows = [Candidate(0.0, False, 0.1 * (i % 8), -4.9 + 0.001 * i, -4.8 + 0.001 * i, 0.0) for i in range(900)]
    rows += [Candidate(0.4, True, 0.55, 1.0, 1.5, 0.2), Candidate(0.7, True, 0.35, -1.0, 2.0, 0.1), Candidate(1.0, True, 0.65, 0.0, 3.0, 0.3)]
    found = measure(rows)
    for row in found.highest:
        assert list(row) == sorted(row)
    for narrow, wide in zip(found.highest, found.highest[1:], strict=False):
        assert all(a <= b for a, b in zip(narrow, wide, strict=True))
    for row in rows:
        assert row.mean <= found.highest[group(row.share, row.bare)][near(row.cosine)]
    assert found.rise >= 3.0 and found.contrast >= 0.3
    with pytest.raises(ValueError, match="more queries"):
        measure(rows[:5])
