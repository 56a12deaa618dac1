"""What a short cue means: `"Australia capital"`, `"capital of Australia"`, `"Who is the CEO of Apple?"`.

The lexicon's phrasings are tried first, then its names, then general patterns. The subject's span is always
known afterwards: the prompt has one `{}` for it. Nothing is guessed silently; what fails says what to type.
"""

from __future__ import annotations

import difflib
import re
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache

from hybrid.lexicon import SUBJECT, Relation, fill, named, relations
from hybrid.scope.attributes import attributes
from hybrid.scope.nouns import asked
from stores.errors import CueError


@dataclass(frozen=True)
class Understood:
    """A cue, understood: the prompt has one `{}` for the subject and stops where the target follows."""

    subject: str
    relation: str
    prompt: str
    questions: tuple[str, ...] = ()


ARTICLES = re.compile(r"^(the|a|an)\s+", re.IGNORECASE)
QUESTION = re.compile(
    r"^(who|what|which(?: \w+)?|where|when)(?:'s|\s+(?:is|are|was|were))\s+(?:the\s+)?(?P<rel>.+?)\s+(?:of|for|in)\s+(?P<subj>.+?)\s*\?$", re.I
)
OWNED = re.compile(r"^(who|what|which(?: \w+)?|where|when)(?:'s|\s+(?:is|are|was|were))\s+(?P<subj>.+?)(?:'s|'|’s|’)\s+(?P<rel>.+?)\s*\?$", re.I)
NOUN_OF = re.compile(r"^(?:the\s+)?(?P<rel>[a-z][\w /-]*?)\s+(?:of|for|at|in)\s+(?P<subj>.+?)(?:\s+(?:is|are|was|were|equals))?\s*:?$", re.I)
LEAD = re.compile(r"^(who|what|which(?: \w+)?|where|when)(?:'s|\s+(?:is|are|was|were))\s+", re.I)
BE = re.compile(r"\s+(?:is|are|was|were|equals)$", re.I)
PREPOSITION = re.compile(r"\s+(?:of|for|at|in)\s+", re.I)
POSSESSIVE = re.compile(r"^(?P<subj>.+?)(?:'s|’s|s')\s+(?P<rel>.+?)(?:\s+(?:is|are|was|were))?\s*:?$", re.I)
CONNECTING = {"of", "the", "and", "de", "la", "von", "van", "der"}
FUNCTION_WORDS = {"the", "a", "an", "of", "and", "is", "was", "it", "this", "that", "who", "what", "where", "when", "which", "how", "why"}


def understand(cue: str, *, subject: str | None = None, relation: str | None = None) -> Understood:
    """Find the subject, the relation and a prompt in a cue.

    Args:
        cue: a short cue, a question, a prompt with `{}`, or a sentence that stops before the target.
        subject: overrides what would be found; it must occur in the cue unless the cue has `{}`.
        relation: overrides the relation: a name in the lexicon (its phrasing is used), or any other words.
    Raises:
        CueError: saying what was not understood, and what to type instead.
    """
    cue = " ".join(cue.split())
    if not cue:
        raise CueError('the cue is empty; try `hybrid add-fact "Australia capital" Canberra`')
    if subject is not None:
        subject = " ".join(subject.split())
        if not subject:
            raise CueError("the subject is empty; leave --subject out, or name it")
    if cue.count(SUBJECT) > 1:
        raise CueError(f"{cue!r} has more than one {{}}; a prompt has one, for the subject")
    if SUBJECT in cue:
        if subject is None:
            raise CueError(f"{cue!r} is a prompt with {{}}; say whom it is about with --subject")
        return _from_template(cue, subject, relation)
    if relation is not None:
        return _with_relation(cue, subject, relation)
    if subject is not None:
        at = cue.lower().find(subject.lower())
        if at < 0:
            raise CueError(f"the subject {subject!r} does not occur in {cue!r}; put {{}} where it belongs")
        template = cue[:at] + SUBJECT + cue[at + len(subject) :]
        known = understand_known(cue)
        if known is not None and known.subject.lower() == subject.lower():
            return known
        return _from_template(template, cue[at : at + len(subject)], None)
    return understand_known(cue) or _general(cue) or _give_up(cue)


