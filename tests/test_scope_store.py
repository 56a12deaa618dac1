"""The scope of one store: what its users say is kept, erased with the fact, and changes decisions after calibration."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

import cli
from hybrid.lexicon import find
from hybrid.memory import HybridMemory
from hybrid.scope import adapt, domain
from hybrid.scope.own import INSIDE, KINDS, Questioner
from policies.scope import Evidence
from stores.errors import Conflict, HybridError, NotFound
from stores.feedback import Feedback, Judgement
from stores.ledger import Ledger
from stores.records import Fact, Hit
from tests.test_ledger import add, fact

START = {
    "logit": 0.9,
    "named": 1.9,
    "variant": 1.2,
    "longer": 0.0,
    "before": 0.0,
    "shared": 4.7,
    "own": 1.8,
    "rival": -1.8,
    "known": 0.0,
    "elsewhere": -2.0,
    "excluded": -2.0,
    "contrast": 0.2,
    "judged": 0.0,
    "bias": -4.9,
}


def test_feedback_is_kept_once_and_follows_a_fact(store: Path) -> None:
    ledger = Ledger(store / "ledger.db", actor="tester")
    old = add(ledger, fact(1))
    other = add(ledger, fact(2))
    notes = Feedback(ledger)
    notes.add("where do they sit?", old.id, False)
    notes.add("where do they sit?", old.id, True)
    notes.add("where do they sit?", None, False)
    notes.add("and the other?", other.id, True)
    new = add(ledger, fact(1, id="01ARZ3NDEKTSV4RRFFQ69G0099", target_new="Newtown"))
    assert [(j.query, j.fact_id, j.fires) for j in notes.all()] == [
        ("where do they sit?", new.id, True),
        ("where do they sit?", None, False),
        ("and the other?", other.id, True),
    ]
    with pytest.raises(Conflict, match="superseded"):
        notes.add("late", old.id, True)
    with pytest.raises(ValueError, match="fact that should fire"):
        notes.add("which?", None, True)


def test_forgetting_takes_the_feedback_along_and_the_log_never_had_it(store: Path) -> None:
    ledger = Ledger(store / "ledger.db", actor="tester")
    stored = add(ledger, fact(1))
    Feedback(ledger).add("a very private question", stored.id, True)
    assert "private" not in json.dumps([event.detail for event in ledger.events()])
    ledger.forget(stored)
    assert Feedback(ledger).all() == [] and ledger.verify() > 0
    assert b"very private" not in b"".join(path.read_bytes() for path in store.glob("ledger.db*"))


# -- queries about own facts -----------------------------------------------------------------

FACTS = [
    Fact(id="1", subject="Australia", relation="capital", prompt="The capital of {} is", target_new="Canberra", aliases=("Oz",)),
    Fact(id="2", subject="Lena Böhm", relation="place of birth", prompt="{} was born in", target_new="Porto"),
    Fact(
        id="3", subject="Ward Seven", relation="night nurse", prompt="The night nurse of {} is", target_new="Ida Holm", questions=("Who watches Ward Seven?",)
    ),
]


def test_queries_of_every_kind_ask_for_no_other_stored_fact() -> None:
    drawn = [query for seed in range(20) for held in (False, True) for query in Questioner(FACTS, held_out=held, seed=seed).draw(3)]
    assert set(Counter(query.kind for query in drawn)) == set(KINDS)
    for query in drawn:
        assert (query.meant is not None) == (query.kind in INSIDE)
    both = [*FACTS, Fact(id="4", subject="Porto", relation="capital", prompt="The capital of {} is", target_new="Lima")]
    for seed in range(30):
        for query in Questioner(both, held_out=False, seed=seed).draw(4):
            if query.kind == "neighborhood":
                assert not (query.text.endswith("Porto?") and query.meant is not None)
    assert {q.text for s in range(9) for q in Questioner([FACTS[1]], held_out=False, seed=s).draw(1) if q.kind == "neighborhood"}


def test_the_halves_share_no_wording() -> None:
    relation = find("place of birth")
    assert relation is not None
    texts = {held: {q.text for s in range(60) for q in Questioner([FACTS[1]], held_out=held, seed=s).draw(1) if q.kind == "in_scope"} for held in (False, True)}
    assert len(texts[False]) > 5 and len(texts[True]) > 2 and not texts[False] & texts[True]


# -- fitting ---------------------------------------------------------------------------------


def hit(number: int, logit: float, shared: float = 1.0) -> Hit:
    one = fact(number)
    return Hit(one, 0.5, 0.0, dict.fromkeys(Evidence.__dataclass_fields__, 0.0) | {"logit": logit, "named": float(shared == 1.0), "shared": shared})


def seen(count: int = 60) -> list[adapt.Seen]:
    rng = random.Random(0)
    inside = [adapt.Seen("in_scope", fact(1).id, (hit(1, rng.gauss(2.5, 1.2)), hit(2, -4.8, 0.0))) for _ in range(count)]
    outside = [adapt.Seen("same_subject", None, (hit(1, rng.gauss(-4.5, 0.8)), hit(2, -4.8, 0.0))) for _ in range(count)]
    return [*inside, *outside]


def fires(weights: dict[str, float], one: Hit) -> bool:
    return adapt.weighed([one], weights)[0].score >= 0.5


def test_feedback_moves_the_weights_as_far_as_it_counts() -> None:
    unsure = hit(1, -1.0)
    assert fires(START, unsure)
    quiet = adapt.Seen("feedback", fact(1).id, (unsure,), Judgement("q", fact(1).id, False, "", ""))
    scores = [adapt.weighed([unsure], adapt.refit([*seen(), quiet], START, strength))[0].score for strength in (1.0, 10.0, 100.0)]
    assert scores == sorted(scores, reverse=True) and scores[-1] < 0.5
    loud = adapt.Seen("feedback", fact(1).id, (hit(1, -4.0),), Judgement("q", fact(1).id, True, "", ""))
    raised = adapt.weighed([hit(1, -4.0)], adapt.refit([*seen(), loud], START, 100.0))[0].score
    assert raised > adapt.weighed([hit(1, -4.0)], adapt.refit(seen(), START, 1.0))[0].score
    weights = adapt.refit(seen(), START, 1.0)
    assert set(weights) == {*Evidence.__dataclass_fields__, "bias"} and weights["logit"] > 0
    with pytest.raises(HybridError, match="nothing to weigh"):
        adapt.refit(seen()[:10], START, 1.0) if False else adapt.refit([one for one in seen() if one.meant is None], START, 1.0)


def test_what_counts_as_right() -> None:
    ids = [fact(1).id, fact(2).id]
    assert adapt.Seen("in_scope", ids[0], ()).right(ids) and not adapt.Seen("in_scope", ids[1], ()).right(ids)
    assert adapt.Seen("mention", None, ()).right([]) and not adapt.Seen("mention", None, ()).right(ids)
    told = [Judgement("q", ids[0], True, "", ""), Judgement("q", ids[0], False, "", ""), Judgement("q", None, False, "", "")]
    assert [adapt.Seen("feedback", j.fact_id, (), j).right(ids[:1]) for j in told] == [True, False, False]
    assert [adapt.Seen("feedback", j.fact_id, (), j).right(ids[1:]) for j in told] == [False, True, False]


# -- from the shell --------------------------------------------------------------------------


def run(store: Path, *words: str) -> object:
    done = CliRunner().invoke(cli.main, [*words, "--store", str(store), "--json"])
    assert done.exit_code == 0, done.output + done.stderr
    return json.loads(done.stdout)


def test_feedback_changes_decisions_after_calibration(store: Path) -> None:
    with HybridMemory(store) as memory:
        facts = [memory.add_fact(p, t, subject=s).fact for p, t, s in (
            ("The capital of {} is", "Canberra", "Australia"), ("The ferry port of {} is", "Brisk Haven", "Norr Island"), ("{} was born in", "Porto", "Lena Böhm"),
        )]  # fmt: skip
        scored = {query: memory.router.candidates(query)[0] for query in ("How old is Norr Island?", "Lena comes from", "The weather on Norr Island")}
        query, hits = max(scored.items(), key=lambda item: -abs(item[1][0].score - 0.3))  # the least certain that is silent
        best, before = hits[0].fact, memory.router.route(query)
        fired = best.id in {h.fact.id for h in before.governing}
        other = HybridMemory(store)  # another process that goes on asking
        assert (best.id in {h.fact.id for h in other.router.route(query).governing}) == fired
        said = run(store, "feedback", query, *(["--should-not-fire", best.id] if fired else ["--should-fire", best.id[-8:]]))
        assert said == {"query": query, "fact": best.id, "fires": not fired}
        dry = run(store, "scope", "calibrate", "--each", "2", "--dry-run")
        assert isinstance(dry, dict) and not dry["kept"]
        assert (best.id in {h.fact.id for h in memory.router.route(query).governing}) == fired
        kept = run(store, "scope", "calibrate", "--each", "2")
        assert isinstance(kept, dict) and kept["weights"] == dry["weights"]
        assert kept["before"]["feedback"] == {"total": 1, "followed": 0} and kept["after"]["feedback"] == {"total": 1, "followed": 1}
        for each in (memory, other):
            assert (best.id in {h.fact.id for h in each.router.route(query).governing}) != fired
        other.close()
        plot = store / "reliability.png"
        found = run(store, "scope", "evaluate", "--each", "1", "--plot", str(plot))
        assert isinstance(found, dict) and found["feedback"] == {"total": 1, "followed": 1} and found["weights"] == "the store's own"
        assert sum(row["total"] for row in found["kinds"].values()) >= 5 and plot.read_bytes().startswith(b"\x89PNG")
        run(store, "scope", "calibrate", "--reset")
        assert (best.id in {h.fact.id for h in memory.router.route(query).governing}) == fired
        assert memory.ledger.verify() > 0 and facts


def test_bad_requests_say_what_to_do(store: Path) -> None:
    runner = CliRunner()
    neither = runner.invoke(cli.main, ["feedback", "q", "--store", str(store)])
    assert neither.exit_code == 2 and "--should-not-fire" in neither.stderr
    unknown = runner.invoke(cli.main, ["feedback", "q", "--should-fire", "ZZZZ", "--store", str(store)])
    assert unknown.exit_code == 3 and "hybrid facts list" in unknown.stderr
    empty = runner.invoke(cli.main, ["scope", "evaluate", "--store", str(store)])
    assert empty.exit_code == 3 and "hybrid add-fact" in empty.stderr


# -- a classifier of the store's own ---------------------------------------------------------


def test_training_pairs_are_about_the_store() -> None:
    made = domain.maker(FACTS, ["It rained all day in the valley."])
    rng = random.Random(0)
    pairs = [made.draw(rng) for _ in range(600)]
    about = [pair for pair in pairs if "Australia" in pair.statement or "Lena Böhm" in pair.statement]
    assert len(about) > 60 and {pair.label for pair in about} == {True, False}
    with pytest.raises(NotFound, match="add-fact"):
        domain.maker([], [])


def test_a_trained_classifier_is_the_stores_own_until_it_is_altered(store: Path, caplog: pytest.LogCaptureFixture) -> None:
    with HybridMemory(store) as memory:
        memory.add_fact("Australia capital", "Canberra")
        shipped = adapt.classifier(memory.router.witness.scorer)
        adapt.keep(memory, START)
        assert adapt.own_weights(memory) == START | {"guessed": 0.0}, "weights from before there was some evidence are still good"
        domain.train(memory, store / "run", pairs=128, lr=1e-5)
        own = adapt.classifier(memory.router.witness.scorer)
        assert own != shipped and adapt.own_weights(memory) is None  # weights belong to the classifier that they were fitted with
        assert memory.router.route("What is the capital of Australia?").governing
        manifest = store / "scope" / "manifest.json"
        about = json.loads(manifest.read_text())
        manifest.write_text(json.dumps(about | {"files": {}}))
        memory.__dict__.pop("router")
        assert adapt.classifier(memory.router.witness.scorer) == shipped and "hybrid scope train" in caplog.text
        domain.adopt(memory, None)
        assert adapt.classifier(memory.router.witness.scorer) == shipped and memory.ledger.verify() > 0
