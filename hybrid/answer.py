"""An answer, and how it came about."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from stores.records import Hit

if TYPE_CHECKING:
    from hybrid.behaviour import RuleHit


@dataclass(frozen=True, slots=True)
class Hop:
    """One step of a chain."""

    question: str
    """The hop's own question."""
    answer: str
    route: str
    """`memory` if a fact holds the answer, `base` if the model gave it."""
    fact: str | None = None
    """The id of that fact."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What the router decided: the route, the facts that govern, and all that it looked at."""

    route: str
    governing: tuple[Hit, ...] = ()
    candidates: tuple[Hit, ...] = ()
    timings_ms: dict[str, float] = field(default_factory=dict)
    generation: int = 0
    """The weights that answer; 0 is the base."""
    said: str | None = None
    """What the weights answered when they were tried, what a rule says, or what a chain came to."""
    rules: tuple[RuleHit, ...] = ()
    """Rules that govern, see `hybrid.behaviour`."""
    steering: tuple[tuple[str, float | None], ...] = ()
    """Steering vectors that are added, each with a strength if it is not its own."""
    hops: tuple[Hop, ...] = ()
    """The chain, innermost first, if the query was answered by one."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The text, the route that made it, and the decision behind it."""

    text: str
    route: str
    facts: tuple[Hit, ...]
    candidates: tuple[Hit, ...]
    timings_ms: dict[str, float]
    generation: int = 0
    prompt: str = ""
    rules: tuple[RuleHit, ...] = ()
    steering: tuple[str, ...] = ()
    hops: tuple[Hop, ...] = ()

    @classmethod
    def of(cls, decision: Decision, text: str, timings_ms: dict[str, float], prompt: str) -> Answer:
        """The answer that a decision led to."""
        names = tuple(name for name, _ in decision.steering)
        return cls(text, decision.route, decision.governing, decision.candidates, timings_ms, decision.generation, prompt, decision.rules, names, decision.hops)

    def to_dict(self, explain: bool = False) -> dict[str, Any]:
        """The object that `ask --json` prints."""
        found = {
            "answer": self.text,
            "route": self.route,
            "facts": [_row(hit) for hit in self.facts],
            "generation": self.generation,
            "timings_ms": {key: round(value, 2) for key, value in self.timings_ms.items()},
        }
        if self.rules or self.steering:
            rules = [{"id": hit.rule.id, "kind": hit.rule.kind, "topic": hit.rule.topic, "score": round(hit.score, 4)} for hit in self.rules]
            found |= {"rules": rules, "steering": list(self.steering)}
        if self.hops:
            found["chain"] = [asdict(hop) for hop in self.hops]
        if explain:
            found |= {
                "candidates": [
                    _row(hit) | {"similarity": round(hit.similarity, 4), "evidence": {k: round(v, 4) for k, v in hit.evidence.items()}}
                    for hit in self.candidates
                ],
                "prompt": self.prompt,
            }
        return found


def _row(hit: Hit) -> dict[str, Any]:
    return {"id": hit.fact.id, "statement": hit.fact.statement, "score": round(hit.score, 4)}
