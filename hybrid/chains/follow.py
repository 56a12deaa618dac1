"""A query over several facts, answered hop by hop: from memory as far as it goes, else by the model; None if it is no such query."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from hybrid.answer import Decision, Hop
from hybrid.asked_moment import asked_moment
from hybrid.chains.asks import NOUNS, agrees, noun
from hybrid.chains.paths import Meanings, Path, Step, best, coverage, joints, lexical, longer, names, outside, question, score, typed
from hybrid.lexicon import fill
from hybrid.scope.names import fold, span
from policies.chains import ChainPolicy, Word
from stores.events import now
from stores.records import Fact, Hit

if TYPE_CHECKING:
    from hybrid.memory import HybridMemory


@dataclass(frozen=True)
class Found:
    """A path that the question asks for, and where it begins."""

    score: float
    words: Sequence[Word]
    path: Path
    entity: str


class Chains:
    """Follows chains through one memory."""

    def __init__(self, memory: HybridMemory, policy: ChainPolicy | None = None):
        self.memory, self.policy = memory, policy or ChainPolicy()
        witness = memory.router.witness
        self.meanings = Meanings(witness.embedder.embed, witness.phrasings)

    def follow(self, query: str, decision: Decision, namespaces: Sequence[str] | None, max_new_tokens: int = 48) -> Decision:
        """The decision for a query that asks for a chain, with what it came to; the router's for any other query.

        Args:
            decision: the router's, whose candidates name things that the query is about.
        """
        started = time.perf_counter()
        chosen = self._chosen(question(query), decision, namespaces) if decision.candidates else None
        hops = self._resolve(chosen, namespaces, max_new_tokens) if chosen is not None else None
        spent = (time.perf_counter() - started) * 1000
        timings = decision.timings_ms | {"chain": spent, "route": decision.timings_ms["route"] + spent}
        if chosen is None or hops is None:
            return replace(decision, timings_ms=timings)
        score = min(1.0, coverage(chosen.words, chosen.path))
        known = {hit.fact.id: hit for hit in decision.candidates}
        facts = [step.fact for step in reversed(chosen.path) if step.fact is not None]
        governing = [replace(known.get(fact.id) or Hit(fact, 0.0), score=score) for fact in facts]
        return Decision("chain", tuple(governing), decision.candidates, timings, decision.generation, hops[-1].answer, hops=tuple(hops))

    def _chosen(self, text: str, decision: Decision, namespaces: Sequence[str] | None) -> Found | None:
        """The path that explains the question best, from whatever thing it names."""
        about = partial(self._about, moment=asked_moment(text) or now(), namespaces=namespaces)
        found = [path for entity, facts in self._entities(text, decision, about) for path in self._from(text, entity, facts, about)]
        return max(found, key=lambda each: each.score, default=None)

    # -- where it may begin --------------------------------------------------------------------

    def _about(self, named: Sequence[str], *, moment: str, namespaces: Sequence[str] | None, aliases: bool = False) -> dict[str, list[Fact]]:
        """Facts in force by the folded name of their subject, with or without an article; by their aliases, too, if that is asked for."""
        wanted = list(dict.fromkeys(each for name in named for each in (name, name.removeprefix("the ").removeprefix("The "), f"the {name}")))
        found: dict[str, list[Fact]] = defaultdict(list)
        ledger = self.memory.ledger
        told = [(fact, fact.subject) for fact in ledger.about(wanted)]
        told += [(fact, alias) for fact in ledger.called(wanted) for alias in fact.aliases] if aliases else []
        for fact, called in told:
            if fact.valid_at(moment) and (namespaces is None or fact.namespace in namespaces):
                name = fold(called)
                for each in {name, name.removeprefix("the "), f"the {name}"}:
                    found[each].append(fact)
        return found

    def _entities(self, text: str, decision: Decision, about: partial[dict[str, list[Fact]]]) -> list[tuple[str, list[Fact]]]:
        """Names in the question that facts are about, with those facts; a name within a longer one does not count."""
        told = about(names(text))
        found = {name: facts for name, facts in told.items() if span(name, text) is not None}
        for hit in decision.candidates:
            for alias in hit.fact.aliases:
                if span(alias, text) is not None:
                    found[fold(alias)] = about([hit.fact.subject]).get(fold(hit.fact.subject), [])
        spans = {name: span(name, text) or (0, 0) for name in found}
        outer = [n for n, (a, b) in spans.items() if not any((c <= a and b <= d) and (c, d) != (a, b) for c, d in spans.values())]
        return [(name, found[name]) for name in outer]

    def _from(self, text: str, entity: str, facts: Sequence[Fact], about: partial[dict[str, list[Fact]]]) -> list[Found]:
        """The best path from one entity, if the question asks for it."""
        where = span(entity, text) or (0, 0)
        words, asks = outside(text, where), noun(text)

        def step(fact: Fact) -> Step:
            found, relation = self.meanings.of(fact)
            return Step(typed(found, relation, asks), fact)

        paths = best(self.policy, words, [(step(fact),) for fact in facts if span(fact.target_new, text) is None])  # else its answer is told, not asked for
        single = max((coverage(words, path) for path in paths), default=0.0)
        if not paths or single > 1 - self.policy.gain:  # one hop says it all
            return []
        tried: list[Path] = []
        for _ in range(self.policy.most - 1):
            tried += paths
            paths = longer(self.policy, words, paths, partial(about, aliases=True), step)
            if not paths:
                break
        tried = best(self.policy, words, [*tried, *paths])
        alone = max((coverage(words, (each,)) for each in lexical(words, None, asks)), default=0.0)  # what the model could be asked as it stands
        unsure = [path for path in self._asking(words, tried[:5], asks) if joints(text, where) + self._mistyped(path, asks) >= len(path) - 1]
        rivals = [(path, single) for path in tried] + [(path, max(single, alone)) for path in unsure]
        taken = [path for path, rival in rivals if agrees(text, self._type(path[-1])) and self._takes(words, path, rival)]
        return [Found(score(self.policy, words, path), words, path, entity) for path in best(self.policy, words, taken)[:1]]

    def _takes(self, words: Sequence[Word], path: Path, single: float) -> bool:
        return self.policy.takes(words, [step.cues for step in path], [step.fact is not None for step in path], single)

    def _asking(self, words: Sequence[Word], paths: Sequence[Path], asks: str | None) -> list[Path]:
        """Paths that memory does not hold to the end: by one or two hops more, for which the model is asked."""
        found: list[Path] = []
        for _ in range(2):
            typed_paths = [(path, kind) for path in paths if (kind := self._type(path[-1])) is not None]
            more = [(*path, step) for path, kind in typed_paths for step in lexical(words, kind, asks) if step.relation not in {s.relation for s in path}]
            paths = best(self.policy, words, more)[:5]
            found += paths
        return found

    def _mistyped(self, path: Path, asks: str | None) -> bool:
        """Whether what a path comes to before its last hop is not what is asked for ("In which country was she born?", beside a city)."""
        kind = self._type(path[-2])
        return asks is not None and kind is not None and kind not in NOUNS[asks]

    def _type(self, step: Step) -> str | None:
        relation = step.relation or (self.meanings.of(step.fact)[1] if step.fact is not None else None)
        return relation.target_type if relation is not None else None

    # -- hop by hop ----------------------------------------------------------------------------

    def _resolve(self, chosen: Found, namespaces: Sequence[str] | None, max_new_tokens: int) -> list[Hop] | None:
        """The hops with their answers; None if the model has none."""
        hops, entity = list[Hop](), ""
        for step in chosen.path:
            if step.fact is not None:
                asked = step.fact.questions[0] if step.fact.questions else step.fact.cloze
                hops.append(Hop(asked, step.fact.target_new, "memory", step.fact.id))
            else:
                assert step.relation is not None
                hops.append(self._ask(fill(step.relation.questions[0], entity), namespaces, max_new_tokens))
            entity = hops[-1].answer
            if not entity:
                return None
        return hops

    def _ask(self, asked: str, namespaces: Sequence[str] | None, max_new_tokens: int) -> Hop:
        """One hop's own question: a fact that governs it, in whatever words, else the model."""
        decision = self.memory.router.route(asked, namespaces=namespaces)
        if decision.governing:
            fact = decision.governing[0].fact
            return Hop(asked, fact.target_new, "memory", fact.id)
        said = self.memory.model.complete(self.memory.answerer.prompt(asked, Decision("base")), max_new_tokens)
        return Hop(asked, said.rstrip("."), "base")
