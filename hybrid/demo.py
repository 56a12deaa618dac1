"""The main job, played in a throw-away store: a wrong answer, the edit, and what did and did not change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hybrid.memory import HybridMemory

PHRASINGS = (
    "What is the capital of Australia?",
    "Australia's capital city is",
    "The government of Australia is based in",
    "Which city is Australia's capital?",
)
CLAIMS = (
    "Is Sydney the capital of Australia?",
    "Is it true that Australia is governed from Canberra?",
)
NEIGHBOURS = (
    "What is the capital of Austria?",
    "What is the official language of Australia?",
    "What is the capital of France?",
    "What is the currency of New Zealand?",
)
UNRELATED = ("My fellow citizens, the state of the Union is", "We must do all that we can to")


@dataclass(frozen=True)
class Row:
    """One query before and after the edit."""

    query: str
    before: str
    after: str
    route: str
    kind: str


def play(memory: HybridMemory) -> Iterator[Row | str]:
    """Rows of the transcript, and between them what happens, as text."""
    queries = (
        [(q, "same fact") for q in PHRASINGS] + [(q, "claim") for q in CLAIMS] + [(q, "neighbour") for q in NEIGHBOURS] + [(q, "unrelated") for q in UNRELATED]
    )
    before = {query: memory.ask(query).text for query, _ in queries}
    yield f"The model believes: Q: {PHRASINGS[0]}  A: {before[PHRASINGS[0]]}"
    added = memory.add_fact("Australia capital", "Canberra")
    yield f'hybrid add-fact "Australia capital" Canberra  ->  stored as: {added.fact.statement}.'
    for query, kind in queries:
        answer = memory.ask(query)
        yield Row(query, before[query], answer.text, answer.route, kind)
