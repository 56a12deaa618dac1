"""Consolidation over small models that can be taught: purity, order, rollback, forgetting, routing, crashes, two processes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from hybrid.answering import choose_reader
from hybrid.consolidation.audit import verify
from hybrid.consolidation.checks import Checks, Probe, checks, says
from hybrid.consolidation.removal import forget
from hybrid.consolidation.run import Result, Run
from hybrid.consolidation.solver import LADDER
from hybrid.consolidation.verify import Examiner, Outcome
from hybrid.consolidation.workshop import Workshop, crowded_key
from hybrid.fingerprint import combined, tensor_hashes
from hybrid.memory import HybridMemory
from hybrid.model import Prompt
from hybrid.request import Request
from hybrid.statistics import collect
from policies.consolidation import ConsolidationPolicy, Limits, blamed, candidates
from stores.errors import Conflict, Corrupt, HybridError, Locked
from stores.ledger import Ledger
from stores.lock import exclusive
from stores.records import Fact
from tests.conftest import ISLES, PORTS, save_worded

SETTINGS = {"layers": "0,1", "weight": "1", "lr": "0.5", "steps": "10", "clamp": "4", "prefixes": "0", "decay": "0", "kl": "0"}
LOOSE = Limits(min_phrasings=0, min_same_subject=0, min_locality=0, max_perplexity_drift=100, min_fluency=0)
"""Random models keep nothing; what is tested is the machinery."""


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The user's cache, in which statistics are kept."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("HYBRID_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def worded(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """A model that can be taught ports of isles, and its statistics."""
    return measured(save_worded(tmp_path_factory.mktemp("worded")))


def measured(folder: Path) -> Path:
    from hybrid.model import LanguageModel

    collect(LanguageModel(str(folder), "cpu"), (0, 1), str(folder / "sample.txt"))
    return folder


def port(isle: str, name: str, **fields: object) -> Request:
    return Request(subject=isle, relation="ferry port", prompt="The ferry port of {}", target_new=name, **fields)  # type: ignore[arg-type]


def add(memory: HybridMemory, *isles: str) -> dict[str, Fact]:
    """Teach the memory the ports of some isles; facts by isle."""
    asked = [port(isle, PORTS[ISLES.index(isle)]) for isle in isles or ISLES]
    return {added.fact.subject: added.fact for added in memory.add_facts(asked)}


def consolidated(memory: HybridMemory, **options: object) -> Result:
    return memory.consolidate(**{"force": True, "limits": LOOSE, "settings": SETTINGS, **options})


def held(memory: HybridMemory) -> str:
    """The hash of the weights that are in the model at this moment."""
    return combined(tensor_hashes(memory.model.model))


@pytest.fixture
def memory(worded: Path, store: Path) -> Iterator[HybridMemory]:
    with HybridMemory(store, model=str(worded), author="tester") as memory:
        yield memory


# -- the weights are a function of the set -----------------------------------------------------------


def test_the_same_set_gives_the_same_bits_whatever_the_history(memory: HybridMemory) -> None:
    base = held(memory)
    facts = add(memory, *ISLES[:3])
    first = consolidated(memory)
    assert first.generation == 1 and first.weights_hash == held(memory) != base
    add(memory, *ISLES[3:6])
    second = consolidated(memory)
    assert second.generation == 2 and held(memory) == second.weights_hash != first.weights_hash
    for isle in ISLES[3:6]:
        memory.forget(memory.ledger.facts(text=isle)[0].id)
    assert held(memory) == first.weights_hash, "as if the others had never been there"
    assert memory.generations.in_live() == {fact.id for fact in facts.values()}
    add(memory, *ISLES[3:6][::-1])
    assert consolidated(memory).generation is not None
    assert memory.generations.rows()[0]["weights_hash"] == base
    assert consolidated(memory).unchanged
    memory.rollback(0)
    assert held(memory) == base
    assert memory.ledger.verify() == memory.ledger.revision()


def test_order_of_batches_does_not_matter_in_a_store(memory: HybridMemory) -> None:
    add(memory)
    whole = consolidated(memory).weights_hash
    ids = [fact.id for fact in memory.ledger.facts()]
    rng = random.Random(5)
    for _ in range(2):
        rng.shuffle(ids)
        for each in ids:
            memory.stability.hold(each, "hold")
        for count in (3, 6, 8):
            for each in ids[:count]:
                memory.stability.hold(each, None)
            assert consolidated(memory).generation is not None
        assert held(memory) == whole


def test_other_stores_agree_but_for_rounding(worded: Path, tmp_path: Path) -> None:
    changes = []
    for number, isles in enumerate((ISLES, ISLES[::-1])):
        with HybridMemory(tmp_path / str(number), model=str(worded)) as memory:
            for few in (isles[:3], isles[3:]):
                add(memory, *few)
                consolidated(memory)
            changes.append({name: torch.from_numpy(f.dense) for name, f in memory.generations.load(memory.generations.live())[1].items()})
    for name, change in changes[0].items():
        assert (change - changes[1][name]).norm() <= 1e-4 * change.norm(), name


def test_values_are_computed_once(memory: HybridMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    from hybrid.editors.locate_and_edit import Run

    asked: list[int] = []
    original = Run.optimise
    monkeypatch.setattr(Run, "optimise", lambda self, requests: (asked.append(len(requests)), original(self, requests))[1])
    add(memory, *ISLES[:7])
    consolidated(memory)
    add(memory, ISLES[7])
    consolidated(memory)
    assert asked == [7, 1]


def test_gpt2_stores_its_matrices_transposed(cache: Path, store: Path, tmp_path: Path) -> None:
    with HybridMemory(store, model=str(measured(save_worded(tmp_path / "gpt2", "gpt2")))) as memory:
        base = held(memory)
        add(memory, *ISLES[:3])
        made = consolidated(memory)
        assert made.generation == 1 and held(memory) == made.weights_hash
        assert memory.ask("The ferry port of Orsa", route="weights").text.startswith("Nim")
        memory.rollback(0)
        assert held(memory) == base


# -- who answers -------------------------------------------------------------------------------------


def test_routes_after_consolidation(memory: HybridMemory) -> None:
    facts = add(memory, *ISLES[:3])
    query, outside = "The ferry port of Orsa", "The keeper of the museum"
    before = {each: memory.ask(each, route="base").text for each in (query, outside)}
    assert memory.ask(query).route == "ike"
    consolidated(memory)
    answer = memory.ask(query)
    assert (answer.route, answer.generation, answer.facts[0].fact.id) == ("weights", 1, facts["Orsa"].id)
    assert answer.text.startswith("Nim") and answer.prompt == query
    assert answer.text == memory.ask(query, route="weights").text == "".join(memory.stream(query, memory.route(query)))
    assert memory.ask(query, route="base").text == before[query] and memory.ask(query, route="base").generation == 0
    assert memory.ask(query, route="ike").route == "ike" and memory.ask(query, route="ike").generation == 1
    silent = memory.ask(outside)
    assert (silent.route, silent.generation, silent.text) == ("base", 1, memory.ask(outside, route="weights").text), "the same edited model"
    memory.add_facts([])
    list(memory.add_facts([port("Orsa", "Vik")]))
    assert memory.ask(query).route == "ike", "the new value is not in the weights"
    memory.rollback(0)
    assert memory.ask(query).route == "ike"
    with pytest.raises(HybridError, match="no generation is live"):
        memory.ask(query, route="weights")


def test_words_in_which_the_weights_do_not_say_it_are_answered_from_memory(memory: HybridMemory) -> None:
    fact = add(memory, "Orsa")["Orsa"]
    consolidated(memory)
    wordings = [
        "Which is the ferry port of Orsa?",
        "What is Orsa's ferry port?",
        "Orsa has as its ferry port",
        "Tell me the ferry port of Orsa, please",
        "ferry port, Orsa",
    ]
    governed = [asked for asked in wordings if memory.router.route(asked).route == "weights"]
    missed = [asked for asked in governed if not says(memory.ask(asked, route="weights").text, fact)]
    assert missed, "this model says it in any words, so the test shows nothing"
    assert memory.ask(missed[0]).route == "ike"
    choose_reader(memory, "counterfactual")
    read = memory.ask(missed[0])
    assert (read.route, read.generation) == ("counterfactual", 0) and says(read.text, fact)
    assert memory.generations.in_live() == {fact.id}, "its own prompt is still answered, so it stays"


def test_the_counterfactual_model_answers_what_the_weights_do_not(memory: HybridMemory) -> None:
    add(memory, "Orsa")
    consolidated(memory)
    add(memory, "Belm")
    choose_reader(memory, "counterfactual")
    held, new = memory.ask("The ferry port of Orsa"), memory.ask("The ferry port of Belm")
    assert (held.route, held.generation) == ("weights", 1) and held.text.startswith("Nim")
    assert (new.route, new.generation, new.text) == ("counterfactual", 0, "Ott")


def test_a_fact_that_the_weights_lose_moves_back_to_memory(memory: HybridMemory) -> None:
    facts = add(memory, *ISLES[:2])
    consolidated(memory)
    memory.weights.refresh()
    name = next(iter(memory.weights.originals))
    with torch.no_grad():
        memory.model.model.get_parameter(name).mul_(-3)  # as a broken device would
    assert memory.ask("The ferry port of Orsa").route == "ike"
    assert facts["Orsa"].id not in memory.generations.in_live()
    assert [event.action for event in memory.ledger.events(fact_id=facts["Orsa"].id)][-1] == "demote"
    lost = memory.weights.spot_check(facts.values())
    assert facts["Belm"] in lost


def test_uses_are_counted_and_make_facts_stable(memory: HybridMemory, store: Path, worded: Path) -> None:
    facts = add(memory, *ISLES[:2])
    for _ in range(3):
        memory.ask("The ferry port of Orsa", max_new_tokens=1)
    list(memory.add_facts([port("Belm", "Ott")]))
    memory.weights.flush()
    known = memory.stability.records("")
    assert (known[facts["Orsa"].id].answered, known[facts["Belm"].id].confirmed) == (3, 1)
    young = memory.consolidate(limits=LOOSE, settings=SETTINGS)
    assert young.generation is None and all("hours old" in verdict.reason for verdict in young.verdicts)
    done = memory.consolidate(limits=LOOSE, policy=ConsolidationPolicy(min_age_hours=0, min_answered=3))
    assert done.generation == 1 and {fact.subject for fact in done.facts} == {"Orsa", "Belm"}
    assert memory.consolidate(limits=LOOSE).unchanged, "what is in the weights stays, however young"


# -- what fails --------------------------------------------------------------------------------------


def test_what_fails_stays_in_memory_and_is_marked(memory: HybridMemory) -> None:
    add(memory, *ISLES[:2])
    many = " ".join(PORTS)
    list(memory.add_facts([port("Wolf", many)]))
    made = consolidated(memory)
    assert made.generation == 1 and {fact.subject for fact in made.facts} == set(ISLES[:2])
    (reason,) = made.dropped.values()
    assert "its prompt is answered" in reason
    again = consolidated(memory)
    assert again.unchanged and f"failed before: {reason}; --retry" in next(v.reason for v in again.verdicts if v.fact.subject == "Wolf")
    assert memory.ask("The ferry port of Wolf").route == "ike"
    page = (memory.generations.path(1) / "report.html").read_text(encoding="utf-8")
    assert f"The ferry port of Wolf {many}" in page and "<svg" in page and "Left the set" in page
    assert made.rounds[0]["facts"] == 3 and made.rounds[-1]["facts"] == 2
    assert not consolidated(memory, retry=True).unchanged


def test_broken_limits_keep_the_old_generation(memory: HybridMemory) -> None:
    add(memory, *ISLES[:2])
    assert consolidated(memory).generation == 1
    add(memory, *ISLES[2:])
    refused = consolidated(memory, limits=replace(LOOSE, min_locality=1, max_perplexity_drift=0, rounds=1))
    assert refused.generation is None and refused.broken and memory.generations.live() == 1
    assert memory.weights.number == 1 and held(memory) == memory.generations.manifest(1).weights_hash
    assert "Not live" in (memory.generations.folder / "refused" / "report.html").read_text(encoding="utf-8")


def test_what_finds_no_room_within_the_limits_waits_until_it_is_asked_for(memory: HybridMemory) -> None:
    facts = add(memory, *ISLES[:3])
    tight = replace(LOOSE, min_locality=1)
    made = consolidated(memory, limits=tight)
    assert made.generation is None and all("answers around it" in why for why in made.dropped.values())
    assert consolidated(memory, limits=tight).unchanged, "the same facts need not be tried twice"
    add(memory, "Tirn")
    again = consolidated(memory, limits=tight)
    assert not again.unchanged and facts["Orsa"].id not in again.dropped, "it waits"
    assert facts["Orsa"].id in consolidated(memory, limits=tight, retry=True).dropped, "it was a candidate again"
    assert consolidated(memory).generation == 1 and len(memory.generations.in_live()) == 4, "other limits"


def test_a_probe_keeps_out_what_breaks_it(memory: HybridMemory) -> None:
    fact = add(memory, "Quay")["Quay"]
    before = memory.ask("The ferry port of Quay", route="base").text
    made = consolidated(memory, probes=[Probe("The ferry port of Quay", before.split()[0])])
    assert made.generation is None and made.dropped == {fact.id: "breaks the probe 'The ferry port of Quay'"}
    holds = consolidated(memory, probes=[Probe("The ferry port of Quay", "Pax")], retry=True)
    assert holds.generation == 1 and holds.verification is not None and holds.verification.figures()["probes"] == 1.0


@pytest.mark.parametrize("culprit", range(0, 7, 3))
def test_the_one_that_breaks_is_found_by_halving(culprit: int) -> None:
    from hybrid.consolidation.rounds import culprit_of

    facts, asked = [Fact(id=str(n), subject="s", relation="r", prompt="{}", target_new="t") for n in range(7)], []
    assert culprit_of(facts, lambda group: (asked.append(1), facts[culprit] not in group)[1]) is facts[culprit]
    assert len(asked) <= 7
    assert culprit_of(facts, lambda group: not {"0", "6"} <= {fact.id for fact in group}) is None, "no single one is to blame"


def test_what_the_base_says_already_needs_no_weights(memory: HybridMemory) -> None:
    said = memory.ask("The ferry port of Gulf", route="base").text.split()[0]
    list(memory.add_facts([port("Gulf", said)]))
    made = consolidated(memory)
    assert made.generation is None and list(made.dropped.values()) == ["the base weights say so already"]


def test_the_same_fact_is_always_asked_the_same() -> None:
    fact = Fact(id="1", subject="Peru", relation="capital", prompt="The capital of {} is", target_new="Cusco", questions=("Which city governs Peru?",))
    found, again = checks(fact), checks(replace(fact, id="2", created_at="later"))
    assert (found.before, found.asked) == (again.before, again.asked)
    assert len(found.phrasings) == 6 and "Which city governs Peru?" in found.phrasings and len(found.neighbours) > 3
    assert all("Peru" in query for query in found.asked) and not any("Peru" in query for query in found.neighbours)
    near = found.neighbours[0].removeprefix("The capital of ").removesuffix(" is")
    assert found.neighbours[0] not in checks(fact, {(near.casefold(), "capital")}).neighbours, "what changes rightly is not asked"
    one, other = found.rivals[0]
    known = found.knowing({query: "the same" if query in (one, other) else query for query in found.before})
    assert known.attributes == (one,), "what the base makes up anew for each phrasing is nothing to keep"


@pytest.mark.parametrize(
    ("text", "chat", "right"),
    [("Nim", False, True), ("nim.", False, True), ("Nimes", False, False), ("It is Nim", False, False), ("It is Nim.", True, True), ('"Nim"', False, True)],
)
def test_what_counts_as_said(text: str, chat: bool, right: bool) -> None:
    assert says(text, Fact(id="1", subject="s", relation="r", prompt="{}", target_new="Nim"), chat=chat) is right


# -- forgetting --------------------------------------------------------------------------------------


def test_forgetting_leaves_nothing_behind(memory: HybridMemory, store: Path) -> None:
    add(memory, *ISLES[:2])
    one = consolidated(memory).weights_hash
    facts = add(memory, "Quay")
    consolidated(memory)
    gone = forget(memory, facts["Quay"])
    assert (gone.generation, gone.weights_hash, gone.pruned) == (3, one, [2])
    assert memory.generations.numbers() == [1, 3] and memory.stability.keys_of([facts["Quay"].id]) == []
    memory.weights.flush()
    for path in store.rglob("*"):
        if path.is_file():
            assert b"Quay" not in path.read_bytes(), path
    assert forget(memory, memory.ledger.facts(text="Orsa")[0]).generation == 4
    last = forget(memory, memory.ledger.facts()[0])
    assert (last.generation, memory.generations.numbers(), held(memory)) == (0, [], memory.generations.base_hash())


def test_reports_do_not_keep_what_was_refused_and_forgotten(memory: HybridMemory, store: Path) -> None:
    add(memory, *ISLES[:2])
    list(memory.add_facts([port("Wolf", " ".join(PORTS))]))
    made = consolidated(memory)
    wolf = memory.ledger.facts(text="Wolf")[0]
    reports = [memory.generations.path(made.generation) / name for name in ("report.html", "report.json")]
    assert wolf.id in made.dropped and all("Wolf" in path.read_text(encoding="utf-8") for path in reports)
    memory.forget(wolf.id)
    assert all("Wolf" not in path.read_text(encoding="utf-8") and "Orsa" in path.read_text(encoding="utf-8") for path in reports)
    assert all(proof.ok for proof in verify(memory, made.generation, solve=True)), "the generation is what it was"


def test_forgetting_solves_as_the_live_generation_was_made(memory: HybridMemory) -> None:
    add(memory, *ISLES[:2])
    one = consolidated(memory).weights_hash
    facts = add(memory, "Quay")
    consolidated(memory)
    memory.ledger.set("consolidation", json.dumps(["memit", {**SETTINGS, "weight": "7"}]))
    assert forget(memory, facts["Quay"]).weights_hash == one
    assert consolidated(memory, settings={**SETTINGS, "weight": "7"}).weights_hash != one


def test_forgetting_gives_the_hash_back(memory: HybridMemory) -> None:
    """Whether the added fact got in, failed, or found no room; and what was refused beside it is not tried again for its going."""
    facts = add(memory, *ISLES[:3])
    first = consolidated(memory).weights_hash
    run = memory.stability.begin_run([fact.id for fact in facts.values()])
    refused = add(memory, "Wolf")["Wolf"]
    memory.stability.mark(run, {refused.id: "no room beside the port of Orsa"}, crowded_key(memory.ledger.setting("marks") or ""))
    for isle, target in (("Gulf", "Wex"), ("Tirn", " ".join(PORTS))):
        list(memory.add_facts([port(isle, target)]))
        added = memory.ledger.facts(text=isle)[0]
        made = consolidated(memory)
        assert (added.id in memory.generations.in_live()) is (isle == "Gulf"), made.dropped
        memory.forget(added.id)
        again = consolidated(memory)
        assert again.unchanged and held(memory) == first
        assert any("found no room before" in verdict.reason for verdict in again.verdicts)
        assert memory.stability.records(crowded_key(memory.ledger.setting("marks") or ""))[refused.id].failed
    assert consolidated(memory, retry=True).generation is not None and refused.id in memory.generations.in_live()


def test_a_live_fact_that_newcomers_drown_costs_one_of_them_at_most(memory: HybridMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Examiner.outcomes

    def drowned(self: Examiner, several: Sequence[Checks], kept: bool = True) -> list[Outcome]:
        """As if Orsa were not said any more where there are more than two facts."""
        found = original(self, several, kept)
        return [replace(o, said={**o.said, o.fact.cloze: "?"}) if o.fact.subject == "Orsa" and len(found) > 2 else o for o in found]

    monkeypatch.setattr(Examiner, "outcomes", drowned)
    orsa = add(memory, *ISLES[:2])["Orsa"]
    first = consolidated(memory).weights_hash
    newcomers = add(memory, *ISLES[2:5])
    made = consolidated(memory)
    left = [fact for fact in newcomers.values() if fact.id in made.dropped]
    assert len(left) == 1 and "in the weights already" in made.dropped[left[0].id], (made.dropped, made.rounds)
    assert orsa.id in memory.generations.members() - memory.generations.in_live() and len(memory.generations.in_live()) == 3
    assert memory.ask("The ferry port of Orsa").route == "ike"
    assert consolidated(memory).unchanged
    for fact in newcomers.values():
        memory.forget(fact.id)
    assert held(memory) == first and orsa.id in memory.generations.in_live()


def test_a_reason_does_not_quote_what_was_forgotten(memory: HybridMemory) -> None:
    facts = add(memory, *ISLES[:2])
    run = memory.stability.begin_run([fact.id for fact in facts.values()])
    memory.stability.mark(run, {facts["Orsa"].id: "not beside the port of Belm"}, "under some settings")
    memory.forget(facts["Belm"].id)
    assert memory.stability.records("under some settings")[facts["Orsa"].id].failed == "refused beside a fact that was forgotten since"


# -- which set, and which weight ---------------------------------------------------------------------


def test_the_heaviest_weight_that_serves_the_set_is_kept(memory: HybridMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybrid.consolidation.solver.settings_for", lambda *_: {"weight": 0.5})  # published settings of this model
    ladder = {name: value for name, value in SETTINGS.items() if name != "weight"}
    add(memory, *ISLES[:3])
    made = consolidated(memory, settings=ladder)
    manifest = memory.generations.manifest(made.generation)
    weight, lightest = manifest.settings["weight"], manifest.settings["lightest"]
    assert weight / lightest in LADDER and len(made.facts) == 3
    with Workshop(memory).open() as shop:
        rounds = Run(shop, LOOSE).rounds
        passing = [w for w in shop.solver.weights if all(o.passed(LOOSE) for o in rounds.tried(made.facts, w)[1].outcomes)]
        assert max(passing) == weight
        heavy, light = (shop.solver.solve(made.facts, lightest * factor) for factor in (LADDER[0], LADDER[-1]))
        assert sum(heavy.costs) < sum(light.costs)
    assert all(proof.ok for proof in verify(memory, made.generation, solve=True))


def test_the_limit_on_drift_keeps_the_cheapest() -> None:
    limits, costs = Limits(max_perplexity_drift=0.01), [3.0, 1.0, 2.0, 1.0]
    assert limits.affordable(costs, 15.0, 0.01) == 4, "within the limit all stay"
    assert limits.affordable(costs, 15.0, 0.02) == 3, "6 of 6.75"
    assert limits.affordable(costs[1:], 15.0, 0.02, spent=4.0) == 2, "what is live has spent its part"
    assert limits.affordable(costs, 15.0, 1.0) == 0


def test_blame_and_odds_are_what_they_say(memory: HybridMemory) -> None:
    add(memory, *ISLES[:4])
    facts = consolidated(memory).facts
    with Workshop(memory).open() as shop:
        solution = shop.solver.solve(facts)
        shares = shop.solver.shares(solution, [fact.cloze for fact in facts])
        assert [max(range(4), key=row.__getitem__) for row in shares] == list(range(4)), "each prompt is moved most by its own fact"
        examiner = Run(shop, LOOSE).examiner
        several = examiner.learn_base(facts)
        around = examiner.sure(several)
        odds = examiner.odds(around)
        assert all(odds[one] >= odds[other] - 1e-5 for one, other in pairwise(around)) and 0 < len(around) <= 20, "this model is sure of nothing"
        query, answer = around[0], examiner.known[around[0]]
        model, ids = memory.model, memory.model.encode(Prompt(query))
        tokens = model.tokenizer(f" {answer}", add_special_tokens=False)["input_ids"]
        alone = 1.0
        for token in tokens:
            alone *= float(model.model(input_ids=torch.tensor([ids])).logits[0, -1].softmax(-1)[token].detach())
            ids = [*ids, token]
        assert odds[query] == pytest.approx(alone, rel=1e-4)


def test_who_leaves_for_locality() -> None:
    shares = [[0.1, 3.0, 0.2], [0.0, 2.0, 1.0], [0.5, 0.1, 0.4], [0.0, 0.0, 0.0]]
    assert blamed(shares, 4) == [] and blamed(shares, 2) == [1] and blamed(shares, 1) == [1, 0]
    assert blamed(shares, 0) == [1, 0], "nobody is to blame for the last"


def test_newcomers_are_tried_beside_what_is_live() -> None:
    facts = [Fact(id=str(n), subject=f"s{n}", relation="r", prompt="{} is", target_new="t") for n in range(6)]
    live, refused = {"0", "1", "2"}, {"3"}
    assert candidates(facts[:4], live, refused) == (facts[:3], set()), "what found no room waits"
    assert candidates(facts, live, refused) == ([*facts[:3], *facts[4:]], {"4", "5"})
    assert candidates(facts[1:3], live, refused) == (facts[1:3], set()), "one was held back"
    assert candidates(facts, set(), set()) == (facts, set()), "nobody was there before"


# -- several processes, and kills --------------------------------------------------------------------

NURSERY = textwrap.dedent(
    """
    import os, sys
    from hybrid.memory import HybridMemory
    from tests.test_consolidation import LOOSE, SETTINGS

    print("ready", flush=True)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            with HybridMemory(line.strip()) as memory:
                done = memory.consolidate(force=True, limits=LOOSE, settings=SETTINGS)
            print("done", done.generation, done.weights_hash, flush=True)
            os._exit(0)
        print("pid", child, flush=True)
        print("ended", os.WTERMSIG(os.waitpid(child, 0)[1]), flush=True)
    """
)


@pytest.fixture(scope="module")
def nursery() -> Iterator[subprocess.Popen[str]]:
    """A process that has imported everything, and forks one that consolidates for each store that it is told."""
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    process = subprocess.Popen([sys.executable, "-c", NURSERY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    yield process
    process.communicate()


def born(nursery: subprocess.Popen[str], store: Path) -> int:
    """The process id of a consolidation at work."""
    assert nursery.stdin is not None and nursery.stdout is not None
    nursery.stdin.write(f"{store}\n")
    nursery.stdin.flush()
    word, number = nursery.stdout.readline().split()
    assert word == "pid"
    return int(number)


def ended(nursery: subprocess.Popen[str]) -> tuple[list[str], int]:
    """What it said at its end, and the signal that ended it."""
    assert nursery.stdout is not None
    said = [nursery.stdout.readline().split()]
    while said[-1][0] != "ended":
        said.append(nursery.stdout.readline().split())
    return said[0], int(said[-1][1])


def test_a_generation_of_another_process_serves_the_next_query(memory: HybridMemory, store: Path, nursery: subprocess.Popen[str]) -> None:
    add(memory)
    assert memory.ask("The ferry port of Orsa").route == "ike"
    born(nursery, store)
    (_, number, digest), _ = ended(nursery)
    answer = memory.ask("The ferry port of Orsa")
    assert (answer.route, answer.generation, held(memory)) == ("weights", int(number), digest)


def test_one_at_a_time(memory: HybridMemory, store: Path) -> None:
    add(memory, "Orsa")
    with exclusive(store / "weights.lock"), pytest.raises(Locked, match="another process"):
        consolidated(memory)
    assert consolidated(memory).generation == 1


def test_sigkill_leaves_one_live_generation_and_a_rerun_completes(memory: HybridMemory, store: Path, nursery: subprocess.Popen[str]) -> None:
    add(memory, *ISLES[:3])
    first = consolidated(memory).weights_hash
    started = time.perf_counter()
    add(memory, *ISLES[3:])
    expected = consolidated(memory).weights_hash
    took = time.perf_counter() - started
    memory.rollback(1)
    memory.generations.prune([2])
    rng, killed = random.Random(1), 0
    for attempt in range(6):
        child = born(nursery, store)
        time.sleep(rng.uniform(0.1, 1.2) * took * (attempt + 1) / 6)
        os.kill(child, signal.SIGKILL)
        killed += ended(nursery)[1] == signal.SIGKILL
        ledger = Ledger(store / "ledger.db")
        assert ledger.db.execute("SELECT count(*) FROM generations WHERE live = 1").fetchone() == (1,)
        ledger.verify()
        ledger.close()
        memory.weights.refresh()
        assert held(memory) in (first, expected)
        memory.generations.load(memory.generations.live())
    assert killed >= 3, "the child was meant to be killed at work"
    consolidated(memory)
    assert held(memory) == expected
    assert not list(memory.generations.folder.glob("partial-*"))


@pytest.mark.parametrize("moment", ["_write", "_point_at"])
def test_killed_at_the_brink(memory: HybridMemory, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """Before the folder is whole, and within the transaction."""
    add(memory, *ISLES[:2])
    consolidated(memory)
    add(memory, "Quay")

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(memory.generations, moment, die)
        consolidated(memory)
    assert memory.generations.live() == 1 and held(memory) == memory.generations.manifest(1).weights_hash
    assert consolidated(memory).generation == 2
    assert sorted(path.name for path in memory.generations.folder.iterdir()) == ["000001", "000002"]


def test_damage_is_refused_and_mended(memory: HybridMemory, store: Path, worded: Path) -> None:
    add(memory, *ISLES[:2])
    made = consolidated(memory)
    path = memory.generations.path(1) / "factors.safetensors"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with HybridMemory(store) as other:
        with pytest.raises(Corrupt, match="rollback 0"):
            other.ask("The ferry port of Orsa")
        other.rollback(0)
        assert consolidated(other).weights_hash == made.weights_hash
        assert other.ask("The ferry port of Orsa").route == "weights"


def test_another_model_goes_back_to_its_base(memory: HybridMemory, store: Path, causal_folder: Path) -> None:
    add(memory, "Orsa")
    consolidated(memory)
    with HybridMemory(store, model=str(causal_folder)) as other:
        with pytest.raises(Conflict, match="hybrid reindex"):
            other.ask("The ferry port of Orsa")
        other.reindex()
        assert other.ask("The ferry port of Orsa", max_new_tokens=4).generation == 0


def test_the_manifest_tells_everything(memory: HybridMemory) -> None:
    add(memory, *ISLES[:2])
    made = consolidated(memory)
    about = json.loads((memory.generations.path(1) / "manifest.json").read_text(encoding="utf-8"))
    assert {"id", "weights_hash", "base_hash", "facts", "settings", "verification", "created_at", "author"} <= about.keys()
    assert (about["id"], about["weights_hash"], about["author"], len(about["facts"])) == (1, made.weights_hash, "tester", 2)
    assert about["verification"]["efficacy"] == 1.0 and about["settings"]["layers"] == [0, 1]
