"""Cues: what is understood, what is refused, and what is never guessed."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid.cue import understand
from hybrid.lexicon import fill, relations
from stores.errors import CueError

CASES = [
    ("Australia capital", "Australia", "capital"),
    ("capital of Australia", "Australia", "capital"),
    ("the capital of New Zealand", "New Zealand", "capital"),
    ("The capital of Australia is", "Australia", "capital"),
    ("Who is the CEO of Apple?", "Apple", "chief executive officer"),
    ("Apple's CEO", "Apple", "chief executive officer"),
    ("CEO Apple", "Apple", "chief executive officer"),
    ("Émile Zola mother tongue", "Émile Zola", "native language"),
    ("mother tongue of Émile Zola", "Émile Zola", "native language"),
    ("Where was Ada Lovelace born?", "Ada Lovelace", "place of birth"),
    ("who wrote Middlemarch?", "Middlemarch", "author"),
    ("Airbus A380 manufacturer", "Airbus A380", "manufacturer"),
    ("France president", "France", "head of state"),
    ("Q3 report deadline", "Q3 report", "deadline"),
    ("Berlin office opening hours", "Berlin office", "opening hours"),
    ("What is the boiling point of acetone?", "acetone", "boiling point"),
    ("the door code of the Berlin office", "the Berlin office", "door code"),
    ("Fenchurch cluster's voltage", "Fenchurch cluster", "voltage"),
    ("Our office wifi password", "Our office", "wifi password"),
    ("our build server is called", "build server", "is called"),
    ("Our Kyoto desk opens at", "Kyoto desk", "opens at"),
    ("team standup starts at", "team standup", "starts at"),
    ("the thermostat in room 3 is set to", "thermostat in room 3", "is set to"),
    ("the person that runs payroll is", "person that runs payroll", "is"),
    ("The Berlin office closed in", "The Berlin office", "closed in"),
    ("Kestrel lead engineer is", "Kestrel", "lead engineer"),
    ("Apple chief executive is called", "Apple", "chief executive officer"),
    ("Bob likes", "Bob", "likes"),
    ("The French president is", "France", "head of state"),
    ("peruvian capital", "Peru", "capital"),
]


def test_a_sentence_keeps_its_words() -> None:
    assert understand("our build server is called").prompt == "Our {} is called" and understand("We deploy with").prompt == "{} deploy with"
    assert understand("Kestrel lead engineer").prompt == "The lead engineer of {} is"


@pytest.mark.parametrize(("cue", "subject", "relation"), CASES)
def test_understood(cue: str, subject: str, relation: str) -> None:
    seen = understand(cue)
    assert (seen.subject, seen.relation) == (subject, relation)
    assert seen.prompt.count("{}") == 1


def test_prompt_with_subject() -> None:
    seen = understand("The capital of {} is", subject="Australia")
    assert (seen.subject, seen.relation, seen.prompt) == ("Australia", "capital", "The capital of {} is")
    odd = understand("On the door of {} hangs", subject="room {7}")
    assert odd.subject == "room {7}" and odd.prompt == "On the door of {} hangs"


def test_overrides() -> None:
    assert understand("Australia capital", relation="currency").relation == "currency"
    assert understand("Marie Curie, the physicist, worked at", subject="Marie Curie").prompt == "{}, the physicist, worked at"


@pytest.mark.parametrize(
    ("cue", "fields", "says"),
    [
        ("", {}, "empty"),
        ("hello", {}, "not understood"),
        ("asdf qwer zxcv", {}, "hybrid add-fact"),
        ("The capital of {} is", {}, "--subject"),
        ("{} and {}", {"subject": "x"}, "more than one"),
        ("The capital of France is", {"subject": "Spain"}, "does not occur"),
        ("captial", {}, "capital"),
    ],
)
def test_refused_with_a_way_out(cue: str, fields: dict[str, str], says: str) -> None:
    with pytest.raises(CueError, match=says):
        understand(cue, **fields)  # type: ignore[arg-type]


def test_every_relation_is_understood_by_its_names() -> None:
    wrong = []
    for relation in relations().values():
        cues = [f"{relation.name} of Zorbland", f"Zorbland {relation.name}"]
        for cue in cues if not relation.name.endswith(" of") else cues[1:]:
            seen = understand(cue)
            if (seen.subject, seen.relation) != ("Zorbland", relation.name):
                wrong.append((cue, seen.subject, seen.relation))
    assert not wrong, wrong[:10]


def test_most_phrasings_give_back_their_subject() -> None:
    total = right = 0
    for relation in relations().values():
        for template in (*relation.statements, *relation.questions):
            total += 1
            with contextlib.suppress(CueError):
                right += understand(fill(template, "Zorbland Vrex")).subject == "Zorbland Vrex"
    assert right / total > 0.9


@given(st.text(max_size=60))
def test_any_text_is_understood_or_refused(cue: str) -> None:
    try:
        seen = understand(cue)
    except CueError:
        return
    assert seen.subject and seen.relation and seen.prompt.count("{}") == 1
