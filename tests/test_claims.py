"""Claims and yes/no questions: which queries they are, what the verifier makes of them, and how a memory answers."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from hybrid.claims.pairs import OPEN, REFUTED, SUPPORTED, Drawer, question, records
from hybrid.claims.reverse import reverse
from hybrid.claims.train import accuracy, work
from hybrid.claims.verifier import FILE, WEIGHTS, Verifier
from hybrid.claims.wording import claim
from hybrid.memory import HybridMemory
from hybrid.request import from_cue
from policies.claims import ClaimPolicy
from stores.errors import Corrupt


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HybridMemory]:
    with HybridMemory(tmp_path_factory.mktemp("claims") / "store", author="t") as made:
        made.add_fact("Australia capital", "Canberra")
        made.add_fact("{} was directed by", "Ida Brandt", subject="The Salt Ledger")
        made.add_fact("The staging server runs on", "Debian")
        yield made


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("Is it true that the Kestrel pump is made in Brno?", "The Kestrel pump is made in Brno."),
        ("Is it correct that was the pump made in Brno??", "Was the pump made in Brno?"),
        ("True or false: Brno makes the pump", "Brno makes the pump."),
        ("Brno makes the pump. True or false?", "Brno makes the pump."),
        ("Brno makes the pump, doesn't it?", "Brno makes the pump."),
        ("so, is the pump made in Brno?", "So, is the pump made in Brno?"),
        ("Isn't the pump made in Brno?", "Isn't the pump made in Brno?"),
        ("Do we use Debian?", "Do we use Debian?"),
        ("Was it Ada Holm who made the pump?", "Was it Ada Holm who made the pump?"),
    ],
)
def test_what_wants_yes_or_no_is_a_claim(query: str, wanted: str) -> None:
    assert claim(query) == wanted


@pytest.mark.parametrize(
    "query",
    [
        "Where is the pump made?",
        "The pump is made in",
        "Do you know where the pump is made?",
        "Can you tell me the maker of the pump?",
        "Is the pump made in Brno or in Graz?",
        "Is it known who made the pump?",
        "Does anyone remember its maker?",
        "True North was recorded in",
        "Will Hollis works for",
    ],
)
def test_what_wants_a_thing_is_none(query: str) -> None:
    assert claim(query) is None


def test_a_statement_becomes_a_question() -> None:
    rng = random.Random(0)
    assert question("{} was built by", "The Ark", "Noa", rng) == "Was The Ark built by Noa?"
    assert {question("The builder of {} is", "The Ark", "Noa", rng) for _ in range(20)} == {"Is Noa the builder of The Ark?", "Is the builder of The Ark Noa?"}
    assert question("{} owes its shape to", "The Ark", "Noa", rng) is None


def test_pairs_have_the_labels_that_they_were_written_with() -> None:
    drawer, rng = Drawer(()), random.Random(3)
    drawn = [drawer.draw(rng) for _ in range(400)]
    assert {pair.label for pair in drawn} == {REFUTED, SUPPORTED, OPEN}
    assert all(pair.statement and pair.claim for pair in drawn)
    assert not {each.subject for each in drawer.chosen} & {each.subject for each in records() if each.apart}
    assert all(pair.label == SUPPORTED for pair in drawn if pair.statement == pair.claim)


def test_the_verifier_tells_what_was_kept_from_training() -> None:
    held = [pair for each in records() if each.apart for pair in each.pairs]
    found = accuracy(Verifier(), random.Random(0).sample(held, 200))
    assert found["yes_or_no"] > 0.75 and found["three_ways"] > 0.7


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    shutil.copytree(WEIGHTS, tmp_path / "weights")
    raw = bytearray((tmp_path / "weights" / FILE).read_bytes())
    raw[-1] ^= 1
    (tmp_path / "weights" / FILE).write_bytes(raw)
    with pytest.raises(Corrupt, match="manifest"):
        Verifier(tmp_path / "weights").verdicts(["The lamp is red."], ["The lamp is red."])


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("Is Canberra the capital of Australia?", "Yes"),
        ("Is Sydney the capital of Australia?", "No: The capital of Australia is Canberra."),
        ("Is it true that the capital of Australia is Sydney?", "No: The capital of Australia is Canberra."),
        ("True or false: Canberra is Australia's capital", "Yes"),
        ("Was The Salt Ledger directed by Per Holm?", "No: The Salt Ledger was directed by Ida Brandt."),
        ("Did Ida Brandt direct The Salt Ledger?", "Yes"),
        ("Does the staging server run on Debian?", "Yes"),
    ],
)
def test_a_fact_decides(memory: HybridMemory, query: str, wanted: str) -> None:
    answer = memory.ask(query)
    assert (answer.text, answer.route) == (wanted, "counterfactual")
    assert len(answer.facts) == 1 and answer.facts[0].evidence["supported"] + answer.facts[0].evidence["refuted"] > 0.5


@pytest.mark.parametrize("query", ["Is Vienna the capital of Austria?", "Is The Salt Ledger a musical?", "Does the moon have an atmosphere?"])
def test_what_no_fact_decides_is_for_the_model_alone(memory: HybridMemory, query: str) -> None:
    answer = memory.ask(query)
    assert answer.route == "base" and answer.facts == ()
    assert answer.text == memory.ask(query, route="base").text


def test_a_claim_is_judged_by_facts_in_force(store: Path) -> None:
    with HybridMemory(store, author="t") as memory:
        memory.add_fact("{} is based in", "Graz", subject="Orlan Pumps", valid_from="2001-01-01", valid_to="2004-01-01", namespace="old")
        assert memory.ask("Is Orlan Pumps based in Graz?").route == "base"
        assert memory.ask("Was Orlan Pumps based in Graz in 2002?").text == "Yes"
        assert memory.ask("Was Orlan Pumps based in Graz in 2002?", namespaces=["new"]).route == "base"


def test_a_forbidden_string_is_not_said_with_a_verdict(store: Path) -> None:
    with HybridMemory(store, author="t") as memory:
        memory.add_fact("Australia capital", "Canberra")
        memory.behaviour.add_rule("", kind="never", phrases=("Canberra",))
        assert "Canberra" not in memory.ask("Is Sydney the capital of Australia?").text


def test_thresholds_are_probabilities() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        ClaimPolicy(named=1.5)
    near = {"longer": 0.0, "named": 0.0, "variant": 0.0, "shared": 0.0}
    policy = ClaimPolicy()
    assert policy.bar(near, 0.1, False) is None and policy.bar({**near, "named": 1.0, "longer": 1.0}, 0.9, False) is None
    assert policy.bar(near, 0.1, True) == policy.governing < policy.bar({**near, "named": 1.0}, 0.1, False) < policy.bar({**near, "shared": 0.5}, 0.1, False)


def test_a_short_training_is_saved_and_read_back(tmp_path: Path) -> None:
    work(0, 1, tmp_path / "weights", pairs=48, rows=16, lr=1e-3, bfloat16=False)
    said = Verifier(tmp_path / "weights").verdicts(["The lamp is red."] * 2, ["The lamp is red.", "Is the lamp green?"])
    assert [round(sum(verdict), 4) for verdict in said] == [1.0, 1.0]
    shipped = Verifier().verdicts(["The lamp is red."], ["The lamp is red."])
    assert said[0] != shipped[0], "it is not the one that ships"


@pytest.mark.parametrize(
    ("cue", "target", "claimed", "turned"),
    [
        ("Rosa Tveit reports to", "Nils Aas", "Does Nils Aas report to Rosa Tveit?", True),
        ("Rosa Tveit reports to", "Nils Aas", "Is Rosa Tveit the manager of Nils Aas?", True),
        ("Rosa Tveit reports to", "Nils Aas", "Is Nils Aas Rosa Tveit's manager?", False),
        ("Rosa Tveit reports to", "Nils Aas", "Does Rosa Tveit report to Nils Aas?", False),
        ("Rosa Tveit mother", "Siri Tveit", "Rosa Tveit is the mother of Siri Tveit.", True),
        ("Rosa Tveit spouse", "Nils Aas", "Is Nils Aas married to Rosa Tveit?", False),
        ("Norvania capital", "Ostmark", "Is Norvania the capital of Ostmark?", True),
        ("Norvania capital", "Ostmark", "Is Ostmark the capital of Norvania?", False),
        ("Norvania capital", "Ostmark", "Is Quill the capital of Norvania?", False),
    ],
)
def test_a_fact_turned_round_is_told_from_the_order_of_words(cue: str, target: str, claimed: str, turned: bool) -> None:
    assert reverse(claimed, from_cue(cue, target).checked().to_fact("1", "t", "")) is turned


def test_a_fact_turned_round_is_refuted(store: Path) -> None:
    with HybridMemory(store, author="t") as memory:
        memory.add_fact("Rosa Tveit reports to", "Nils Aas")
        assert memory.ask("Does Rosa Tveit report to Nils Aas?").text == "Yes"
        assert memory.ask("Does Nils Aas report to Rosa Tveit?").text.startswith("No: ")
