"""Behaviour edits: rules and steering vectors, each with a scope, over what weights and memory would answer.

A rule gives a fixed answer or a refusal, forbids strings, instructs a chat model, or suppresses a subject. What no rule and no
vector is in scope for is answered to the byte as without them; a forced route is not ruled.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ulid import ULID

from hybrid.answer import Decision
from stores.errors import BadRequest
from stores.events import now
from stores.rules import Kind, Rule, RuleTable, Steer

if TYPE_CHECKING:
    from hybrid.memory import HybridMemory
    from hybrid.model import LanguageModel, Prompt
    from hybrid.steering import Steering
    from hybrid.topic import Topic, TopicFitter

REFUSAL = "I cannot answer that."


@dataclass(frozen=True, slots=True)
class RuleHit:
    """A rule that governs a query, and how strongly: the score of its topic, 1 where a name or nothing decides."""

    rule: Rule
    score: float


class Behaviour:
    """The rules and steering vectors of one memory, kept in step with its ledger."""

    def __init__(self, memory: HybridMemory):
        self.memory, self.table = memory, RuleTable(memory.ledger)
        self.forced: tuple[tuple[str, float | None], ...] = ()
        self._revision = -1
        self._rules: list[Rule] = []
        self._steers: list[Steer] = []
        self._topics: dict[tuple[Any, ...], Topic] = {}
        self._vectors: dict[str, Steering] = {}
        self._fitter: TopicFitter | None = None

    @property
    def folder(self) -> Path:
        """Where steering vectors lie."""
        return self.memory.folder / "steering"

    # -- rules -------------------------------------------------------------------------------

    def add_rule(
        self,
        topic: str,
        *,
        kind: Kind,
        said: str = "",
        phrases: Sequence[str] = (),
        examples: Sequence[str] = (),
        counterexamples: Sequence[str] = (),
    ) -> tuple[Rule, Rule | None]:
        """Store a rule; returns the one in force and the one that it superseded. See `stores.rules.Rule` for the fields.

        Raises:
            BadRequest: naming what is missing, or that the model cannot follow an instruction.
        """
        fold = {name: tuple(dict.fromkeys(" ".join(text.split()) for text in given if text.strip())) for name, given in
                (("phrases", phrases), ("examples", examples), ("counterexamples", counterexamples))}  # fmt: skip
        topic, said = " ".join(topic.split()), said.strip()
        if kind in ("answer", "instruct") and not said:
            raise BadRequest(f"the rule needs a text: what to {'answer' if kind == 'answer' else 'instruct'}")
        if kind in ("never", "suppress") and not fold["phrases"]:
            raise BadRequest("the rule needs " + ("a string that is never to be said" if kind == "never" else "the name of a subject"))
        if kind in ("answer", "refuse") and not topic and not fold["examples"]:
            raise BadRequest('the rule needs a scope: a topic such as "questions about cooking", or examples')
        if kind == "instruct" and not self.memory.model.is_chat:
            raise BadRequest(f"{self.memory.model.name} has no chat template, so it follows no instructions; give a fixed answer, or name a chat model")
        if fold["counterexamples"] and not (topic or fold["examples"]):
            raise BadRequest("counterexamples bound a scope; give a topic or examples too")
        said = said or (REFUSAL if kind in ("refuse", "never", "suppress") else "")
        rule = Rule(id=str(ULID()), kind=kind, topic=topic, said=said, author=self.memory.author, created_at=now(), **fold)  # type: ignore[arg-type]
        return self.table.add(rule)

    def suppress(self, subject: str, aliases: Sequence[str] = (), said: str = "") -> tuple[Rule, Rule | None]:
        """State nothing that the model knows about a subject: queries that name it are refused, and answers that would."""
        return self.add_rule(subject, kind="suppress", said=said, phrases=(subject, *aliases))

    # -- deciding ----------------------------------------------------------------------------

    def over(self, query: str, route: str | None, decide: Callable[[], Decision]) -> Decision:
        """What rules and vectors make of a decision; `decide` makes it, and is not called where a rule answers."""
        self._refresh()
        steering = self.forced
        if route is not None or not (self._rules or self._steers):
            return self._steered(decide(), steering)
        started = time.perf_counter()
        hits = self.governing(query)
        steering = steering or tuple((each.name, each.strength) for each in self._steers if self._in_scope(each, query) is not None)
        timings = {"rules": (time.perf_counter() - started) * 1000}
        final = [hit for hit in hits if hit.rule.kind in ("suppress", "answer", "refuse")]
        if final and not (final[0].rule.kind == "suppress" and not self._names(final[0].rule, query)):
            return Decision("rule", said=final[0].rule.said, rules=(final[0],), timings_ms=timings)
        decision = self._steered(decide(), steering)
        decision = replace(decision, rules=tuple(hits), timings_ms=timings | decision.timings_ms)
        instructed = any(hit.rule.kind == "instruct" for hit in hits)
        if decision.said is not None and (instructed or any(self._broken(hit.rule, decision.said) for hit in hits)):
            decision = replace(decision, said=None)  # the weights said it before the rules were heard
        return replace(decision, route="rule") if instructed and decision.route in ("base", "weights") else decision

    def governing(self, query: str) -> list[RuleHit]:
        """The rules in scope: suppressed subjects first, then by score. A suppressed subject watches over every answer."""
        self._refresh()
        hits = []
        for rule in self._rules:
            score = (1.0 if self._names(rule, query) else 0.0) if rule.kind == "suppress" else self._in_scope(rule, query)
            if score is not None:
                hits.append(RuleHit(rule, score))
        return sorted(hits, key=lambda hit: (-hit.score if hit.rule.kind != "suppress" else -2 * hit.score, hit.rule.id))

    def score(self, each: Rule | Steer, query: str) -> float:
        """How far a query is within a topic; 1 where the scope is everywhere."""
        from hybrid.topic import TopicFitter

        if each.everywhere:
            return 1.0
        key = (each.topic, each.examples, each.counterexamples)
        if self._fitter is None or self._fitter.embedder is not self.memory.embedder:
            self._fitter, self._topics = TopicFitter(self.memory.embedder), {}
        if key not in self._topics:
            self._topics[key] = self._fitter.fit(*key)
        return self._fitter.score(self._topics[key], query)

    def _in_scope(self, each: Rule | Steer, query: str) -> float | None:
        from hybrid.topic import THRESHOLD

        score = self.score(each, query)
        return score if score >= THRESHOLD else None

    @staticmethod
    def _names(rule: Rule, text: str) -> bool:
        from hybrid.scope.names import span

        return any(span(name, text) is not None for name in rule.phrases)

    def _broken(self, rule: Rule, text: str) -> bool:
        from hybrid.avoid import holds

        return self._names(rule, text) if rule.kind == "suppress" else rule.kind == "never" and holds(text, rule.phrases)

    def _refresh(self) -> None:
        revision = self.memory.ledger.revision()
        if revision != self._revision:
            self._rules, self._steers, self._revision = self.table.rules(), self.table.steers(attached=True), revision

    # -- answering ---------------------------------------------------------------------------

    def stream(self, model: LanguageModel, prompt: Prompt, decision: Decision, max_new_tokens: int) -> Iterator[str]:
        """A model's answer under the decision's rules and vectors, piece by piece; in one piece where a rule watches over it.

        Vectors steer the store's own model only: in the states of another they mean nothing.
        """
        from hybrid import avoid

        rules = [hit.rule for hit in decision.rules]
        for rule in rules:
            if rule.kind == "instruct":
                text = f"Rule for your answer: {' '.join(rule.said.split())}\n\n{prompt.text}"
                prompt = replace(prompt, text=text)
        never = [rule for rule in rules if rule.kind == "never"]
        hidden = [rule for rule in rules if rule.kind == "suppress"]
        with ExitStack() as stack:
            for name, strength in decision.steering if model is self.memory.model else ():
                stack.enter_context(self._applied(name, strength))
            if not never and not hidden:
                yield from model.stream(prompt, max_new_tokens)
                return
            said = avoid.complete(model, prompt, [phrase for rule in never for phrase in rule.phrases], max_new_tokens) if never else None
            text = said if said is not None else never[0].said if never else model.complete(prompt, max_new_tokens)
            yield next((rule.said for rule in hidden if self._names(rule, text)), text)

    # -- steering ----------------------------------------------------------------------------

    @contextmanager
    def steered(self, *names: str, strength: float | None = None) -> Iterator[None]:
        """Steer every query with these vectors while the context lasts, whatever is attached."""
        for name in names:
            self.vector(name)
        before, self.forced = self.forced, tuple((name, strength) for name in names)
        try:
            yield
        finally:
            self.forced = before

    def vector(self, name: str) -> Steering:
        """A vector of the store, checked against the ledger and the model.

        Raises:
            NotFound, Corrupt, Conflict: if there is none, its file was changed, or it belongs to another model.
        """
        from hybrid.steering import Steering

        known = self.table.steer(name)
        if known.sha256 not in self._vectors:
            self._vectors[known.sha256] = Steering.load(self.folder / name, known.sha256)
        return self._vectors[known.sha256].held_to(self.memory.model, name)

    def _steered(self, decision: Decision, steering: tuple[tuple[str, float | None], ...]) -> Decision:
        return replace(decision, steering=steering, said=None) if steering else decision

    @contextmanager
    def _applied(self, name: str, strength: float | None) -> Iterator[None]:
        from hybrid.steering import steered

        found = self.vector(name)
        with steered(self.memory.model, found.layer, (found.strength if strength is None else strength) * found.vector, onward=found.onward):
            yield
