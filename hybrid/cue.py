"""What a short cue means: `"Australia capital"`, `"capital of Australia"`, `"Who is the CEO of Apple?"`.

The lexicon's phrasings are tried first, then its names, then general patterns. The subject's span is always
known afterwards: the prompt has one `{}` for it. Nothing is guessed silently; what fails says what to type.
"""

from __future__ import annotations

import difflib
import re
from functools import lru_cache

from hybrid.known_cue import ARTICLES, BE, NOUN_OF, POSSESSIVE, Understood, could_be_subject, of_relation, understand_known
from hybrid.lexicon import SUBJECT, fill, named, relations
from hybrid.scope.attributes import attributes
from hybrid.scope.nouns import asked
from stores.errors import CueError

QUESTION = re.compile(
    r"^(who|what|which(?: \w+)?|where|when)(?:'s|\s+(?:is|are|was|were))\s+(?:the\s+)?(?P<rel>.+?)\s+(?:of|for|in)\s+(?P<subj>.+?)\s*\?$", re.I
)
OWNED = re.compile(r"^(who|what|which(?: \w+)?|where|when)(?:'s|\s+(?:is|are|was|were))\s+(?P<subj>.+?)(?:'s|'|’s|’)\s+(?P<rel>.+?)\s*\?$", re.I)
VERBS = re.compile(r"^(?:is|are|was|were|has|have|had|can|will|must|should|does|did)$", re.I)
DETERMINERS = frozenset("the a an our my your their his her its this that these those".split())
ENDING = frozenset("at in on to with from by for as under over".split())
PRONOUNS = frozenset("I We You They He She It".split())
CONNECTING = {"of", "the", "and", "de", "la", "von", "van", "der"}


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
        return of_relation(found, subject)
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


@lru_cache(maxsize=1)
def _attributes() -> tuple[str, ...]:
    return tuple(sorted((name.casefold() for each in attributes() for name in each.names), key=len, reverse=True))


def _general(cue: str) -> Understood | None:
    plain = cue.replace("’", "'")
    bare = plain.rstrip(" :?")
    for name in _attributes():  # "our office wifi password"
        subject = bare[: -len(name)].rstrip(" ,").removesuffix("'s")
        if bare.casefold().endswith(" " + name) and subject and could_be_subject(subject) and not NOUN_OF.match(subject):
            return Understood(subject, name, f"The {name} of {SUBJECT} is")
    for pattern in (OWNED, QUESTION, POSSESSIVE, NOUN_OF):
        match = pattern.match(plain if pattern in (OWNED, QUESTION) else plain.rstrip(" :"))
        if match and not plain.endswith("?") and any(VERBS.match(word) for word in match["subj"].split()):
            continue  # "the thermostat in room 3 is set to"
        if (match and not plain.endswith("?")) or (match and pattern in (OWNED, QUESTION)):
            relation, subject = ARTICLES.sub("", match["rel"].strip()), match["subj"].strip()
            if relation and subject and could_be_subject(subject) and len(relation.split()) <= 6:
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
    if (told := _sentence(words)) is not None:
        return told
    count = _leading_name(words)
    if 0 < count < len(words):
        at = _verb(words[count - 1 :]) or 1
        if at > 1 and not BE.fullmatch(" " + " ".join(words[count - 1 + at :])):  # "The Berlin office opened in"; but "Kestrel lead engineer is"
            count += at - 1
        elif (attribute := BE.sub("", plain)) != plain and count < len(attribute.split()):
            return understand_known(attribute) or _general(attribute)
        subject, rest = " ".join(words[:count]), words[count:]
        if subject.endswith(","):
            subject, rest = subject[:-1], [",", *rest]
        tail = " ".join(rest).replace(" ,", ",")
        sentence = tail.startswith(",") or at > 1 or _verb([SUBJECT, *rest]) or words[-1] in ENDING or subject in PRONOUNS
        if sentence or re.search(r"[^sui]s$", tail):  # "Bob likes"
            gap = "" if tail.startswith(",") else " "
            return Understood(subject, " ".join(re.findall(r"\w+", tail.casefold())) or "is", f"{SUBJECT}{gap}{tail}")
        return Understood(subject, tail.casefold(), f"The {tail} of {SUBJECT} is")
    return None


def _sentence(words: list[str]) -> Understood | None:
    """A sentence about what has no name, that stops before the target: "our build server is called"."""
    article = words[:1] if words[0].lower() in DETERMINERS else []
    rest = words[len(article) :]
    if not rest or not (rest[0][0].islower() or (article and article[0].lower() not in {"the", "a", "an"})):
        return None
    at = _verb(rest)
    if at is None:
        return None
    subject, tail = " ".join(rest[:at]), " ".join(rest[at:])
    return Understood(subject, " ".join(re.findall(r"\w+", tail.casefold())), " ".join([*map(str.capitalize, article), SUBJECT, tail]))


def _verb(words: list[str]) -> int | None:
    """Where what is said of the words before begins: at "is" and its like, which no "that" introduces, or at a verb of the lexicon's phrasings, or before a preposition that ends all."""
    plain = [word.casefold() for word in words]
    told = [at for at in range(1, len(words)) if VERBS.match(plain[at]) and plain[at - 1] not in {"that", "which", "who"}]
    told = told[-1:] if len(told) > 1 and {"that", "which", "who"} & set(plain[: told[-1]]) else told
    told = told or [at for at in range(1, len(words)) if plain[at] in _verbs()]
    if not told and len(words) > 2 and plain[-1] in ENDING and re.search(r"(?:[^su]s|ed)$", plain[-2]):
        told = [len(words) - 2]
    return told[0] if told else None


@lru_cache(maxsize=1)
def _verbs() -> frozenset[str]:
    """Verbs of the present or past that stand behind a subject in the lexicon's statements."""
    said = (t.partition(SUBJECT + " ")[2].split(" ")[0] for each in relations().values() for t in each.statements if t.startswith(SUBJECT))
    return frozenset(word for word in said if re.search(r"(?:[^su]s|ed)$", word))


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