def understand_known(cue: str) -> Understood | None:
    """What the lexicon makes of a cue, if anything, by its phrasings or its names: whichever leaves less to be the subject."""
    found = [seen for seen in (_by_phrasing(cue), _by_name(cue)) if seen is not None]
    return min(found, key=lambda seen: len(seen.subject), default=None)


# -- through the lexicon ---------------------------------------------------------------------


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
                if subject and _could_be_subject(subject) and (best is None or fixed > best[0]):
                    best = (fixed, subject, relation)
    return _of(best[2], best[1]) if best else None


def _could_be_subject(text: str) -> bool:
    """A name, not the rest of a sentence: no question word, no verb at its end."""
    words = text.casefold().split()
    return words[-1] not in FUNCTION_WORDS and words[0] not in {"who", "what", "where", "which", "when", "of"} and len(words) <= 10


def _by_name(cue: str) -> Understood | None:
    text = cue.rstrip(" ?:").replace("’", "'")
    bare = ARTICLES.sub("", BE.sub("", LEAD.sub("", text)))
    for split in reversed(list(PREPOSITION.finditer(bare))):  # "date of birth of Ada Lovelace": the longest name first
        relation = named().get(bare[: split.start()].casefold())
        if relation is not None and bare[split.end() :].strip():
            return _of(relation, bare[split.end() :].strip())
    match = POSSESSIVE.match(bare)
    relation = named().get(match["rel"].strip().casefold()) if match else None
    if match and relation is not None:
        return _of(relation, match["subj"].strip())
    match = NOUN_OF.match(text)
    if match and text[0].islower():
        return None  # "the door code of the Berlin office" is about a door code, not an office
    folded = text.casefold()
    spaces = [match.start() for match in re.finditer(" ", folded)]
    for at in spaces:  # "Australia capital", "capital Australia": the longest name first
        relation = named().get(folded[at + 1 :])
        if relation is not None:
            subject = text[: at - len(folded)].rstrip(" ,")
            if _could_be_subject(subject):
                return _of(relation, subject)
    for at in reversed(spaces):
        relation = named().get(folded[:at])
        if relation is not None and text[at + 1 : at + 2].isupper() and _could_be_subject(text[at + 1 :]):
            return _of(relation, text[at + 1 :])
    return None


def _of(relation: Relation, subject: str) -> Understood:
    return Understood(subject, relation.name, relation.statements[0], tuple(fill(q, subject) for q in relation.questions[:2]))


def _with_relation(cue: str, subject: str | None, relation: str) -> Understood:
    """The relation is given: the rest of the cue is the subject."""
    found = named().get(relation.casefold())
    if subject is None:
        subject = ARTICLES.sub("", cue)
        for name in (relation, *(found.names if found else ())):
            subject = re.sub(rf"\b{re.escape(name)}\b( of)?", " ", subject, flags=re.I)
        subject = " ".join(subject.split()).removesuffix("'s").strip()
        if not subject:
            raise CueError(f"{cue!r} holds no subject beside the relation {relation!r}; name it with --subject")
    if found:
        return _of(found, subject)
    return Understood(subject, relation, f"The {relation} of {SUBJECT} is")


def _from_template(template: str, subject: str, relation: str | None) -> Understood:
    """A prompt with `{}`: the relation is the lexicon's if it knows the phrasing."""
    known = understand_known(fill(template, subject))
    if relation is not None:
        told = named().get(relation.casefold())
        return Understood(subject, told.name if told else relation, template)
    if known is not None and known.subject.casefold() == subject.casefold():
        return Understood(subject, known.relation, template, known.questions)
    noun = asked(fill(template, "it"), "it")  # "The name of the spouse of {} is"
    if noun is not None and noun.alone and (found := named().get(noun.phrase)) is not None:
        return Understood(subject, found.name, template)
    words = template.replace(SUBJECT, " ").casefold()
    return Understood(subject, " ".join(re.findall(r"\w+", words)) or "is", template)


