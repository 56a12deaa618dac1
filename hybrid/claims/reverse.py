"""Claims that turn a fact round: "Does Jonas report to Ada?", where Ada reports to Jonas. A small network hardly tells them; the order of the words does.

Of 12,666 claims written one by one (`hybrid.claims.pairs`) 20 are taken for reverses, and all of these are refuted.
"""

from __future__ import annotations

import re

from hybrid.lexicon import fill, find
from hybrid.scope.names import span
from hybrid.scope.turned import turned
from stores.records import Fact

SUBJECT, TARGET = "it", "thatone"
"""Stand for the fact's subject and value; `turned` expects the one."""
DOES = re.compile(rf"(?i)^(?P<aux>does|do|did) {TARGET} (?P<verb>[\w'’-]+)(?P<rest>.*\b{SUBJECT})\W*$")
"""The value does something to the subject: a question with an auxiliary."""
ACTS = re.compile(rf"(?i)^(?:(?P<aux>is|are|was|were|has|had) )?{TARGET} (?P<rest>.*\b{SUBJECT})\W*$")
"""The same as a sentence, or asked with the verb itself."""
ROLE = re.compile(rf"(?i)^(?:(?:is|was) {SUBJECT}|{SUBJECT} (?:is|was)) (?P<role>(?:the |an? )?[\w'’ -]+? (?:of|to|for)) {TARGET}\W*$")
"""The subject is something of the value."""


def reverse(claim: str, fact: Fact) -> bool:
    """Whether a claim says of the fact's value and subject what the fact says of subject and value."""
    name = next((name for name in (fact.subject, *fact.aliases) if span(name, claim) is not None), None)
    there = None if name is None else _put(claim, name, SUBJECT)
    said = None if there is None else _put(there, fact.target_new, TARGET)
    if said is None:
        return False
    relation = find(fact.relation)
    return any(turned(question, fill(fact.prompt, SUBJECT), None if relation is None else relation.id) for question in _questions(said))


def _put(text: str, name: str, pronoun: str) -> str | None:
    where = span(name, text)
    return None if where is None else text[: where[0]] + pronoun + text[where[1] :]


def _questions(said: str) -> list[str]:
    """What the claim would be as a question for its other end."""
    if found := DOES.match(said):
        verb = found["verb"]
        acts = [f"{verb}ed", f"{verb.rstrip('e')}ed"] if found["aux"].casefold() == "did" else [f"{verb}s", f"{verb}es"]
        return [f"who {act}{found['rest']}" for act in acts]
    if found := ROLE.match(said):
        return [f"who is {SUBJECT} {found['role']}"]
    found = ACTS.match(said)
    return [] if found is None else [f"who {found['aux'] or ''} {found['rest']}".replace("  ", " ").lower()]
