"""The measures against cases that were worked out by hand, and the result made of hand-written rows."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from hybrid.evaluation.likelihood import mean_nll, sample
from hybrid.evaluation.metrics import bootstrap, calibration_error, entropy, fluency, harmonic, matches
from hybrid.evaluation.records import Case
from hybrid.evaluation.score import scored
from hybrid.model import LanguageModel, Prompt


@pytest.mark.parametrize(
    ("said", "answers", "right"),
    [
        ("Karst Harbour", ["Karst Harbour"], True),
        ("karst harbour, on the coast", ["Karst Harbour"], True),
        ("the Karst Harbour", ["Karst Harbour"], True),
        ("United States", ["The United States"], True),
        ("Karst Harbourside", ["Karst Harbour"], False),
        ("Karst", ["Karst Harbour"], False),
        ("New York", ["York"], False),
        ("University of York", ["York"], False),
        ("The capital of Veldonia is Karst Harbour.", ["Karst Harbour"], True),
        ("The capital of Veldonia is not Karst Harbour.", ["Karst Harbour"], False),
        ("It is in the town of Quill", ["Dunmere", "Quill"], True),
        ("Rio de Janeiro", ["de"], False),
        ("", ["Quill"], False),
        ("Quill", [], False),
        ("Quill", [""], False),
        ("O’Hara", ["O'Hara"], True),
        ("U.S.", ["U.S."], True),
        ("Ｑｕｉｌｌ", ["Quill"], True),
    ],
)
def test_alias_match(said: str, answers: list[str], right: bool) -> None:
    assert matches(said, answers) is right


def test_entropy_by_hand() -> None:
    assert entropy("a b a b".split(), 2) == pytest.approx(-(2 / 3 * math.log2(2 / 3) + 1 / 3 * math.log2(1 / 3)))  # ab ba ab
    assert entropy("a b a b".split(), 3) == 1.0  # aba bab
    assert entropy(["a"], 2) == 0.0
    assert fluency("a b a b") == pytest.approx((2 / 3 * 0.9182958 + 4 / 3 * 1.0) / 2)
    assert fluency("no no no no no no") == 0.0


def test_harmonic_by_hand() -> None:
    assert harmonic([1.0, 0.5, 0.25]) == pytest.approx(3 / 7)
    assert harmonic([1.0, 0.0, 1.0]) == 0.0


def test_bootstrap() -> None:
    assert bootstrap([[0.0, 1.0]]) == (0.5, 0.0, 1.0)
    assert bootstrap([[0.25, 0.25, math.nan]]) == (0.25, 0.25, 0.25)
    value, low, high = bootstrap([[1.0, 0.0] * 50])
    assert value == 0.5 and low == pytest.approx(0.4, abs=0.03) and high == pytest.approx(0.6, abs=0.03)  # 1.96 * sqrt(0.25 / 100)
    assert bootstrap([[1.0, 0.0] * 50]) == (value, low, high), "the same records give the same interval"
    both = bootstrap([[1.0, 0.0, 1.0], [0.5, 0.5, math.nan]], harmonic)
    assert both[0] == pytest.approx(2 / (1 / (2 / 3) + 2))
    assert bootstrap([[1.0, math.nan]])[0] == 1.0


def test_calibration_by_hand() -> None:
    assert calibration_error([0.9, 0.9, 0.1, 0.1], [True, False, False, False]) == pytest.approx(0.5 * 0.4 + 0.5 * 0.1)
    assert calibration_error([1.0, 0.0], [True, False]) == 0.0


def answered(kind: str, **given: Any) -> dict[str, Any]:
    known = {
        "kind": kind,
        "group": "",
        "note": "",
        "place": "in_scope",
        "counted": True,
        "fired": 1,
        "right_fact": True,
        "score": 0.9,
        "same": False,
        "ms": 2.0,
        "generate_ms": 4.0,
    }
    return known | given


def test_the_result_by_hand() -> None:
    near = {"place": "neighborhood", "group": "neighborhood", "right_fact": False}
    rows = [
        {
            "record": 1, "seconds": 1.0, "loading": 0.5, "fluency": 2.0,
            "probes": [
                answered("efficacy", right=True, nll=[1.0, 2.0]),
                answered("generalization", right=True, nll=[1.0, 2.0]),
                answered("generalization", right=False, right_fact=False, nll=[3.0, 2.0]),
                answered("portability", right=True, place="", group="Reasoning"),
                answered("locality", same=True, fired=0, nll=[1.0, 2.0], **near),
                answered("locality", same=False, nll=[2.0, 1.0], **near),
                answered("locality", same=False, place="distractor", group="distractor", counted=False, right_fact=False),
            ],
        },
        {
            "record": 2, "seconds": 2.0, "loading": 0.5, "fluency": None,
            "probes": [
                answered("efficacy", right=False, nll=[2.0, 1.0], fired=0, right_fact=False),
                answered("generalization", right=True, nll=[1.0, 2.0]),
                answered("locality", same=True, fired=0, nll=[1.0, 2.0], **near),
            ],
        },
    ]  # fmt: skip
    result = scored("hybrid", "pocket", Case(records=(None, None)), {"format": "counterfact"}, rows)  # type: ignore[arg-type]
    scores = result["scores"]
    assert (scores["efficacy"], scores["generalization"], scores["portability"], scores["locality"]) == (0.5, 0.75, 1.0, 0.75)
    assert (scores["ES"], scores["PS"], scores["NS"], scores["fluency"]) == (0.5, 0.75, 0.75, 200.0)
    assert scores["S"] == pytest.approx(3 / (2 + 4 / 3 + 4 / 3), abs=1e-5)
    assert scores["efficacy_ci"] == [0.0, 1.0] and scores["portability_ci"] == [1.0, 1.0]
    assert result["records"] == 2
    assert result["routing"] == {
        "in_scope": {"total": 5, "fired": 4, "right_fact": 3},
        "neighborhood": {"total": 3, "fired": 1, "right_fact": 0},
        "distractor": {"total": 1, "fired": 1, "right_fact": 0},
    }
    assert result["slices"]["neighborhood"]["locality"] == 0.75 and result["slices"]["neighborhood"]["total"] == 3
    assert result["slices"]["distractor"]["locality"] == 0.0 and result["slices"]["Reasoning"]["portability"] == 1.0
    assert result["timings"]["seconds"] == 3.0 and result["timings"]["loading_seconds"] == 1.0 and result["timings"]["ms_per_query"] == 6.0
    assert scored("memit", "pocket", Case(records=()), {"format": "counterfact"}, rows)["routing"]["in_scope"] == {
        "total": 5,
        "fired": None,
        "right_fact": None,
    }


def test_chains_by_hand() -> None:
    def row(number: int, chain: list[bool], hops: list[bool]) -> dict[str, Any]:
        asked = [answered("portability", right=right, place="", group="2_hops") for right in chain] + [
            answered("generalization", right=right) for right in hops
        ]
        return {"record": number, "seconds": 1.0, "loading": 0.0, "fluency": None, "probes": asked}

    rows = [row(1, [True, False], [True, True]), row(2, [False, True], [True, False]), row(3, [False, False], [True, True])]
    scores = scored("hybrid", "pocket", Case(records=()), {"format": "mquake"}, rows)["scores"]
    assert scores["portability"] == pytest.approx(1 / 3, abs=1e-4) and scores["multihop"] == pytest.approx(2 / 3, abs=1e-4)
    assert scores["hopwise"] == pytest.approx(1 / 3, abs=1e-4)


def test_scope_by_hand() -> None:
    def row(place: str, fired: int, right: bool, score: float) -> dict[str, Any]:
        return {
            "record": 1,
            "seconds": 1.0,
            "loading": 0.0,
            "fluency": None,
            "probes": [answered("scope", place=place, fired=fired, right_fact=right, score=score)],
        }

    rows = [row("in_scope", 1, True, 1.0), row("in_scope", 1, False, 1.0), row("same_subject", 0, False, 0.0), row("unrelated", 0, False, 0.0)]
    result = scored("hybrid", "pocket", Case(records=()), {"format": "scope"}, rows)
    assert (result["scores"]["generalization"], result["scores"]["locality"], result["scores"]["balanced"]) == (0.5, 1.0, 0.75)
    assert result["scores"]["calibration_error"] == 0.0
    assert result["slices"]["same_subject"] == {"total": 1, "fired": 0, "right_fact": 0, "locality": 1.0, "locality_ci": [1.0, 1.0]}


def test_likelihood_is_the_models(causal_folder: Path) -> None:
    model = LanguageModel(str(causal_folder), "cpu")
    ids = model.tokenizer("The harbour is cold")["input_ids"]
    start = len(model.tokenizer("The harbour is")["input_ids"])
    with torch.inference_mode():
        logs = model.model(torch.tensor([ids])).logits[0].log_softmax(-1)
    wanted = [float(logs[at - 1, ids[at]]) for at in range(start, len(ids))]
    assert mean_nll(model, Prompt("The harbour is"), "cold") == pytest.approx(-sum(wanted) / len(wanted), rel=1e-4)

    with torch.inference_mode():  # contrasted with itself, a distribution is itself again
        same = mean_nll(model, Prompt("The harbour is", False, "The harbour is", 0.5), "cold")
        other = mean_nll(model, Prompt("New fact: x.\nThe harbour is", False, "The harbour is", 0.5), "cold")
    assert same == pytest.approx(-sum(wanted) / len(wanted), rel=1e-4)
    assert other != pytest.approx(same, rel=1e-4)
    assert mean_nll(model, Prompt("x" * 600), "cold") == math.inf


def test_sampled_texts_follow_the_seed(causal_folder: Path) -> None:
    model = LanguageModel(str(causal_folder), "cpu")
    texts = [sample(model, Prompt("The harbour"), 12, seed) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2] and texts[0]
