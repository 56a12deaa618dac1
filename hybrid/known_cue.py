"""What the lexicon makes of a cue: by its phrasings ("Who wrote Middlemarch?"), or by its names ("Australia capital")."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache

from hybrid.lexicon import SUBJECT, Relation, fill, named, relations
from hybrid.scope.adjectives import called


@dataclass(frozen=True)
class Understood:
    """A cue, understood: the prompt has one `{}` for the subject and stops where the target follows."""

    subject: str
    relation: str
    prompt: str
    questions: tuple[str, ...] = ()


ARTICLES = re.compile(r"^(the|a|an)\s+", re.IGNORECASE)
NOUN_OF = re.compile(
    r"^(?:the\s+)?(?P<rel>[a-z][\w /-]*?)\s+(?:of|for|at|in)\s+(?P<subj>.+?)(?:\s+(?:(?:is|are|was|were)(?: called| named)?|equals))?\s*:?$", re.I
)
LEAD = re.compile(r"^(who|what|which(?: \w+)?|where|when)(?:'s|\s+(?:is|are|was|were))\s+", re.I)
BE = re.compile(r"\s+(?:(?:is|are|was|were)(?: called| named)?|equals)$", re.I)
PREPOSITION = re.compile(r"\s+(?:of|for|at|in)\s+", re.I)
POSSESSIVE = re.compile(r"^(?P<subj>.+?)(?:'s|’s|s')\s+(?P<rel>.+?)(?:\s+(?:is|are|was|were)(?: called| named)?)?\s*:?$", re.I)
FUNCTION_WORDS = {"the", "a", "an", "of", "and", "is", "was", "it", "this", "that", "who", "what", "where", "when", "which", "how", "why"}


def understand_known(cue: str) -> Understood | None:
    """What the lexicon makes of a cue, if anything, by its phrasings or its names: whichever leaves less to be the subject."""
    found = [seen for seen in (_by_phrasing(cue), _by_name(cue)) if seen is not None]
    return min(found, key=lambda seen: len(seen.subject), default=None)


@lru_cache(maxsize=1)
def _phrasings() -> dict[str, list[tuple[str, str, Relation]]]:
    """(before, after, relation) of every phrasing, by the last word of the longer fixed part, for a quick look-up."""
    table: dict[str, list[tuple[str, str, Relation]]] = defaultdict(list)
    for relation in relations().values():
        for template in (*relation.statements, *relation.held_out_statements, *relation.questions, *relation.held_out_questions):
            before, _, after = template.rstrip("?").casefold().partition(SUBJECT)
            words = re.findall(r"\w+", before + " " + after)
            if len([w for w in words if w not in FUNCTION_WORDS]) >= 1 and (len(words) > 1 or len(words[0]) > 5):
                table[max(words, key=len)].append((before, after, relation))
    return table


def _by_phrasing(cue: str) -> Understood | None:
    text = cue.rstrip(" ?:").replace("’", "'")
    folded = text.casefold()
    best: tuple[int, str, Relation] | None = None
    for word in set(re.findall(r"\w+", folded)):
        for before, after, relation in _phrasings().get(word, ()):
            if folded.startswith(before) and folded.endswith(after.rstrip()) and len(folded) > len(before) + len(after):
                subject = text[len(before) : len(text) - len(after.rstrip())].strip()
                fixed = len(before) + len(after)
                if subject and could_be_subject(subject) and (best is None or fixed > best[0]):
                    best = (fixed, subject, relation)
    return of_relation(best[2], best[1]) if best else None


def could_be_subject(text: str) -> bool:
    """A name, not the rest of a sentence: no question word, no verb at its end."""
    words = text.casefold().split()
    return words[-1] not in FUNCTION_WORDS and words[0] not in {"who", "what", "where", "which", "when", "of"} and len(words) <= 10


def _by_name(cue: str) -> Understood | None:
    text = cue.rstrip(" ?:").replace("’", "'")
    bare = ARTICLES.sub("", BE.sub("", LEAD.sub("", text)))
    for split in reversed(list(PREPOSITION.finditer(bare))):  # "date of birth of Ada Lovelace": the longest name first
        relation = named().get(bare[: split.start()].casefold())
        if relation is not None and bare[split.end() :].strip():
            return of_relation(relation, bare[split.end() :].strip())
    match = POSSESSIVE.match(bare)
    relation = named().get(match["rel"].strip().casefold()) if match else None
    if match and relation is not None:
        return of_relation(relation, match["subj"].strip())
    match = NOUN_OF.match(text)
    if match and text[0].islower():
        return None  # "the door code of the Berlin office" is about a door code, not an office
    adjective, _, noun = bare.partition(" ")
    if (country := called(adjective)) is not None and (relation := named().get(noun.casefold())) is not None:
        return of_relation(relation, country)
    folded = text.casefold()
    spaces = [match.start() for match in re.finditer(" ", folded)]
    for at in spaces:  # "Australia capital", "capital Australia": the longest name first
        relation = named().get(folded[at + 1 :])
        if relation is not None:
            subject = text[: at - len(folded)].rstrip(" ,")
            if could_be_subject(subject):
                return of_relation(relation, subject)
    for at in reversed(spaces):
        relation = named().get(folded[:at])
        if relation is not None and text[at + 1 : at + 2].isupper() and could_be_subject(text[at + 1 :]):
            return of_relation(relation, text[at + 1 :])
    return None


def of_relation(relation: Relation, subject: str) -> Understood:
    return Understood(subject, relation.name, relation.statements[0], tuple(fill(q, subject) for q in relation.questions[:2]))
