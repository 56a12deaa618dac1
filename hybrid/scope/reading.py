"""One fact beside one query: under which name it is asked for, where, and in what words.

What is asked stands in a query's last sentence, if that names the subject; what precedes it then only distracts.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from hybrid.asked_moment import undated
from hybrid.lexicon import Relation, fill, find, relations
from hybrid.lexicon.ambiguous import opposite
from hybrid.scope.degrees import opposed
from hybrid.scope.names import fold, longer, shared, span, titled, untitled, variant, without
from hybrid.scope.nouns import another_kind, another_value, elsewhere, excluded
from hybrid.scope.nouns import asked as asked_for
from hybrid.scope.ordinary import worded, written
from hybrid.scope.phrasings import PRONOUN, Wording
from hybrid.scope.shortened import partly
from hybrid.scope.turned import turned
from hybrid.scope.words import UNENDED
from policies.scope import Evidence
from stores.records import Fact

SENTENCE = re.compile(rf"(?<=[.!?:]){UNENDED}\s+")
WORDINGS = 3
"""Further wordings of a fact that the classifier reads."""
EXACT, APART = 0.97, 0.1
"""From which cosine with another relation's wording, and how much more than with the fact's own, a query is worded as that relation is."""


SHORT = 3
"""Letters of an acronym that nobody writes as a word ("Nato", but not "Un")."""
SURE = 2.5
"""From which logit the classifier is sure enough that a fact of an unknown relation tells what is asked."""


def last_sentence(query: str, *names: str) -> str:
    """Where a query asks; a full stop or a colon in a name ends no sentence, nor does a colon behind it."""
    query = query.strip()
    spelt = (fold(name.rstrip(" .")).removeprefix("the ") for name in names)
    whole = [found.span() for name in spelt for found in re.finditer(re.escape(name) + ":? ?", fold(query))]
    ends = [end.end() for end in SENTENCE.finditer(query) if not any(low < end.end() <= high for low, high in whole)]
    last = query[ends[-1] :] if ends else query
    return last if len(last) >= 8 else query


@dataclass(frozen=True)
class Reading:
    """One fact beside one query: under which name, in which part, and in what words it is to be judged."""

    asked: str
    """Where the query asks; another spelling of the name is written as the fact has it."""
    named: bool
    variant: bool
    longer: bool
    before: bool
    shared: float
    bare: str | None
    """What is asked, without the name."""
    wordings: tuple[str, ...]
    relation: str | None
    forms: tuple[str, ...]
    """The fact's own prompt and relation, without the name."""
    elsewhere: int
    """Whether something else is asked for by name, or another kind of value (`hybrid.scope.nouns`), another degree (`hybrid.scope.degrees`) or the
    other end (`hybrid.scope.turned`)."""
    excluded: bool
    name: str
    """The fact's name that is compared."""
    target: str
    guessed: bool
    """Whether the relation was told from the fact's wording."""

    @classmethod
    def of(cls, query: str, fact: Fact, hidden: Collection[str] = (), guess: str | None = None) -> Reading:
        """Compare names; what stands in the last sentence counts first.

        Args:
            hidden: relations that are treated as unknown to the lexicon.
            guess: the fact's relation if the lexicon does not know the name that it was stored with.
        """
        if fact.valid_from or fact.valid_to:
            query = undated(query, fact.statement)  # whether it holds then is for its period to say
        relation = find(fact.relation) or (relations()[guess] if guess else None)
        relation = None if relation is None or relation.id in hidden else relation
        person = relation is not None and relation.subject_type == "person"
        names = (fact.subject, *fact.aliases)
        last = last_sentence(query, *names)
        name = max(names, key=lambda n: (span(n, last) is not None, span(n, query) is not None, shared(n, last)))
        where, spelt = span(name, last), False
        another_word = where is not None and _ordinary(name, last[slice(*where)], query)
        if another_word:
            where = None
        if where is None and span(name, query) is None:
            name, where = next(((n, found) for n in names if (found := variant(n, last)) and not _ordinary(n, last[slice(*found)], query)), (name, None))
            if where is None and person:
                where = partly(name, last)
            if where is not None:
                last, spelt = last[: where[0]] + name + last[where[1] :], True
                where = where[0], where[0] + len(name)
        within = where is not None and longer(where, last, person, relation is not None and not person)
        if where is not None:
            last = untitled(where, last)
        word = name.islower() and name in worded()  # "stone" may be meant, or not
        share = 0.0 if another_word else min(shared(name, last), 0.5 if word else 1.0)
        before = where is None and not another_word and span(name, query) is not None
        asked = last if where is not None or share > 0.5 else query
        statements = [f"{fill(fact.prompt, name)} {fact.target_new}"]
        if relation is not None and share > 0.5:
            templates = (relation.questions[0], relation.statements[1], relation.statements[0], relation.questions[1])
            statements += [f"{fill(template, name)} {fact.target_new}" for template in templates]
        elif share > 0.5:
            statements += [f"{question} {fact.target_new}" for question in fact.questions]
        wordings = tuple(dict.fromkeys(statements))[: 1 + WORDINGS]
        forms = (fill(fact.prompt, PRONOUN), f"{PRONOUN} {fact.relation}")
        stands = span(name, asked)
        bare = None if another_word else without(name, asked, None if stands is None else titled(stands, asked, person), PRONOUN)
        other = 0 if bare is None else _other(bare, relation, forms, fact.target_new, hidden)
        return cls(
            asked,
            where is not None and not spelt and not word,
            spelt,
            within,
            before,
            share,
            bare,
            wordings,
            None if relation is None else relation.id,
            forms,
            other,
            excluded(fact.target_new, last),
            name,
            fact.target_new,
            relation is not None and find(fact.relation) is None,
        )

    @property
    def comparable(self) -> bool:
        """Whether enough of the name stands in the query to ask what else is asked about it."""
        return self.bare is not None and self.shared > 0.5

    def _elsewhere(self, wording: Wording, logit: float) -> float:
        """Whether something else is asked for by name (1); in so many words, or in the words of another relation, too (2).

        A fact of an unknown relation may tell just that in words of its own, if the classifier is sure of it.
        """
        worded = wording.rival >= EXACT and wording.own <= wording.rival - APART
        if worded and self.relation is not None and wording.rivals and opposite(self.relation, wording.rivals[0]):
            return 2.0
        doubt = self.relation is None and logit >= SURE
        return 2.0 if self.elsewhere and worded and not doubt else float(self.elsewhere)

    def evidence(self, logit: float, wording: Wording, contrast: float = 0.0) -> Evidence:
        """What the names tell, with what the classifier and the wordings say."""
        return Evidence(
            logit=logit,
            named=float(self.named),
            variant=float(self.variant),
            longer=float(self.longer),
            before=float(self.before),
            shared=self.shared,
            own=wording.own,
            rival=wording.rival,
            known=float(self.relation is not None),
            guessed=float(self.guessed),
            elsewhere=self._elsewhere(wording, logit),
            excluded=float(self.excluded),
            contrast=contrast,
        )


def _other(bare: str, relation: Relation | None, forms: tuple[str, ...], target: str, hidden: Collection[str]) -> int:
    """Whether something else is asked for by a query without the name, see `Reading.elsewhere`."""
    mistaken = another_value(bare, target) and not another_value(forms[0], target)
    if mistaken or opposed(bare, " ".join(forms)) or turned(bare, forms[0], None if relation is None else relation.id):
        return 2
    if relation is not None and another_kind(bare, relation):
        return 2
    return elsewhere(asked_for(bare, PRONOUN), relation, forms, hidden)


def _ordinary(name: str, found: str, query: str) -> bool:
    """Whether what was found is an ordinary word and not the name, in the words of somebody who uses capitals.

    A name with a capital that is found without one, HOW found as "How", Püt as "put", BA as "Ba".
    """
    smaller = (name[:1].isupper() and found.islower()) or (len(name) > 1 and name.isupper() and not found.isupper())
    if not smaller or query.islower():
        return False
    otherwise = fold(found) != name.lower()  # its accents are lost, too
    return fold(found) in (written() if otherwise else worded()) or (len(name) <= SHORT and name.isupper() and found.istitle())
