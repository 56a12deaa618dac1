"""The policy, the exact factors and the generations on disk, without a model."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.consolidation import Candidate, ConsolidationPolicy, Limits, canonical
from stores.deltas import Factors
from stores.errors import Conflict, Corrupt, Locked, NotFound
from stores.factors import exact
from stores.generations import MANIFEST, WEIGHTS, Draft, Generations
from stores.ledger import Change, Ledger
from stores.lock import exclusive
from stores.records import Fact, Identity
from stores.stability import Stability

NOON = "2026-03-10T12:00:00+00:00"


def fact(name: str, **fields: object) -> Fact:
    given = {
        "created_at": "2026-03-10T00:00:00+00:00",
        "subject": f"Isle of {name}",
        "relation": "capital",
        "prompt": "The capital of {} is",
        "target_new": f"Port {name}",
    }
    return Fact(id=name, **given | fields)  # type: ignore[arg-type]


def judged(*candidates: Candidate, **options: object) -> dict[str, tuple[bool, str]]:
    verdicts = ConsolidationPolicy().judge(candidates, NOON, **options)  # type: ignore[arg-type]
    return {each.fact.id: (each.eligible, each.reason) for each in verdicts}


def test_a_fact_must_prove_stable() -> None:
    old, week = "2026-03-09T00:00:00+00:00", "2026-03-01T00:00:00+00:00"
    found = judged(
        Candidate(fact=fact("young"), answered=9),
        Candidate(fact=fact("unused", created_at=old), answered=1),
        Candidate(fact=fact("used", created_at=old), answered=2),
        Candidate(fact=fact("confirmed", created_at=old), confirmed=1),
        Candidate(fact=fact("settled", created_at=week)),
        Candidate(fact=fact("pinned"), held="pin"),
    )
    assert {name for name, (eligible, _) in found.items() if eligible} == {"used", "confirmed", "settled", "pinned"}
    assert "12.0 hours old" in found["young"][1] and "answered 1 times" in found["unused"][1]


@pytest.mark.parametrize(
    ("candidate", "reason"),
    [
        (Candidate(fact=fact("a"), held="hold"), "by hand"),
        (Candidate(fact=fact("a", valid_to="2027-01-01T00:00:00+00:00")), "cannot expire"),
        (Candidate(fact=fact("a", valid_from="2027-01-01T00:00:00+00:00")), "begins at"),
        (Candidate(fact=fact("a", namespace="team")), "namespace"),
        (Candidate(fact=fact("a", prompt="It is")), "no subject"),
        (Candidate(fact=fact("a"), failed="its prompt is answered otherwise"), "--retry"),
    ],
)
def test_force_does_not_put_what_cannot_go_into_weights(candidate: Candidate, reason: str) -> None:
    eligible, said = judged(candidate, force=True)["a"]
    assert not eligible and reason in said
    assert judged(replace(candidate, held="pin"))["a"][0] is (candidate.held == "hold"), "a pin lifts a hold and nothing else"
    assert judged(candidate, force=True, retry=True)["a"][0] is (candidate.failed is not None)


def test_disputes_authors_and_subjects() -> None:
    one, other = fact("a"), fact("b", subject="Isle of a", target_new="Elsewhere", namespace="team")
    assert "says otherwise" in judged(Candidate(fact=one), Candidate(fact=other), force=True)["a"][1]
    trusting = ConsolidationPolicy(authors=("ada",), most_a_subject=1)
    many = [Candidate(fact=fact(n, subject="Isle", relation=n, prompt=f"The {n} of {{}} is", author="ada"), held="pin" if n == "z" else None) for n in "xyz"]
    verdicts = {v.fact.id: v for v in trusting.judge([*many, Candidate(fact=fact("q", author="eve"))], NOON, force=True)}
    assert [name for name, v in verdicts.items() if v.eligible] == ["z"], "the pinned one comes first"
    assert "'eve'" in verdicts["q"].reason and "3 facts are about Isle" in verdicts["x"].reason


def test_canonical_order_is_that_of_the_content() -> None:
    facts = [fact(name) for name in "dacb"]
    assert canonical(facts) == canonical(facts[::-1]) == [fact(name) for name in "abcd"]


def test_limits() -> None:
    limits = Limits()
    assert limits.broken(locality=1, drift=0.01, fluency=1, probes=1) == []
    assert len(limits.broken(locality=0.98, drift=0.02, fluency=0.5, probes=0.5)) == 4
    assert limits.affordable([1.0] * 100, 100.0, drift=0.02) == 45
    assert limits.affordable([10.0, 1.0], 101.0, drift=0.0101) == 1
    assert limits.affordable([1.0], 1.0, drift=1.0) == 0


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 300), st.integers(0, 2**32 - 1), st.floats(1e-4, 1e4))
def test_exact_factors_add_up_to_the_same_bits_in_any_order(rank: int, seed: int, scale: float) -> None:
    draw = np.random.default_rng(seed)
    given_ = Factors(draw.normal(size=(7, rank)) * scale, draw.normal(size=(5, rank)) / scale)
    made = exact(given_)
    assert made.left.dtype == np.float32
    assert np.linalg.norm(made.dense - given_.dense) <= 1e-4 * np.linalg.norm(given_.dense)
    left, right = made.left.astype(np.float64), made.right.astype(np.float64)
    order = draw.permutation(rank)
    one_by_one = sum((np.outer(left[:, k], right[:, k]) for k in order), np.zeros((7, 5)))
    assert np.array_equal(one_by_one, left @ right.T) and np.array_equal(left @ right.T, left[:, ::-1] @ right[:, ::-1].T)


def test_factors_without_a_value_are_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        exact(Factors(np.array([[np.nan]]), np.ones((1, 1))))
    assert not exact(Factors(np.zeros((2, 1)), np.ones((3, 1)))).dense.any()


# -- on disk -----------------------------------------------------------------------------------------


@pytest.fixture
def ledger(store: Path) -> Ledger:
    ledger = Ledger(store / "ledger.db", actor="tester")
    with ledger.transaction():
        ledger.write([Change(fact(name), b"") for name in "ABC"])
    return ledger


def draft(*ids: str, base: str = "base") -> Draft:
    return Draft(
        model=Identity("m", "1", "h"), base_hash=base, weights_hash=f"weights of {ids}", tensors={"w": "x"}, facts=tuple({"id": i, "passed": i != "C"} for i in ids),
        method="memit", settings={"layers": [1]}, verification={}, changes={"w": Factors(np.ones((2, 1), np.float32), np.ones((3, 1), np.float32))},
        extra={"report.html": b"<p>"},
    )  # fmt: skip


def test_publish_load_roll_back_and_prune(ledger: Ledger, store: Path) -> None:
    generations = Generations(ledger, store / "generations")
    assert (generations.live(), generations.rows()) == (0, [])
    assert [generations.publish(draft("A")), generations.publish(draft("A", "C"))] == [1, 2]
    manifest, changes = generations.load(2)
    assert (manifest.fact_ids, manifest.author, changes["w"].dense.tolist()) == (["A", "C"], "tester", [[1] * 3] * 2)
    assert generations.live() == 2 and generations.in_weights("ABC") == {"A"}, "C did not pass"
    generations.demote("A")
    assert generations.in_weights("ABC") == set()
    generations.go_live(1)
    assert generations.in_weights("ABC") == {"A"}
    assert generations.prune([1, 2]) == [2], "the live one stays"
    assert not generations.path(2).exists() and generations.holding(["C"]) == []
    with pytest.raises(NotFound, match="pruned"):
        generations.go_live(2)
    assert generations.publish(draft("B")) == 3, "numbers are not used again"
    generations.go_live(0)
    assert generations.live() == 0 and generations.base_hash() == "base"
    assert ledger.verify() == ledger.revision()


def test_a_report_can_be_rewritten(ledger: Ledger, store: Path) -> None:
    """Without what was forgotten; it is read by people, and nothing is loaded from it."""
    generations = Generations(ledger, store / "generations")
    generations.publish(draft("A"))
    path = generations.path(1) / "report.html"
    path.chmod(0o644)
    path.write_bytes(b"<p>less")
    assert generations.load(1)[0].files.keys() == {WEIGHTS}


@pytest.mark.parametrize("name", [MANIFEST, WEIGHTS])
def test_altered_files_are_refused(ledger: Ledger, store: Path, name: str) -> None:
    generations = Generations(ledger, store / "generations")
    generations.publish(draft("A"))
    path = generations.path(1) / name
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b"1", b"2") + b" ")
    with pytest.raises(Corrupt, match="rollback 0"):
        generations.load(1)
    generations.go_live(0)


def test_a_folder_that_was_not_entered_is_swept(ledger: Ledger, store: Path) -> None:
    generations = Generations(ledger, store / "generations")
    generations._write(1, draft("A"))
    generations._write(2, draft("A"))
    generations.path(2).rename(generations.folder / "partial-000002")
    assert generations.live() == 0
    assert generations.publish(draft("B")) == 1
    assert generations.load(1)[0].fact_ids == ["B"]
    assert [path.name for path in generations.folder.iterdir()] == ["000001"]


def test_a_fact_that_changed_meanwhile_keeps_the_generation_back(ledger: Ledger, store: Path) -> None:
    generations = Generations(ledger, store / "generations")
    ledger.forget(fact("A"))
    with pytest.raises(Conflict, match="A was changed or forgotten"):
        generations.publish(draft("A"))
    assert generations.live() == 0
    assert generations.publish(draft("B")) == 1


def test_stability_remembers_and_forgets(ledger: Ledger) -> None:
    stability = Stability(ledger)
    stability.answered({"A": 2, "B": 1, "nobody": 5})
    stability.answered({"A": 1})
    stability.hold("B", "pin")
    run = stability.begin_run("AB")
    stability.mark(run, {"A": "it did not take"}, "these")
    stability.note_keys([("A", "k1"), ("A", "shared"), ("B", "shared")])
    known = stability.records("these")
    assert (known["A"].answered, known["A"].failed, known["B"].held) == (3, "it did not take", "pin") and "nobody" not in known
    assert stability.records("others")["A"].failed is None, "a failure counts under its settings only"
    assert stability.keys_of(["A"]) == ["k1"], "what B needs, too, stays"
    stability.scrub("B")
    assert stability.records("these")["A"].failed == "refused beside a fact that was forgotten since", "what quoted B does no more"
    stability.mark(run, {}, "these", passed=["A"])
    assert stability.records("these")["A"].failed is None
    stability.mark(run, {"A": "again"}, "these")
    stability.hold("A", None)
    assert stability.records("these")["A"].failed is None
    ledger.forget(fact("A"))
    assert "A" not in stability.records("these") and stability.keys_of(["A"]) == []
    with pytest.raises(Conflict, match="forgotten"):
        stability.hold("A", "pin")
    assert ledger.verify() == ledger.revision()


def test_one_holder_of_a_lock(tmp_path: Path) -> None:
    with exclusive(tmp_path / "lock"), pytest.raises(Locked, match="another process"), exclusive(tmp_path / "lock", wait_seconds=0.1):
        pass
    with exclusive(tmp_path / "lock"):
        pass


def test_the_order_of_candidates_does_not_matter() -> None:
    candidates = [Candidate(fact=fact(f"{n}", subject=f"Isle {n % 3}", relation=f"r{n}", prompt=f"The r{n} of {{}} is")) for n in range(12)]
    first = judged(*candidates, force=True)
    random.Random(1).shuffle(candidates)
    assert json.dumps(judged(*candidates, force=True)) == json.dumps(first)
