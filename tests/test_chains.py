"""Questions over several facts: which words speak for which relation, which path explains a question, and what the memory makes of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hybrid.chains.asks import agrees
from hybrid.chains.paths import joints, names, outside, question
from hybrid.chains.wording import by_word, content, joined, stem
from hybrid.memory import HybridMemory
from policies.chains import ChainPolicy, Word, explain

FACTS = [
    ("{} is a citizen of", "Ana Lund", "Norvania"),
    ("The author of {} is", "Salt and Ember", "Ana Lund"),
    ("{} was founded in the country of", "Tarn Motors", "Belvoria"),
    ("The capital of {} is", "Belvoria", "Quill"),
    ("The capital of {} is", "Norvania", "Ostmark"),
    ("The head of state of {} is", "Norvania", "Kim Moe"),
    ("{} is married to", "Kim Moe", "Ola Berg"),
    ("{}'s child is", "Kim Moe", "Ida Moe"),
    ("{}'s child is", "Ola Berg", "Per Berg"),
    ("{} is married to", "Ida Moe", "Jon Dahl"),
    ("The mayor of {} is", "Ostmark", "Eva Holt"),
    ("{} has its head office in", "Fjord Optics", "Quill"),
]


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HybridMemory]:
    from tests.conftest import save_causal

    folder = tmp_path_factory.mktemp("chains")
    with HybridMemory(folder / "store", model=str(save_causal(folder / "model", "llama")), author="t") as made:
        for prompt, subject, target in FACTS:
            made.add_fact(prompt, target, subject=subject)
        yield made


def test_words_of_one_family_have_one_stem() -> None:
    assert stem("founded") == stem("founder") == stem("founding")
    assert stem("citizenship") == stem("citizen")
    assert stem("the") == "" and content("Who is the mayor of it?") == [stem("mayor")]
    assert set(by_word()[stem("currency")]) == {"P38"}
    assert (*content("head of state"),) in joined(content("the head of state and the chief executive officer"))


def test_names_and_sentences() -> None:
    assert "Dr. Who?" in names("Who wrote Dr. Who?") and "Who" not in names("Who wrote it?")
    assert "Help!" in names('Who sang "Help!", the song?')
    assert "J. R. Stone" in names("Where was J. R. Stone's mother born?")
    assert question("Ana wrote it. Where was J. R. Stone born?") == "Where was J. R. Stone born?"
    assert question("Who leads Ha Ha! Radio?") == "Radio?" and question("Who leads Ha! today?") == "Who leads Ha! today?"
    wife, knight = "Who is the wife of the man that Ana's father met?", "In what language was The Knight in the Panther's Skin written?"
    assert joints(wife, (wife.index("Ana"), wife.index("'s"))) == 3
    assert joints(knight, (21, 53)) == 0, "a name is no joint"
    assert joints("At which station does the Tide line end?", (26, 35)) == 0, "nor is what a question begins with"
    words = outside("Who is the mayor of Ostmark Bay City?", (20, 27))
    assert [word.stem for word in words] == [stem("mayor")], "capitals beside a name belong to it"


def test_the_last_hop_must_fit_the_question_word() -> None:
    assert agrees("Who runs it?", "person") and not agrees("Who runs it?", "city")
    assert agrees("In which city is it?", "city") and not agrees("In which city is it?", "country")
    assert agrees("When was it?", "year") and not agrees("When was it?", "person")
    assert agrees("What is the name of the university that taught her?", "organization")
    assert not agrees("What is the name of the university that taught her?", "person")
    assert agrees("What is the name of the country's capital?", "city"), "the country is not what is asked for"
    assert agrees("What is it?", "city") and agrees("The capital of it is", "person")


def test_explaining_gives_words_to_hops_and_sees_their_order() -> None:
    inner, outer = {"author": 1.0}, {"spous": 1.0, "author": 0.2}
    right = explain([Word("spous", 1.0, -2), Word("author", 0.8, -1)], [inner, outer])
    assert right.shares == (0.8, 1.0) and right.coverage == 1.0 and right.disorder == 0
    wrong = explain([Word("spous", 1.0, -1), Word("author", 0.8, -2)], [inner, outer])
    assert wrong.disorder == 1 and wrong.coverage == 1.0
    twice = explain([Word("child", 1.0, -2), Word("child", 1.0, -1)], [{"child": 1.0}, {"child": 1.0}])
    assert twice.shares == (1.0, 1.0) and twice.disorder == 0
    assert explain([], [inner]).coverage == 0


def test_a_path_is_taken_only_if_words_speak_for_it() -> None:
    policy, words = ChainPolicy(), [Word("spous", 1.0, -2), Word("author", 0.8, -1)]
    hops = [{"author": 1.0}, {"spous": 1.0}]
    assert policy.takes(words, hops, [True, True], 0.5)
    assert not policy.takes(words, hops, [True, True], 0.9), "one fact says as much"
    assert not policy.takes(words, [*hops, {"mayor": 1.0}], [True] * 3, 0.5), "nothing asks for the last hop"
    assert not policy.takes(words[:1], [{"author": 1.0}, {"spous": 1.0}], [True, True], 0.0), "a silent hop beside a single word"
    assert policy.takes(words, hops, [True, False], 0.5)
    backwards = [Word("spous", 1.0, -1), Word("author", 0.8, -2)]
    assert not policy.takes(backwards, hops, [True, False], 0.5), "the model is asked only where the order leaves no doubt"


@pytest.mark.parametrize(
    ("query", "hops"),
    [
        ("What is the capital of the country where Tarn Motors was founded?", ["Belvoria", "Quill"]),
        ("Who is the head of state of the country where the author of Salt and Ember holds citizenship?", ["Ana Lund", "Norvania", "Kim Moe"]),
        ('Who is the wife of the head of state of the nation whose citizen "Salt and Ember"\'s author is?', ["Ana Lund", "Norvania", "Kim Moe", "Ola Berg"]),
        ("Who is the spouse of Kim Moe's child?", ["Ida Moe", "Jon Dahl"]),
        ("Who is the child of Kim Moe's spouse?", ["Ola Berg", "Per Berg"]),
        ("The mayor of the capital of Norvania is", ["Ostmark", "Eva Holt"]),
        ("Tarn Motors has its seat in Quill. Who is the mayor of Norvania's capital?", ["Ostmark", "Eva Holt"]),
    ],
)
def test_chains(memory: HybridMemory, query: str, hops: list[str]) -> None:
    answer = memory.ask(query)
    assert [hop.answer for hop in answer.hops] == hops
    assert answer.text == hops[-1] and answer.route == "chain" and {hop.route for hop in answer.hops} == {"memory"}
    assert answer.facts[0].fact.target_new == hops[-1], "the fact that gives the answer comes first"
    said = answer.to_dict()
    assert [hop["answer"] for hop in said["chain"]] == hops and said["route"] == "chain"


@pytest.mark.parametrize(
    "query",
    [
        "What is the capital of Norvania?",
        "Who is the mayor of Ostmark?",
        "Who is the mayor of Norvania?",
        "Who wrote Salt and Ember?",
        "Which country is Ana Lund a citizen of?",
        "What is the capital of Peru?",
        "How deep is the sea?",
        "Who is the head of state of Norvania, whose capital is Ostmark?",
        "In which Belvorian municipality does Fjord Optics have its head office?",
    ],
)
def test_what_is_no_chain_stays_as_it_was(memory: HybridMemory, query: str) -> None:
    assert memory.route(query).route != "chain"
    assert "chain" not in memory.ask(query).to_dict()


def test_a_forced_route_is_no_chain(memory: HybridMemory) -> None:
    query = "What is the capital of the country where Tarn Motors was founded?"
    assert memory.ask(query, route="base").route == "base"
    assert memory.ask(query, route="ike").route == "ike"


def test_the_model_is_asked_for_what_memory_does_not_hold(shared_memory: HybridMemory, tmp_path: Path) -> None:
    with HybridMemory(tmp_path / "store", author="t") as memory:
        memory.add_fact("{} was founded in the country of", "Brazil", subject="Tarn Motors")
        query = "What is the capital of the country where Tarn Motors was founded?"
        answer = memory.ask(query)
        assert [(hop.route, hop.fact is None) for hop in answer.hops] == [("memory", False), ("base", True)]
        assert answer.text == memory.ask("What is the capital of Brazil?", route="base").text.rstrip(".")
        memory.add_fact("Brazil capital", "Recife")
        assert memory.ask(query).text == "Recife"


def test_facts_of_other_namespaces_are_no_hops(memory: HybridMemory) -> None:
    query = "What is the capital of the country where Tarn Motors was founded?"
    assert memory.route(query, namespaces=["elsewhere"]).route == "base"
    assert memory.route(query, namespaces=["default"]).route == "chain"


def test_chains_through_aliases(tmp_path: Path, causal_folder: Path) -> None:
    with HybridMemory(tmp_path / "store", model=str(causal_folder), author="t") as memory:
        memory.add_fact("The author of {} is", "Ana Lund", subject="Salt and Ember", aliases=("The Grey Book",))
        memory.add_fact("{} is married to", "Kim Moe", subject="Ana Lund")
        assert memory.ask("Who is the husband of the author of The Grey Book?").text == "Kim Moe"


def test_a_hop_may_lead_to_an_alias(tmp_path: Path, causal_folder: Path) -> None:
    with HybridMemory(tmp_path / "store", model=str(causal_folder), author="t") as memory:
        memory.add_fact("{} is a citizen of", "the NVR", subject="Ana Lund")
        memory.add_fact("The capital of {} is", "Ostmark", subject="Republic of Norvania", aliases=("NVR", "Norvania"))
        memory.add_fact("The capital of {} is", "Quill", subject="NVR Island")
        answer = memory.ask("What is the capital of the country of which Ana Lund is a citizen?")
        assert answer.text == "Ostmark" and [hop.answer for hop in answer.hops] == ["the NVR", "Ostmark"]
