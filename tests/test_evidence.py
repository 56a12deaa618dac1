"""What is gathered about a query and a fact, before anything is weighed."""

from __future__ import annotations

import random

import numpy as np
import pytest

from hybrid.embedder import Embedder
from hybrid.lexicon import relations
from hybrid.scope.calibrate import fit
from hybrid.scope.evidence import Reading, last_sentence, shared, span, without
from hybrid.scope.pairs import alias
from hybrid.scope.phrasings import Phrasings, phrasings
from policies.scope import Evidence, probability
from stores.errors import Corrupt
from stores.records import Fact


def stored(subject: str, relation: str, prompt: str, **more: object) -> Fact:
    return Fact(id="1", subject=subject, relation=relation, prompt=prompt, target_new="Oslo", **more)  # type: ignore[arg-type]


LENA = stored("Lena Böhm", "place of birth", "{} was born in", aliases=("Madame B.",))


def test_names_are_found_whatever_case_and_accents() -> None:
    assert span("Lena Böhm", "WHERE WAS LENA BOHM BORN?") == (10, 19)
    assert span("Iran", "What is the capital of Iranistan?") is None
    assert shared("Lena Böhm", "Where was Mrs Bohm born?") == 0.5
    assert without("Lena Böhm", "Where was Lena Böhm born?") == "Where was it born?"
    assert without("Bank of Ghent", "Who runs the Ghent bank?") == "Who runs the it?"
    assert without("Lena Böhm", "Who runs the bank?") is None


def test_the_last_sentence_asks_if_it_names_the_subject() -> None:
    query = "Lena Böhm was born in Oslo. Where was Petra Lind born?"
    assert last_sentence(query) == "Where was Petra Lind born?"
    reading = Reading.of(query, LENA)
    assert (reading.named, reading.before, reading.asked) == (False, True, query)
    reading = Reading.of("It rained all day. Where was Lena Böhm born?", LENA)
    assert (reading.named, reading.before, reading.asked) == (True, False, "Where was Lena Böhm born?")


def test_an_alias_counts_as_the_subject() -> None:
    reading = Reading.of("Where was Madame B. born?", LENA)
    assert reading.named and reading.wordings[0] == "Madame B. was born in Oslo" and reading.bare == "Where was it born?"


def test_a_relation_of_the_lexicon_is_read_in_several_wordings() -> None:
    known = Reading.of("Where was Lena Böhm born?", LENA)
    assert known.relation == "P19" and len(known.wordings) == 4 and all("Lena Böhm" in w and "Oslo" in w for w in known.wordings)
    hidden = Reading.of("Where was Lena Böhm born?", LENA, hidden=["P19"])
    assert hidden.relation is None and len(hidden.wordings) == 1


def test_the_nearest_phrasing_tells_the_relation() -> None:
    table = Phrasings()
    vectors = Embedder().embed(["Whereabouts was it born?", "By which company is it manufactured?"])
    born, made = table.nearest(vectors)
    own, rival = table.own_and_rival(born, "P19")
    assert own > rival and table.own_and_rival(made, "P176")[0] > table.own_and_rival(made, "P19")[0]
    assert table.own_and_rival(born, "no such relation")[0] == -1.0
    assert Phrasings(hidden=["P19"]).own_and_rival(Phrasings(hidden=["P19"]).nearest(vectors)[0], "P19")[0] == -1.0


def test_the_shipped_phrasings_are_those_of_the_lexicon() -> None:
    assert {key for key, _ in phrasings()} == set(relations())
    assert Phrasings().nearest(np.zeros((1, 384), dtype=np.float32)).shape == (1, len(relations()))


def test_changed_phrasings_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybrid.scope.phrasings.fingerprint", lambda: "of another lexicon")
    with pytest.raises(Corrupt, match="does not belong to this lexicon"):
        Phrasings().nearest(np.zeros((1, 384), dtype=np.float32))


def test_aliases_are_other_spellings() -> None:
    rng = random.Random(0)
    assert {alias(rng, "Zoë Ann Hart", "person") for _ in range(60)} == {"Zoe Ann Hart", "Zoë Hart", "Z. Ann Hart", "Dr. Zoë Ann Hart"}
    assert alias(rng, "Turin", "place") is None


def test_calibration_recovers_the_truth() -> None:
    rng = random.Random(0)
    truth = {"logit": 0.4, "named": 1.5, "before": -0.5, "shared": 1.0, "margin": 3.0, "bias": -1.2}
    seen = [Evidence(rng.uniform(-8, 8), float(rng.random() < 0.5), float(rng.random() < 0.2), rng.random(), rng.uniform(-0.5, 0.5)) for _ in range(20000)]
    labels = [rng.random() < probability(evidence, truth) for evidence in seen]
    found = fit(seen, labels)
    assert found == {name: pytest.approx(value, abs=0.2) for name, value in truth.items()}
    assert probability(Evidence(3.0, 0, 0, 0, 0), truth) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="in scope"):
        fit(seen[:2], [True, True])


def test_importance_is_as_good_as_repetition() -> None:
    rng = random.Random(1)
    seen = [Evidence(rng.uniform(-3, 3), 0.0, 0.0, rng.random(), 0.0) for _ in range(300)]
    labels = [rng.random() < 0.3 + 0.4 * (evidence.logit > 0) for evidence in seen]
    twice = fit([*seen, *seen[:100]], [*labels, *labels[:100]])
    weighed = fit(seen, labels, [2.0] * 100 + [1.0] * 200)
    assert weighed == {name: pytest.approx(value, abs=0.02) for name, value in twice.items()}
