"""Who answers: the model alone, or the model with the governing facts in its context (IKE)."""

from __future__ import annotations

from hybrid.answer import Decision
from hybrid.demonstrations import Demonstrator
from hybrid.model import LanguageModel, Prompt
from hybrid.prompts import new_fact, query_text

RESERVED = 64
"""Tokens of the context that demonstrations leave to the answer."""


class Answerer:
    """Turns a query and a decision into the prompt that the model completes."""

    def __init__(self, model: LanguageModel, demonstrator: Demonstrator, contrast: float = 0.0):
        self.model, self.demonstrator, self.contrast = model, demonstrator, contrast

    def prompt(self, query: str, decision: Decision) -> Prompt:
        """The base route's prompt depends on the query alone, so its answer is that of the model without memory."""
        chat = self.model.is_chat
        asked = query.strip() if chat else query_text(query)
        if decision.route == "base":
            return Prompt(asked, chat)
        demonstrations = self.demonstrator.write(query, decision.governing, decision.candidates)
        facts = "".join(new_fact(hit.fact.statement) for hit in reversed(decision.governing))
        prompt = Prompt("".join(demonstrations) + facts + asked, chat, asked, self.contrast)
        while demonstrations and len(self.model.encode(prompt)) > self.model.context - RESERVED:
            demonstrations = demonstrations[1:]  # the farthest goes first
            prompt = Prompt("".join(demonstrations) + facts + asked, chat, asked, self.contrast)
        return prompt
