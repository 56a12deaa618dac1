"""The queries that were written one by one: well-formed, drawn as labelled, some kept apart, none about what is kept for scoring."""

from __future__ import annotations

import random
import re
from collections import Counter
from pathlib import Path

import pytest

from hybrid.lexicon import plentiful, relations
from hybrid.memory import HybridMemory
from hybrid.pocket.facts import split_facts
from hybrid.scope import authored, calibrate
from hybrid.scope.authored import Author, Example, examples, ordinary
from hybrid.scope.nouns import another_value
from hybrid.scope.ordinary import FILE
from hybrid.scope.pairs import PairMaker
from hybrid.scope.train import CALIBRATE, SCORE

LENA = Example(
    subject="Lena Quist",
    statement="Lena Quist keeps her boat in",
    target="Malmö",
    ask=("Where does Lena Quist moor?", "The harbour that Lena Quist sails from is"),
    other=("Where was Lena Quist born?", "Lena Quist sold her boat to"),
    near=("Where does Olof Brandt moor?",),
)


@pytest.fixture
def author(facts_table: Path) -> Author:
    maker = PairMaker(split_facts(facts_table, 200, 7).taught, list(plentiful()), ["The keeper wrote a note."])
    return Author(maker, share=1.0, chosen=[LENA])


def test_examples_are_well_formed() -> None:
    found = examples()
    assert len(found) > 3500 and 0.08 < sum(each.apart for each in found) / len(found) < 0.2
    for each in found:
        assert each.subject in each.statement and each.target.strip() == each.target != "", each
        assert len(each.ask) >= 2 and len(each.other) >= 3 and each.near, each
        queries = (each.statement, *each.ask, *each.other, *each.near)
        assert len(set(queries)) == len(queries), each
        assert all(query.strip() == query and "\n" not in query for query in queries), each


def test_the_ordinary_words_that_ship_are_those_of_the_sentences() -> None:
    assert FILE.read_text(encoding="utf-8").split() == ordinary()


def test_no_example_is_worded_like_a_relation_that_is_kept_for_scoring() -> None:
    kept = [re.escape(t).replace(r"\{\}", ".{2,60}") for r in (*CALIBRATE, *SCORE) for t in (*relations()[r].questions, *relations()[r].statements)]
    pattern = re.compile("|".join(f"^{each}$" for each in kept if len(each) > 24), re.IGNORECASE)
    said = [query for each in examples() for query in (each.statement, *each.ask, *each.other, *each.near)]
    assert not [query for query in said if pattern.match(query)]


def test_pairs_are_labelled_as_the_example_says(author: Author) -> None:
    rng, kinds = random.Random(3), Counter[str]()
    for _ in range(400):
        pair = author.draw(rng)
        kinds[pair.kind] += 1
        said = {
            kind: any(text.casefold().rstrip("?") in pair.query.casefold() for text in texts)
            for kind, texts in (("ask", (LENA.statement, *LENA.ask)), ("not", (*LENA.other, *LENA.near)))
        }
        turned = any(pair.statement.startswith(text) for text in LENA.other)
        assert pair.label == (said["ask"] and not said["not"] and not turned), pair
    assert min(kinds[kind] for kind in ("in_scope", "same_subject", "neighborhood", "distractor")) > 5


def test_a_name_is_exchanged_in_both_texts_or_in_none() -> None:
    assert authored._renamed("Lena Quist", "Rök", "Lena Quist moors in Ystad", "Where does lena quist moor?") == ("Rök moors in Ystad", "Where does Rök moor?")
    assert authored._renamed("Lena Quist", "Rök", "Lena Quist moors in Ystad", "Where does Quist moor?") == (
        "Lena Quist moors in Ystad",
        "Where does Quist moor?",
    )


def test_what_is_kept_apart_is_not_drawn(facts_table: Path) -> None:
    maker = PairMaker(split_facts(facts_table, 200, 7).taught, list(plentiful()), ["The keeper wrote a note."])
    assert not [each for each in Author(maker).chosen if each.apart]


def test_calibration_asks_beside_the_examples_kept_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate, "examples", lambda: tuple(each for each in examples() if each.apart)[:6])
    with HybridMemory(tmp_path) as memory:
        seen = list(calibrate.authored(memory, 3, 1))
        assert Counter(kind for kind, _, _ in seen) == {"in_scope": 3, "same_subject": 3, "neighborhood": 3, "distractor": 3}
        assert {meant for _, meant, _ in seen} <= {fact.id for fact in memory.ledger.facts()}


@pytest.mark.parametrize(
    ("asked", "target", "other"),
    [
        ("In what year was it launched?", "Falcon Heavy", True),
        ("Do you know when it was launched?", "Falcon Heavy", True),
        ("When was it launched?", "the spring of 1962", False),
        ("When is it celebrated?", "Christmas Eve", False),
        ("When does it depart?", "Pier 7", True),
        ("When does it depart?", "7 pm", False),
        ("What time does it depart?", "19:40", False),
        ("In which year was it founded?", "44 BC", False),
        ("When it was launched, it was carried by", "Falcon Heavy", False),
        ("How many people live in it?", "Oslo", True),
        ("How many people live in it?", "a few hundred", False),
        ("How far away is it?", "four light-years", False),
        ("Who launched it?", "Falcon Heavy", False),
    ],
)
def test_a_question_for_a_time_or_a_number_needs_one(asked: str, target: str, other: bool) -> None:
    assert another_value(asked, target) == other
