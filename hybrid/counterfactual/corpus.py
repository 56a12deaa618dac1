"""Documents to train the counterfactual model on: one to three facts, and queries that they answer.

No document asks what the context does not say: the router has decided that before the model is called. So the
model need not know the world, and any name may stand for any other.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from hybrid.lexicon import Relation
from hybrid.pocket.corpus import Corpus, Document
from hybrid.pocket.facts import Triple
from hybrid.pocket.names import invent, odd
from hybrid.prompts import query_text, told

BEFORE = ("Tell me:", "Please tell me:", "Quick question:", "Do you know?", "I was wondering:", "By the way,", "One more thing:")


class Reading(Corpus):
    """An endless stream of reading practice, phrased as pocket's corpus is."""

    def _document(self, rng: random.Random, several: bool) -> Document:
        asked = self._new_triple(rng)
        if rng.random() < 0.25:
            asked = asked._replace(subject=odd(rng))
        others = [self.unrelated(rng, asked) for _ in range(rng.choice([0] * 10 + [1] * 6 + [2] * 4))]
        facts = [*others, asked]  # the best one last, as the answerer puts it
        if others and rng.random() < 0.5:
            rng.shuffle(facts)
        document: Document = [(told(self.statement(rng, fact), fact.subject, fact.target), False) for fact in facts]
        document += self._answered(rng, asked, facts)
        if others and rng.random() < 0.4:
            document += self._answered(rng, rng.choice(others), facts)
        return document

    def _answered(self, rng: random.Random, fact: Triple, facts: Sequence[Triple]) -> Document:
        relation = self.lexicon[fact.relation]
        inverse = self.lexicon.get(relation.inverse or "")
        if inverse is not None and len(facts) == 1 and rng.random() < 0.3:
            query, answer = self.question(rng, Triple(inverse.id, fact.target, fact.subject))
        elif rng.random() < 0.12:
            query, answer = self._curt(rng, relation, fact.subject), fact.target
        else:
            subject = self._called(rng, fact.subject) if len({each.subject for each in facts}) == 1 and rng.random() < 0.15 else fact.subject
            query, answer = self.question(rng, fact._replace(subject=subject))
        return [(query_text(self._before(rng, facts) + query), False), (f" {answer}</s>", True)]

    def _before(self, rng: random.Random, facts: Sequence[Triple]) -> str:
        """What precedes a query: nothing mostly, a passing remark, or a sentence that states another fact."""
        form = rng.random()
        if form < 0.76:
            return ""
        if form < 0.9:
            return rng.choice(self.sentences) + " "
        if form < 0.95:
            return f"{self.statement(rng, self.unrelated(rng, facts[-1]))}. "
        return rng.choice(BEFORE) + " "

    def _curt(self, rng: random.Random, relation: Relation, subject: str) -> str:
        """A query in the fewest words, or a request."""
        name = rng.choice(relation.names)
        return rng.choice(
            [
                f"{subject} {name}",
                f"{subject} {name}?",
                f"The name of the {name} of {subject} is",
                f"The {name} of {subject} is",
                f"Name the {name} of {subject}.",
                f"Tell me the {name} of {subject}.",
                f"{subject}'s {name}:",
            ]
        )

    def _called(self, rng: random.Random, subject: str) -> str:
        """Another name of the subject: a part of it, its initials, or an alias that shares nothing with it."""
        words = subject.split()
        if len(words) > 1 and rng.random() < 0.7:
            return rng.choice([words[-1], words[0], " ".join(words[1:]), "".join(word[0] for word in words).upper()])
        return invent("person" if rng.random() < 0.5 else "work", rng)

    def _target(self, rng: random.Random, relation: Relation, avoid: str) -> str:
        """As pocket's, or one of any shape, a few words of prose, or one of another kind."""
        form = rng.random()
        if form < 0.3:
            return odd(rng)
        if form < 0.38:
            words = rng.choice(self.sentences).rstrip(".?!;:, ").split()
            start = rng.randrange(max(1, len(words) - 3))
            return " ".join(words[start : start + rng.randint(2, 9)]).strip(".,;:?!\"'()") or super()._target(rng, relation, avoid)
        if form < 0.44:
            return invent(rng.choice(["date", "number", "text", "work", "organization", "product", "concept", "language"]), rng)
        return super()._target(rng, relation, avoid)
