"""The model that reads: the one that ships, or any Hugging Face causal or sequence-to-sequence model by name or folder."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from hybrid.answer import Decision
from hybrid.counterfactual.spelling import spelt
from hybrid.model import LanguageModel, Prompt, Scorer
from hybrid.prompts import new_fact, query_text, told
from stores.errors import Corrupt, NotFound
from stores.records import Identity

SHIPPED = "shipped"
FOLDER = Path(__file__).parent / "weights"
MANIFEST = "counterfactual.json"


class CounterfactualModel(LanguageModel):
    """Answers a query from facts in its prompt. Generation is the language model's own: greedy, to a natural stop.

    Args:
        name: `shipped`, a Hugging Face name, or a folder. Encoder-decoder models read the prompt with their encoder.
    """

    def __init__(self, name: str = SHIPPED, device: str | None = None, dtype: str | None = None):
        super().__init__(name, device, "float32" if name == SHIPPED else dtype)

    @cached_property
    def folder(self) -> Path:
        """Where the model's files lie."""
        return FOLDER if self.name == SHIPPED else super().folder

    @cached_property
    def identity(self) -> Identity:
        """Name, revision and a hash over all weight files.

        Raises:
            NotFound: if there are no safetensors files.
            Corrupt: if the shipped files do not match their manifest.
        """
        found = super().identity
        if self.name != SHIPPED:
            return found
        known = json.loads((self.folder / MANIFEST).read_text(encoding="utf-8"))["weights_hash"]
        if known != found.weights_hash:
            raise Corrupt(f"the counterfactual model's weights in {self.folder} do not match their manifest; reinstall hybrid-memory")
        return Identity(SHIPPED, "shipped", found.weights_hash)

    @cached_property
    def encodes(self) -> bool:
        """Whether the model is an encoder with a decoder, as its configuration says.

        Raises:
            NotFound: if there is no configuration.
        """
        try:
            return bool(json.loads((self.folder / "config.json").read_text(encoding="utf-8")).get("is_encoder_decoder"))
        except (OSError, ValueError) as error:
            raise NotFound(f"{self.name!r} has no config.json that can be read: {error}") from error

    @property
    def auto(self) -> str:
        """The class of transformers that loads it."""
        return "AutoModelForSeq2SeqLM" if self.encodes else super().auto

    @property
    def context(self) -> int:
        """How many tokens the model can take in; with an encoder the answer takes no room of the prompt."""
        return 1 << 30 if self.encodes else super().context

    def scorer(self, ids: list[int]) -> Scorer:
        """Next-token scores behind a prompt."""
        return _Decoder(self.model, ids) if self.encodes else super().scorer(ids)

    @torch.inference_mode()
    def target_scores(self, text: str, target: str) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Of an encoder-decoder: log probabilities (n, vocabulary) at the target's n tokens, and the tokens; None if it has none."""
        ids = list(self.tokenizer(target, add_special_tokens=False)["input_ids"])
        if not ids:
            return None
        decoder = _Decoder(self.model, self.encode(Prompt(text)))
        tokens = torch.tensor([ids], device=self.model.device)
        out = self.model(encoder_outputs=decoder.encoded, decoder_input_ids=torch.cat([decoder.tokens, tokens[:, :-1]], dim=1))
        return out.logits[0, -len(ids) :].float().log_softmax(-1), tokens[0]

    def complete_all(self, prompts: Any, max_new_tokens: int = 48, batch: int = 64) -> list[str]:
        """Answers to many prompts; those of an encoder-decoder one by one."""
        return [self.complete(prompt, max_new_tokens) for prompt in prompts] if self.encodes else super().complete_all(prompts, max_new_tokens, batch)


class _Decoder(Scorer):
    """Next-token scores of a growing sequence that an encoder-decoder writes about a prompt."""

    def __init__(self, model: Any, ids: list[int]):
        self.model, self.cache = model, None
        self.encoded = model.get_encoder()(input_ids=torch.tensor([ids], device=model.device))
        first = [getattr(model.generation_config, name, None) for name in ("decoder_start_token_id", "forced_bos_token_id")]
        self.tokens = torch.tensor([[token for token in first if token is not None]], device=model.device)

    def next(self) -> torch.Tensor:
        """Logits of the next token, (vocabulary,)."""
        out = self.model(encoder_outputs=self.encoded, decoder_input_ids=self.tokens, past_key_values=self.cache, use_cache=True)
        self.cache = out.past_key_values
        logits: torch.Tensor = out.logits[0, -1]
        return logits


class Reader:
    """Turns a query and the facts that govern it into the prompt that the counterfactual model completes: nothing else is in it.

    Args:
        most: facts that are read, the best ones; by default 1 for the shipped model, as in SERAC, since it tells several apart badly
            (bench/results/counterfactual.json), and all for others.
    """

    def __init__(self, model: CounterfactualModel, most: int | None = None):
        self.model, self.most = model, most or (1 if model.name == SHIPPED else None)

    @property
    def copies(self) -> bool:
        """Whether its answers are copies of values, to be put right where they are garbled: the shipped model has learnt nothing else."""
        return self.model.name == SHIPPED

    def put_right(self, text: str, decision: Decision) -> str:
        """An answer as the facts that were read spell it; where a rule bears on the answer, it stays as it is."""
        facts = [hit.fact for hit in decision.governing[: self.most]]
        return text if decision.rules or not self.copies else spelt(text, [f.target_new for f in facts], [f.subject for f in facts])

    def prompt(self, query: str, decision: Decision) -> Prompt:
        """The facts, the best one last, then the query; the shipped model is told facts in the form that it was trained on."""
        chat = self.model.is_chat
        facts = [hit.fact for hit in reversed(decision.governing[: self.most])]
        lines = [told(f.statement, f.subject, f.target_new) if self.model.name == SHIPPED else new_fact(f.statement) for f in facts]
        return Prompt("".join(lines) + (query.strip() if chat else query_text(query)), chat)
