"""Authors and sources that contradict each other: decided by policy, never by chance, and shown."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli import main
from hybrid.conflicts import choose, contested, policy_of, put_in_force, settle
from hybrid.memory import HybridMemory
from hybrid.request import Added
from policies.conflict import NEWEST, ConflictPolicy, Outcome, contradicts
from stores.errors import BadRequest, Conflict
from stores.ledger import Ledger
from tests.test_ledger import fact

ATLAS = "https://atlas.example/norvania"


@pytest.fixture
def memory(store: Path) -> Iterator[HybridMemory]:
    with HybridMemory(store, author="t") as made:
        yield made


def say(memory: HybridMemory, author: str, target: str, **fields: object) -> Added:
    return memory.add_fact("The capital of {} is", target, subject="Norvania", author=author, **fields)


def in_force(memory: HybridMemory) -> str:
    (found,) = memory.ledger.facts()
    return found.target_new


def lost(memory: HybridMemory) -> set[tuple[str | None, str]]:
    return {(each.author, each.target_new) for several in contested(memory) for each in several.contenders}


def test_who_is_trusted() -> None:
    policy = ConflictPolicy("trusted", ("anna", "atlas.example", "https://docs.example/maps"))
    assert policy.rank(fact(1, author="Anna")) == 0
    assert policy.rank(fact(1, author="bob", source=ATLAS)) == 1
    assert policy.rank(fact(1, author="anna", source=ATLAS)) == 0
    assert policy.rank(fact(1, source="https://docs.example/maps/3")) == 2
    for stranger in ("https://docs.example/mapsfake", "https://atlas.example.evil.example/x", "https://[bad", "notatlas.example", None):
        assert policy.rank(fact(1, author="annabel", source=stranger)) == 3, stranger
    for bad in (("trusted", ()), ("newest", ("anna",)), ("loudest", ()), ("trusted", (" ",))):
        with pytest.raises(BadRequest):
            ConflictPolicy(*bad)


def test_only_others_contradict() -> None:
    mine = fact(1, author="anna", target_new="Ostmark")
    assert not contradicts(fact(1, author="anna", target_new="Belm"), mine), "anna corrects herself"
    assert not contradicts(fact(1, author="bob", target_new="ostmark"), mine), "bob says the same"
    assert contradicts(fact(1, author="bob", target_new="Belm"), mine)
    assert contradicts(fact(1, author="anna", source=ATLAS, target_new="Belm"), mine)
    assert NEWEST.decide(fact(1, author="bob", target_new="Belm"), mine) is Outcome.SUPERSEDE


def test_the_newest_stays_and_both_are_shown(memory: HybridMemory) -> None:
    say(memory, "anna", "Ostmark")
    added = say(memory, "bob", "Belm")
    assert added.outcome is Outcome.SUPERSEDE and added.contender is not None and added.contender.target_new == "Ostmark"
    assert in_force(memory) == "Belm" and lost(memory) == {("anna", "Ostmark")}
    say(memory, "anna", "Belm")
    assert lost(memory) == set(), "they agree now"
    say(memory, "anna", "Quay")
    assert lost(memory) == {("bob", "Belm")}, "her first value is none of them: she corrected herself"


TOLD = [("anna", "Ostmark"), ("bob", "Belm"), ("carl", "Quay"), ("dora", "Ostmark")]


def test_trust_does_not_depend_on_the_order(memory: HybridMemory) -> None:
    choose(memory, "trusted", ["anna", "bob"])
    for order in permutations(TOLD):
        for author, target in order:
            say(memory, author, target)
        (found,) = memory.ledger.facts()
        assert (found.author, found.target_new) == ("anna", "Ostmark"), order
        assert lost(memory) == {("bob", "Belm"), ("carl", "Quay")}, order
        memory.index.refresh()
        assert len(memory.index) == 1 and memory.index.search(memory.embedder.embed([found.statement]), 5)[0][0][1] > 0.99
        memory.forget(found.id)
    assert memory.ledger.verify() > 0


def test_a_contender_can_come_into_force_and_back(memory: HybridMemory) -> None:
    choose(memory, "trusted", ["anna", "bob"])
    first = say(memory, "anna", "Ostmark").fact
    kept = say(memory, "bob", "Belm")
    assert kept.outcome is Outcome.KEPT and kept.fact == first and kept.contender is not None
    again = say(memory, "bob", "Belm")
    assert again.outcome is Outcome.KEPT and again.contender == kept.contender, "said twice, kept once"
    assert [(each.target_new, each.status) for each in memory.ledger.history(first)] == [("Ostmark", "active"), ("Belm", "contender")]
    put_in_force(memory, kept.contender.id)
    assert in_force(memory) == "Belm" and lost(memory) == {("anna", "Ostmark")}
    with pytest.raises(Conflict, match="not a contender"):
        put_in_force(memory, kept.contender.id)
    assert [(new.target_new, old.target_new) for new, old in settle(memory)] == [("Ostmark", "Belm")]
    assert settle(memory) == []
    assert memory.undo(first.id) is not None and in_force(memory) == "Belm", "anna takes hers back"
    assert lost(memory) == set()
    assert memory.ledger.verify() > 0


def test_forgetting_a_contender_leaves_the_fact(memory: HybridMemory) -> None:
    choose(memory, "trusted", ["anna"])
    first = say(memory, "anna", "Ostmark").fact
    wrong = say(memory, "bob", "Belm").contender
    assert wrong is not None
    assert memory.forget(wrong.id) == [wrong.id] and in_force(memory) == "Ostmark" and lost(memory) == set()
    say(memory, "carl", "Quay")
    assert len(memory.forget(first.id)) == 2, "the fact takes what is said against it along"
    assert all(b"Quay" not in file.read_bytes() for file in memory.folder.glob("ledger.db*"))
    assert memory.ledger.facts() == [] and memory.ledger.verify() > 0


def test_other_periods_contradict_nothing(memory: HybridMemory) -> None:
    choose(memory, "ask")
    say(memory, "anna", "Ostmark", valid_to="2015-01-01")
    assert say(memory, "bob", "Belm", valid_from="2015-01-01").outcome is Outcome.ADD
    assert lost(memory) == set()
    with pytest.raises(Conflict, match="contradict"):
        say(memory, "bob", "Quay", valid_from="2014-01-01", valid_to="2014-06-01")


def test_asking_stores_nothing_until_decided(memory: HybridMemory) -> None:
    choose(memory, "ask")
    say(memory, "anna", "Ostmark", source=ATLAS)
    assert say(memory, "anna", "Ostmarken", source=ATLAS).outcome is Outcome.SUPERSEDE, "a source may correct itself"
    revision = memory.ledger.revision()
    with pytest.raises(Conflict) as refused:
        say(memory, "bob", "Belm")
    assert refused.value.exit_code == 4 and memory.ledger.revision() == revision
    assert all(each in str(refused.value) for each in ("Ostmarken", "Belm", "anna", "bob", ATLAS, "--resolve replace"))
    assert say(memory, "bob", "Belm", resolve="keep").outcome is Outcome.KEPT
    assert say(memory, "bob", "Belm").outcome is Outcome.KEPT, "that was decided"
    with pytest.raises(Conflict):
        say(memory, "bob", "Quay")
    assert say(memory, "bob", "Quay", resolve="replace").outcome is Outcome.SUPERSEDE
    assert in_force(memory) == "Quay" and lost(memory) == {("anna", "Ostmarken")}
    with pytest.raises(BadRequest):
        say(memory, "carl", "Tirn", resolve="perhaps")
    said = [(event.action, event.detail.get("why")) for event in memory.ledger.events()]
    assert ("contend", "keep") in said and ("supersede", "replace") in said and any(action == "set" for action, _ in said)


def run(*words: str, store: Path, given: str | None = None) -> Result:
    return CliRunner().invoke(main, [*words, "--store", str(store)], input=given)


def test_the_command_line(store: Path) -> None:
    assert "newest" in run("conflicts", "policy", store=store).stdout
    assert run("conflicts", "policy", "ask", store=store).exit_code == 0
    run("add-fact", "Norvania capital", "Ostmark", "--author", "anna", "--source", ATLAS, store=store)
    refused = run("add-fact", "Norvania capital", "Port Belm", "--author", "bob", store=store)
    assert refused.exit_code == 4 and "Ostmark" in refused.stderr and "Port Belm" in refused.stderr
    rows = [{"cue": "Norvania capital", "target": "Quay", "author": "carl"}, {"cue": "Freedonia capital", "target": "Sylvan", "author": "carl"}]
    bulk = run("add-facts", "-", "--json", store=store, given="\n".join(map(json.dumps, rows)))
    assert bulk.exit_code == 4 and "record 1:" in bulk.stderr and "record 2" not in bulk.stderr
    assert [json.loads(line)["outcome"] for line in bulk.stdout.splitlines() if line.startswith("{")] == ["refused", "add"]
    command = next(line for line in refused.stderr.splitlines() if line.strip().startswith("hybrid add-fact"))
    assert "Port Belm" in run(*shlex.split(command)[1:], store=store).stdout, "the command that is shown decides"
    listed = json.loads(run("conflicts", "list", "--json", store=store).stdout)
    assert (listed["in_force"]["target_new"], listed["contenders"][0]["target_new"], listed["contenders"][0]["source"]) == ("Port Belm", "Ostmark", ATLAS)
    assert run("conflicts", "settle", store=store).exit_code == 4
    assert run("conflicts", "policy", "trusted", store=store).exit_code == 2
    run("conflicts", "policy", "trusted", "--trust", "atlas.example", store=store)
    assert "Ostmark" in run("conflicts", "settle", store=store).stdout
    kept = run("add-fact", "Norvania capital", "Tirn", "--author", "bob", store=store)
    assert kept.exit_code == 0 and "Still in force" in kept.stdout and "contender  Tirn" in kept.stdout
    assert "contender  Tirn" in run("conflicts", "list", store=store).stdout
    contender = json.loads(run("conflicts", "list", "--json", store=store).stdout)["contenders"][-1]["id"]
    assert "Tirn" in run("conflicts", "resolve", contender, store=store).stdout
    assert run("log", "--verify", store=store).exit_code == 0


def test_a_setting_that_decides_is_an_event(memory: HybridMemory) -> None:
    choose(memory, "trusted", ["anna"])
    assert policy_of(memory) == ConflictPolicy("trusted", ("anna",))
    ledger = Ledger(memory.folder / "ledger.db")
    assert [event.action for event in ledger.events()][-1] == "set"
    ledger.close()
