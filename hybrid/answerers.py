"""Who answers: the model alone, or the model with the governing facts in its context (IKE)."""

from __future__ import annotations

from collections.abc import Sequence

from hybrid.answer import Decision
from hybrid.demonstrations import Demonstrator
from hybrid.embedder import Embedder
from hybrid.model import POCKET, LanguageModel, Prompt
from hybrid.prompts import new_fact, pointer, query_text
from stores.records import Fact

RESERVED = 64
"""Tokens of the context that demonstrations leave to the answer."""


class Answerer:
    """Turns a query and a decision into the prompt that the model completes."""

    def __init__(self, model: LanguageModel, demonstrator: Demonstrator, contrast: float = 0.0, brief: bool = False):
        self.model, self.demonstrator, self.contrast, self.brief = model, demonstrator, contrast, brief

    @classmethod
    def suited(cls, model: LanguageModel, embedder: Embedder, demonstrations: int | None = None, contrast: float | None = None) -> Answerer:
        """With what suits the model, unless told.

        Args:
            demonstrations: worked examples before the new facts; 0 for pocket, which was trained to read facts without them, 8 for others.
            contrast: how much context-aware decoding weighs the facts against the model's own opinion; 0.5 for pocket, 0 for others.

        Pocket gets a fact in its fewest words too, before and after the statement: told so, it read 99 of 100 facts in others' wording, and 76 from the
        statement alone.
        """
        pocket = model.name == POCKET
        count = (0 if pocket else 8) if demonstrations is None else demonstrations
        return cls(model, Demonstrator(embedder, count), (0.5 if pocket else 0.0) if contrast is None else contrast, brief=pocket)

    def prompt(self, query: str, decision: Decision) -> Prompt:
        """The prompt of the routes base, weights and rule depends on the query alone, so its answer is that of the model without memory."""
        chat = self.model.is_chat
        asked = query.strip() if chat else query_text(query)
        if decision.route in ("base", "weights", "rule", "chain"):
            return Prompt(asked, chat)
        demonstrations = self.demonstrator.write(query, decision.governing, decision.candidates)
        facts = self._told([hit.fact for hit in reversed(decision.governing)])
        for kept in range(len(demonstrations), -1, -1):  # the farthest goes first
            prompt = Prompt("".join(demonstrations[len(demonstrations) - kept :]) + facts + asked, chat, asked, self.contrast)
            if len(self.model.encode(prompt)) <= self.model.context - RESERVED:
                break
        return prompt

    def _told(self, facts: Sequence[Fact]) -> str:
        """The facts as lines of context."""
        lines = []
        for fact in facts:
            short = pointer(fact.subject, fact.target_new) if self.brief else ""
            lines.append(short + new_fact(fact.statement) + short)
        return "".join(lines)