# -- beyond the lexicon ----------------------------------------------------------------------


@lru_cache(maxsize=1)
def _attributes() -> tuple[str, ...]:
    return tuple(sorted((name.casefold() for each in attributes() for name in each.names), key=len, reverse=True))


def _general(cue: str) -> Understood | None:
    plain = cue.replace("’", "'")
    bare = plain.rstrip(" :?")
    for name in _attributes():  # "our office wifi password"
        subject = bare[: -len(name)].rstrip(" ,").removesuffix("'s")
        if bare.casefold().endswith(" " + name) and subject and _could_be_subject(subject) and not NOUN_OF.match(subject):
            return Understood(subject, name, f"The {name} of {SUBJECT} is")
    for pattern in (OWNED, QUESTION, POSSESSIVE, NOUN_OF):
        match = pattern.match(plain if pattern in (OWNED, QUESTION) else plain.rstrip(" :"))
        if (match and not plain.endswith("?")) or (match and pattern in (OWNED, QUESTION)):
            relation, subject = ARTICLES.sub("", match["rel"].strip()), match["subj"].strip()
            if relation and subject and _could_be_subject(subject) and len(relation.split()) <= 6:
                return Understood(subject, relation.casefold(), f"The {relation} of {SUBJECT} is")
    if plain.endswith("?"):  # a question of another shape: its capitalised words are the subject
        words = plain.rstrip("?").split()[1:]
        names = [" ".join(words[i : i + _leading_name(words[i:])]) for i in range(len(words))]
        subject = max(names, key=len, default="").rstrip(",").removesuffix("'s")
        if subject and SUBJECT not in subject:
            template = plain.replace(subject, SUBJECT, 1)
            return Understood(subject, " ".join(re.findall(r"\w+", template.replace(SUBJECT, " ").casefold())), template)
        return None
    words = plain.split()
    count = _leading_name(words)
    if 0 < count < len(words):
        subject, rest = " ".join(words[:count]), words[count:]
        if subject.endswith(","):
            subject, rest = subject[:-1], [",", *rest]
        tail = " ".join(rest).replace(" ,", ",")
        if len(rest) > 1 or tail in {"is", "was", "are"} or re.search(r"[^sui]s$", tail):  # "Bob likes"
            gap = "" if tail.startswith(",") else " "
            return Understood(subject, " ".join(re.findall(r"\w+", tail.casefold())) or "is", f"{SUBJECT}{gap}{tail}")
        return Understood(subject, tail.casefold(), f"The {tail} of {SUBJECT} is")
    return None


def _leading_name(words: list[str]) -> int:
    """How many words at the start make a name: capitalised ones, and connecting ones between them."""
    count = 0
    for number, word in enumerate(words, start=1):
        if word[0].isupper() or word[0].isdigit():
            count = number
            if word.endswith(","):
                break
        elif word not in CONNECTING or number == 1:
            break
    return count


def _give_up(cue: str) -> Understood:
    words = re.findall(r"[\w'-]+", cue.casefold())
    phrases = [" ".join(words[i : i + n]) for n in (1, 2, 3) for i in range(len(words) - n + 1)]
    near = [name for phrase in phrases for name in difflib.get_close_matches(phrase, named(), n=2, cutoff=0.75)]
    hint = f"did you mean the {' or the '.join(dict.fromkeys(near[:3]))} of somebody or something? " if near else ""
    raise CueError(
        f'{cue!r} was not understood; {hint}try "SUBJECT RELATION" (Australia capital), "RELATION of SUBJECT", a question, '
        'or a prompt: hybrid add-fact "The capital of {} is" Canberra --subject Australia'
    )
