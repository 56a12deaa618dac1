"""Rules with a scope: obeyed inside, to the byte as before outside; suppressed subjects; strings that are never said."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from cli import main
from hybrid import avoid
from hybrid.memory import HybridMemory
from hybrid.model import Prompt
from hybrid.topic import Topic, describe, named_apart, names, unnamed
from stores.errors import BadRequest, Corrupt, NotFound

ASKED = ("How do I make pancakes?", "How long do I boil an egg?", "Which spices go into a curry?", "What sauce goes well with salmon?")
OTHERS = ("What is the capital of Peru?", "From which country does pizza come?", "The keeper of the lighthouse wrote that", "What is the capital of Australia?")


@pytest.fixture
def memory(store: Path) -> Iterator[HybridMemory]:
    with HybridMemory(store, author="tester") as opened:
        yield opened


def test_a_topic_is_fitted_and_bounded() -> None:
    rng = np.random.default_rng(0)
    centre = rng.normal(size=32)
    inside = (centre + 0.5 * rng.normal(size=(12, 32))).astype(np.float32)
    outside = rng.normal(size=(60, 32)).astype(np.float32)
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (inside, outside)]
    topic = Topic.fit(unit[0][:6], unit[1][:30])
    new_in, new_out = ([topic.score(row[None]) for row in rows] for rows in (unit[0][6:], unit[1][30:]))
    assert min(new_in) > max(new_out)
    assert topic.score(np.vstack([unit[0][6], unit[1][30]])) == pytest.approx(new_in[0]), "the best view of a query counts"
    nearer = Topic.fit(unit[0][:6], unit[1][:30], unit[0][11:])
    assert nearer.score(unit[0][11:]) < topic.score(unit[0][11:]), "a counterexample moves the boundary"
    with pytest.raises(ValueError, match="at least one"):
        Topic.fit(unit[0][:0], unit[1])
    assert describe("Questions about  cooking") == "cooking" and describe("cooking") == "cooking"


def test_names_that_vary_are_not_what_a_topic_is_about(memory: HybridMemory) -> None:
    assert names("From which city is Chad governed?") == ["Chad"] and names("What does Cape Verde's flag show?") == ["Cape Verde"]
    assert unnamed("Is Norway's capital Oslo, or is it New Bergen?") == "Is X's capital X, or is it X?"
    mayors = [f"Who is the mayor of {city}?" for city in ("Oslo", "Lima", "Accra", "Perth", "Turin", "Quito")]
    assert named_apart(mayors) and not named_apart(ASKED) and not named_apart([f"Who is the {role} of Oslo?" for role in ("mayor", "bishop", "sheriff")])
    memory.behaviour.add_rule("the mayor of a town", kind="answer", said="Ask the town hall.", examples=mayors)
    assert {memory.ask(f"Who runs {town} as its mayor?").text for town in ("Ouagadougou", "Ulan Bator", "Saint-Denis")} == {"Ask the town hall."}
    assert not [query for query in (*OTHERS, "How old is the town of Ulan Bator?") if memory.ask(query).rules]


def test_rules_obeyed_inside_and_nothing_changes_outside(memory: HybridMemory) -> None:
    before = [memory.ask(query) for query in OTHERS]
    rule, old = memory.behaviour.add_rule("questions about cooking", kind="answer", said="See the recipes.", examples=ASKED[:3])
    assert old is None
    inside = [memory.ask(query) for query in ("How do I make apple pie?", "Give me a recipe for onion soup", ASKED[3])]
    assert {(answer.text, answer.route) for answer in inside} == {("See the recipes.", "rule")}
    assert inside[0].to_dict()["rules"][0]["id"] == rule.id
    after = [memory.ask(query) for query in OTHERS]
    assert [(a.text, a.route, a.rules, a.prompt) for a in after] == [(a.text, a.route, (), a.prompt) for a in before]
    assert memory.ask(ASKED[0], route="base").text != "See the recipes.", "a forced route is not ruled"
    again, none = memory.behaviour.add_rule("questions about cooking", kind="answer", said="See the recipes.", examples=ASKED[:3])
    assert (again.id, none) == (rule.id, None)
    newer, older = memory.behaviour.add_rule("Questions about cooking", kind="refuse", examples=ASKED[:3])
    assert older is not None and older.id == rule.id and memory.ask(ASKED[3]).text == newer.said == "I cannot answer that."
    memory.ledger.verify()
    assert memory.behaviour.table.forget(newer.id[-8:]) == newer.id
    assert memory.ask(ASKED[3]).route == "base" and memory.behaviour.table.rules() == []
    assert [each.topic for each in memory.behaviour.table.rules(None)] == ["", ""], "the superseded rule is erased, too"
    memory.ledger.verify()
    assert not any(b"recipes" in file.read_bytes() for file in memory.folder.glob("ledger.db*"))


def test_a_suppressed_subject_is_not_stated(memory: HybridMemory) -> None:
    queries = (
        "What is the capital of France?",
        "Which language do people speak in france?",
        "What is the capital of Austria?",
        "What is the capital of Hungary?",
    )
    before = [memory.ask(query).text for query in queries]
    named = next(query for query in ("Paris is the capital of", "Which country has Paris as its capital?", "Sydney is a city in") if memory.ask(query).text)
    answer = memory.ask(named).text
    memory.behaviour.suppress("France", said="No information.")
    memory.behaviour.suppress(answer, said="Not this either.")
    assert [memory.ask(query).text for query in queries] == ["No information.", "No information.", *before[2:]]
    assert memory.ask(named).text == "Not this either.", "an answer that would name the subject is withheld"
    memory.add_fact("France capital", "Lyon")
    assert memory.ask(queries[0]).text == "No information.", "facts about a suppressed subject are not stated either"


def test_never_said(memory: HybridMemory) -> None:
    query, other = "What is the capital of Australia?", "What is the capital of Peru?"
    before, unchanged = memory.ask(query).text, memory.ask(other).text
    assert before == "Sydney"
    memory.behaviour.add_rule("", kind="never", phrases=["sydney"])
    said = memory.ask(query)
    assert said.text and "ydney" not in said.text.lower() and said.route == "base"
    assert memory.ask(other).text == unchanged
    memory.add_fact("Australia capital", "Sydney")
    assert "sydney" not in memory.ask(query).text.lower(), "memory may not say it either"
    memory.behaviour.add_rule("", kind="never", phrases=list("abcdefghijklmnopqrstuvwxyz"))
    for asked in (query, other):
        bare = memory.ask(asked).text
        assert bare == "I cannot answer that." or not any("a" <= c <= "z" for c in avoid.plain(bare)), "no word is left to say"


def test_forbidden_strings_on_random_models(causal_folder: Path) -> None:
    from hybrid.model import LanguageModel

    model = LanguageModel(str(causal_folder))
    for text in ("The harbour of", "Q: Who?\nA:", "In the year"):
        free = model.complete(Prompt(text), 24)
        assert avoid.complete(model, Prompt(text), ["no such thing"], 24) == (free or None)
        piece = free.strip()[:2]
        bound = avoid.complete(model, Prompt(text), [piece, "Q"], 24)
        assert bound is None or not avoid.holds(bound, [piece, "Q"])
        contrasted = Prompt("Rule. " + text, without=text, contrast=0.5)
        assert avoid.complete(model, contrasted, ["no such thing"], 24) == (model.complete(contrasted, 24) or None)


def test_what_holds_a_forbidden_string() -> None:
    assert avoid.holds("in  SÃO\nPaulo.", ["Sao Paulo"]) and avoid.holds("Syd\u200bney", ["sydney"]) and not avoid.holds("Sidney", ["Sydney"])
    assert avoid.place("It is Sydney, yes", ["sydney"]) == 6
    assert avoid.place("It is Fydney", ["Sydney"]) is None and avoid.place("It is Fydney", ["Sydney"], near=True) == 6
    assert avoid.place("It is Canberra", ["Sydney"], near=True) is None


def test_instructions_need_a_model_that_follows_them(chat_folder: Path, store: Path, memory: HybridMemory) -> None:
    with pytest.raises(BadRequest, match="chat template"):
        memory.behaviour.add_rule("questions about cooking", kind="instruct", said="Answer with caution.")
    with HybridMemory(store.parent / "chat", model=str(chat_folder)) as chat:
        before = chat.ask("What is the capital of Peru?", max_new_tokens=8)
        chat.behaviour.add_rule("questions about cooking", kind="instruct", said="Answer\n with caution.", examples=ASKED)
        heard: list[Prompt] = []
        stream = chat.model.stream
        chat.model.stream = lambda prompt, count: (heard.append(prompt), stream(prompt, count))[1]  # type: ignore[method-assign, assignment, func-returns-value]
        assert chat.ask("How do I make apple pie?", max_new_tokens=8).route == "rule"
        assert heard[0].text == "Rule for your answer: Answer with caution.\n\nHow do I make apple pie?" and heard[0].chat
        after = chat.ask("What is the capital of Peru?", max_new_tokens=8)
        assert (after.text, after.route, heard[1].text) == (before.text, "base", "What is the capital of Peru?")


def test_bad_rules_are_refused(memory: HybridMemory) -> None:
    for fields, message in (
        ({"topic": "", "kind": "answer", "said": "x"}, "scope"),
        ({"topic": "cooking", "kind": "answer"}, "needs a text"),
        ({"topic": "", "kind": "never", "phrases": ["  "]}, "never to be said"),
        ({"topic": "", "kind": "never", "phrases": ["x"], "counterexamples": ["y"]}, "bound a scope"),
    ):
        with pytest.raises(BadRequest, match=message):
            memory.behaviour.add_rule(**fields)  # type: ignore[arg-type]
    with pytest.raises(NotFound, match="rules list"):
        memory.behaviour.table.get("01NOSUCH")


def test_an_altered_rule_is_noticed(memory: HybridMemory) -> None:
    rule, _ = memory.behaviour.add_rule("", kind="never", phrases=["Sydney"])
    with memory.ledger.transaction():
        memory.ledger.db.execute("UPDATE rules SET phrases = '[\"Perth\"]' WHERE id = ?", [rule.id])
    with pytest.raises(Corrupt, match=rule.id):
        memory.ledger.verify()


def run(*words: str, store: Path) -> Result:
    return CliRunner().invoke(main, [*words, "--store", str(store)])


def test_rules_from_the_shell(store: Path, tmp_path: Path) -> None:
    file = tmp_path / "asked.txt"
    file.write_text("\n".join(ASKED), encoding="utf-8")
    made = run("add-rule", "questions about cooking", "--refuse", "--say", "Ask the cook.", "--examples", str(file), "--json", store=store)
    rule = json.loads(made.stdout)
    assert rule["examples"] == list(ASKED) and rule["superseded"] is None
    assert "never state 'Falcon'" in run("add-rule", "--never", "Falcon", store=store).stdout
    assert "suppressed" in run("suppress", "Marie Curie", "--alias", "Curie", store=store).stdout
    assert len(run("rules", "list", store=store).stdout.splitlines()) == 3
    tested = [json.loads(line) for line in run("rules", "test", "How do I make apple pie?", "--json", store=store).stdout.splitlines()]
    assert [each["governs"] for each in tested] == [True, True, False]
    assert json.loads(run("ask", "What did Curie discover?", "--json", store=store).stdout)["route"] == "rule"
    assert "cooking" in run("rules", "show", rule["id"], store=store).stdout
    assert run("rules", "forget", rule["id"], "--yes", store=store).exit_code == 0
    assert run("rules", "forget", rule["id"], "--yes", store=store).exit_code == 3
    assert run("add-rule", "cooking", store=store).exit_code == 2
    assert run("add-rule", "cooking", "--refuse", "--answer", "x", store=store).exit_code == 2
    assert run("add-rule", "cooking", "--answer", "x", "--say", "y", store=store).exit_code == 2
    assert run("log", "--verify", store=store).exit_code == 0
