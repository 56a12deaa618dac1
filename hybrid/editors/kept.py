"""What a model knows about a request's subject, so that an edit of one attribute can leave the others as they are."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hybrid.lexicon import fill, find, relations
from hybrid.prompts import query_text
from stores.records import Fact
from stores.values import content_key

if TYPE_CHECKING:
    from hybrid.model import LanguageModel

TRIED = 6
"""Relations of the subject among which the model may know some."""
TOKENS = 12
"""Of an answer, at most."""


def answer_key(weights_hash: str, query: str, tokens: int = TOKENS) -> str:
    """Under what the answer of the base weights to a query is kept."""
    return content_key(kind="answer", model=weights_hash, query=query, tokens=tokens)


def rivals(fact: Fact) -> list[tuple[str, str, str]]:
    """Names, questions and statements (with `{}` for the subject) of some relations that the subject may have beside the fact's, in an order by content."""
    relation = find(fact.relation)
    if relation is None:
        return []
    alike = [each for each in relations().values() if each.subject_type == relation.subject_type and each.id != relation.id]
    alike.sort(key=lambda each: hashlib.sha256(f"{fact.subject}|{relation.id}|{each.id}".encode()).digest())
    return [(each.name, each.questions[0], each.statements[0]) for each in alike[:TRIED]]


def agreed(said: Mapping[str, str], question: str, statement: str) -> str:
    """What a model knows: its answer if it gives the same to both phrasings, else nothing; what it makes up anew for each is not knowledge."""
    return said[question] if said[question].casefold() == said[statement].casefold() else ""


def known_about(model: LanguageModel, requests: Sequence[Fact], most: int) -> list[list[tuple[str, str]]]:
    """(template, answer) of each request, at most so many: both phrasings of what the model knows about its subject, with the weights as they are."""
    from hybrid.model import Prompt

    asked = [[(question, statement) for _, question, statement in rivals(request)] for request in requests]
    queries = list(dict.fromkeys(fill(form, r.subject) for r, pairs in zip(requests, asked, strict=True) for pair in pairs for form in pair))
    said = dict(zip(queries, model.complete_all([Prompt(query_text(query)) for query in queries], TOKENS), strict=True))
    found = []
    for request, pairs in zip(requests, asked, strict=True):
        answers = [(pair, agreed(said, *(fill(form, request.subject) for form in pair)).rstrip(".")) for pair in pairs]
        found.append([(form, answer) for pair, answer in answers if answer for form in pair][:most])
    return found
