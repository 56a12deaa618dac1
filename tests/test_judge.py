"""What evidence adds up to, and how little of the classifier has to be stored."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hybrid.scope.judge import FALLING, FILE, NAMES, RISING, Judge, table
from hybrid.scope.scorer import WEIGHTS, CrossEncoder, ScopeScorer, save
from policies.scope import Evidence
from stores.errors import Corrupt


def drawn(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Facts that govern where they are named and the wording suits; neither is enough."""
    rng = np.random.default_rng(seed)
    rows = np.zeros((count, len(NAMES)))
    for name, values in {
        "logit": rng.uniform(-5, 5, count),
        "named": rng.integers(0, 2, count),
        "own": rng.uniform(0, 1, count),
        "rival": rng.uniform(0, 1, count),
    }.items():
        rows[:, NAMES.index(name)] = values
    rows[:, NAMES.index("margin")] = rows[:, NAMES.index("strange")] = rows[:, NAMES.index("own")] - rows[:, NAMES.index("rival")]
    return rows, (rows[:, NAMES.index("named")] == 1) & (rows[:, NAMES.index("logit")] > 0)


@pytest.fixture(scope="module")
def judge() -> Judge:
    rows, labels = drawn(2000)
    return Judge.fit(rows, labels, np.ones(len(rows)), trees=100)


def test_two_things_that_count_only_together(judge: Judge) -> None:
    rows, labels = drawn(500, seed=1)
    assert ((judge.log_odds(rows) > 0) == labels).mean() > 0.97
    assert judge.log_odds(rows).shape == (500,)


def test_more_in_favour_never_counts_against(judge: Judge) -> None:
    rows, _ = drawn(300, seed=2)
    for name in (*RISING, *FALLING):
        more = rows.copy()
        more[:, NAMES.index(name)] += 0.7 if name in RISING else -0.7
        assert (judge.log_odds(more) >= judge.log_odds(rows) - 1e-9).all(), name


def test_what_is_asked_for_beyond_doubt_is_heard(judge: Judge) -> None:
    rows, _ = drawn(300, seed=4)
    for level, most in ((1.0, 0.0), (2.0, 7.9)):
        asked = rows.copy()
        asked[:, NAMES.index("elsewhere")] = level
        assert (judge.log_odds(asked) <= judge.log_odds(rows) - most).all()


def test_a_scale_takes_a_judge_at_its_word(judge: Judge) -> None:
    rng = np.random.default_rng(3)
    said = rng.normal(0, 3, 20_000)
    true = np.where(said > 0, 1.4, 0.4) * said  # too sure of what it denies, not sure enough of what it affirms
    calm = judge.calibrated(said, rng.random(len(said)) < 0.5 + 0.5 * np.tanh(true / 2), np.ones(len(said)))
    at = (calm.bends >= -3) & (calm.bends <= 3)
    assert calm.scale[at] == pytest.approx(np.where(calm.bends > 0, 1.4, 0.4)[at] * calm.bends[at], abs=0.4)
    rows, _ = drawn(300, seed=3)
    assert (np.argsort(calm.log_odds(rows), kind="stable") == np.argsort(judge.log_odds(rows), kind="stable")).all(), "the order stays"


def test_importance_is_as_good_as_repetition() -> None:
    rows, labels = drawn(200)
    twice = Judge.fit(np.vstack([rows, rows[:80]]), np.append(labels, labels[:80]), np.ones(280), trees=5)
    weighed = Judge.fit(rows, labels, np.array([2.0] * 80 + [1.0] * 120), trees=5)
    assert np.allclose(twice.log_odds(rows), weighed.log_odds(rows), atol=1e-6)
    with pytest.raises(ValueError, match="in scope and out of scope"):
        Judge.fit(rows, np.ones(200, dtype=bool), np.ones(200))


def test_what_is_kept_judges_alike_and_knows_its_evidence(judge: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evidence = Evidence(logit=2.0, named=1.0, variant=0.0, longer=0.0, before=0.0, shared=1.0, own=0.9, rival=0.4, known=1.0)
    assert evidence.margin == pytest.approx(0.5) and table([evidence]).shape == (1, len(NAMES))
    judge.save(tmp_path)
    again = Judge.load(tmp_path)
    assert again.judged(evidence).judged == judge.judged(evidence).judged > 0 == evidence.judged
    monkeypatch.setattr("hybrid.scope.judge.NAMES", NAMES[1:])
    with pytest.raises(Corrupt, match="other evidence"):
        Judge.load(tmp_path)


def test_an_altered_judge_is_refused(tmp_path: Path) -> None:
    for file in (FILE, "manifest.json"):
        (tmp_path / file).write_bytes((WEIGHTS / file).read_bytes())
    assert ScopeScorer(tmp_path).judge is not None
    (tmp_path / FILE).write_bytes((WEIGHTS / FILE).read_bytes() + b" ")
    with pytest.raises(Corrupt, match="manifest"):
        _ = ScopeScorer(tmp_path).judge


def test_a_byte_a_number_is_enough(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = CrossEncoder().eval()
    with torch.no_grad():
        for key, value in model.named_parameters():
            if value.requires_grad and value.ndim > 1 and not key.startswith("head."):
                value += 0.02 * torch.randn_like(value)
    save(model, tmp_path, {})
    scorer = ScopeScorer(tmp_path)
    pairs = (["The harbour master of Norr is Ada Brunn", "Norr lies in the north"], ["Who is the harbour master of Norr?", "Bread rises overnight"])
    apart = ScopeScorer(tmp_path)
    apart.__dict__["network"] = (model, scorer.network[1])
    assert scorer.logits(*pairs) == [pytest.approx(each, abs=0.01) for each in apart.logits(*pairs)]
    (file,) = json.loads((tmp_path / "manifest.json").read_text())["files"]
    assert sum(value.dtype == torch.int8 for value in load_file(tmp_path / file).values()) > 30
    assert (tmp_path / file).stat().st_size < 11_000_000


def test_weights_of_earlier_versions_are_read(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from hybrid.embedder import file_hash

    model = CrossEncoder().eval()
    save_file({key: value.detach().half().contiguous() for key, value in model.named_parameters() if value.requires_grad}, tmp_path / "old.safetensors")
    (tmp_path / "manifest.json").write_text(json.dumps({"files": {"old.safetensors": file_hash(tmp_path / "old.safetensors")}}))
    read, _ = ScopeScorer(tmp_path).network
    for mine, theirs in zip(read.parameters(), model.parameters(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-3)
