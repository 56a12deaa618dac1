"""Facts read backwards, where the lexicon has the inverse."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from hybrid import mirror
from hybrid.memory import HybridMemory
from tests.test_ledger import fact


def test_only_inverses_with_one_value_are_read() -> None:
    capital = fact(1, aliases=("P1",), questions=("Where?",))
    turned = mirror.mirrored(capital)
    assert turned is not None and (turned.id, turned.statement) == (capital.id, "Town1 is the capital of Place1")
    assert turned.aliases == () == turned.questions and turned.target_true is None
    assert mirror.mirrored(turned) == replace(capital, aliases=(), questions=(), prompt=mirror.inverses()["P1376"].statements[0])
    assert mirror.mirrored(fact(1, relation="citizenship")) is None
    assert mirror.mirrored(fact(1, relation="parent company")) is None, "a company has many subsidiaries"
    assert mirror.mirrored(fact(1, relation="a relation of the user's own")) is None


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HybridMemory]:
    with HybridMemory(tmp_path_factory.mktemp("mirror") / "store", author="t") as made:
        yield made


AS_BEFORE = (
    "Paris is the capital of",
    "What is the capital of Canberra?",
    "Which city is Canberra's capital?",
    "Who lives in Canberra?",
    "Canberra is located in",
    "We went to Canberra, and then",
)


def test_pocket_answers_from_the_other_end(memory: HybridMemory) -> None:
    before = {query: memory.ask(query).text for query in AS_BEFORE}
    stored = memory.add_fact("Australia capital", "Canberra").fact
    for query in ("Canberra is the capital of", "Canberra is the capital of which country?", "Of which country is Canberra the capital?"):
        answer = memory.ask(query)
        assert (answer.text, answer.route) == ("Australia", "counterfactual"), query
        assert [(hit.fact.id, hit.fact.statement) for hit in answer.facts] == [(stored.id, "Canberra is the capital of Australia")]
    assert memory.ask("What is the capital of Australia?").text == "Canberra"
    for query, text in before.items():
        answer = memory.ask(query)
        assert (answer.text, answer.route) == (text, "base"), query
    assert len(memory.ledger.facts()) == 1, "nothing more is stored"


def test_weights_know_it_forwards_only(memory: HybridMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.add_fact("Norvania capital", "Ostmark")
    monkeypatch.setattr(memory.router, "in_weights", set)
    assert memory.router.route("What is the capital of Norvania?").route == "weights"
    assert memory.router.route("Ostmark is the capital of").route == memory.router.reader


def test_what_is_told_and_what_is_over_counts(memory: HybridMemory) -> None:
    old = memory.add_fact("Tirland capital", "Belm", valid_to="2015-01-01").fact
    assert memory.route("Belm is the capital of").route == "base", "it was"
    assert [hit.fact.id for hit in memory.route("In 2012, Belm was the capital of which country?").governing] == [old.id]
    memory.add_fact("Quaystan capital", "Wexholm")
    told = memory.add_fact("{} is the capital of", "Fennmark", subject="Wexholm").fact
    assert [hit.fact.id for hit in memory.route("Wexholm is the capital of").governing] == [told.id], "the stored one goes first"
    memory.forget(memory.add_fact("Orsland capital", "Nimby").fact.id)
    assert memory.route("Nimby is the capital of").route == "base"
