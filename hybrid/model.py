"""A causal language model: loading, identity, greedy generation with a natural stop.

`pocket` is the model that ships; any Hugging Face name or folder can be given instead. Weights are read from
safetensors only, and no code that comes with a model is run.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from hybrid.embedder import file_hash
from hybrid.loading import quiet
from stores.errors import Corrupt, HybridError, NotFound
from stores.records import Identity

POCKET = "pocket"
POCKET_FOLDER = Path(__file__).parent / "pocket" / "weights"
SENTENCE_END = re.compile(r"(?<=[\w)\]\"'’”]{2})(?<!\b(?:St|Dr|Mr|Mt|Ft))(?<!\bMrs)[.!?][\"'’”)]?\s")
"""Not after a single letter or a title: "J. S. Bach", "St. George's"."""


PLAUSIBLE = 5.0
"""Nats below the best token within which a token stays eligible when contexts are contrasted."""


@dataclass(frozen=True)
class Prompt:
    """What a model is asked: plain text to complete, or one user message for a chat model.

    With `without` (the same prompt less its context) and a `contrast` above zero, tokens are chosen by context-aware
    decoding (Shi et al. 2023, arXiv:2305.14739): (1 + contrast) log p(with) - contrast log p(without).
    """

    text: str
    chat: bool = False
    without: str | None = None
    contrast: float = 0.0


class LanguageModel:
    """A causal language model by name; weights are loaded when they are first needed."""

    def __init__(self, name: str = POCKET, device: str | None = None, dtype: str | None = None):
        self.name, self.device, self.dtype = name, device, dtype

    @cached_property
    def folder(self) -> Path:
        """Where the model's files lie; a hub name is resolved through the local cache, or downloaded.

        Raises:
            NotFound: if there is no such model.
        """
        if self.name == POCKET:
            return POCKET_FOLDER
        if Path(self.name).is_dir():
            return Path(self.name)
        from huggingface_hub import snapshot_download

        try:
            return Path(snapshot_download(self.name, allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]))
        except Exception as error:  # the hub client raises many kinds
            raise NotFound(f"no model {self.name!r}: neither a folder nor a name that could be downloaded ({type(error).__name__}: {error})") from error

    @cached_property
    def identity(self) -> Identity:
        """Name, revision and a hash over all weight files.

        Raises:
            NotFound: if there are no safetensors files.
            Corrupt: if pocket's files do not match its manifest.
        """
        files = sorted(self.folder.glob("*.safetensors"))
        if not files:
            raise NotFound(f"{self.folder} holds no safetensors weights; convert the model with `save_pretrained` (other formats are not loaded)")
        hashes = {file.name: file_hash(file) for file in files}
        manifest = self.folder / "pocket.json"
        if self.name == POCKET and json.loads(manifest.read_text(encoding="utf-8"))["files"] != hashes:
            raise Corrupt(f"pocket's weights in {self.folder} do not match their manifest; reinstall hybrid-memory")
        total = hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()
        revision = "shipped" if self.name == POCKET else self.folder.name if self.folder.parent.name == "snapshots" else "local"
        return Identity(self.name, revision, total)

    @property
    def auto(self) -> str:
        """The class of transformers that loads the weights."""
        return "AutoModelForCausalLM"

    @cached_property
    def model(self) -> Any:
        """The transformers model, in evaluation mode."""
        import transformers

        _ = self.identity
        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            dtype: Any = getattr(torch, self.dtype) if self.dtype else torch.float32 if self.name == POCKET else "auto"
            with quiet():
                loaded = getattr(transformers, self.auto).from_pretrained(self.folder, dtype=dtype, use_safetensors=True, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise NotFound(f"{self.name!r} cannot be loaded as a language model ({self.auto}): {error}") from error
        return loaded.to(device).eval()

    @cached_property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        from transformers import AutoTokenizer

        try:
            return AutoTokenizer.from_pretrained(self.folder, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise NotFound(f"{self.name!r} has no tokenizer that can be loaded: {error}") from error

    @property
    def is_chat(self) -> bool:
        """Whether the model wants its chat template."""
        return bool(getattr(self.tokenizer, "chat_template", None))

    @property
    def context(self) -> int:
        """How many tokens the model can take in."""
        return getattr(self.model.config, "max_position_embeddings", None) or 1 << 30

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids. Text is data: a special token's name in it does not become that token."""
        text = prompt.text
        for special in sorted(self.tokenizer.all_special_tokens, key=len, reverse=True):
            text = text.replace(special, special[0] + "\u200b" + special[1:] if len(special) > 1 else special)
        if not prompt.chat:
            return list(self.tokenizer(text)["input_ids"])
        rendered = self.tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True, tokenize=True, return_dict=True)
        return list(rendered["input_ids"])

    def scorer(self, ids: list[int]) -> Scorer:
        """Next-token scores behind a prompt."""
        return Scorer(self.model, ids)

    def inputs(self, prompt: Prompt, max_new_tokens: int) -> tuple[list[list[int]], int]:
        """Token ids of a prompt, and of the one without facts if it is weighed against that; and how many tokens there is room for.

        Raises:
            HybridError: if the prompt leaves no room in the model's context.
        """
        inputs = [self.encode(prompt)]
        room = min(max_new_tokens, self.context - len(inputs[0]))
        if room < 1:
            raise HybridError(f"the prompt has {len(inputs[0])} tokens and {self.name} reads {self.context}; ask something shorter")
        if prompt.without is not None and prompt.contrast > 0:
            inputs.append(self.encode(Prompt(prompt.without, prompt.chat)))
        return inputs, room

    @torch.inference_mode()
    def stream(self, prompt: Prompt, max_new_tokens: int = 48) -> Iterator[str]:
        """Greedy text, piece by piece, to a natural stop: the end token, a line's end, or (plain text) a sentence's end.

        Raises:
            HybridError: if the prompt leaves no room in the model's context.
        """
        inputs, room = self.inputs(prompt, max_new_tokens)
        ends = _end_tokens(self.model, self.tokenizer)
        scorers = [self.scorer(ids) for ids in inputs]
        said = ""
        new: list[int] = []
        for _ in range(room):
            token = _choose([scorer.next() for scorer in scorers], prompt.contrast)
            if token in ends:
                break
            new.append(token)
            for scorer in scorers:
                scorer.take(token)
            text = self.tokenizer.decode(new, skip_special_tokens=True)
            if text.endswith("\ufffd"):  # in the middle of a character
                continue
            cut, done = _natural_stop(text, prompt.chat)
            if len(cut) > len(said):
                yield cut[len(said) :]
                said = cut
            if done:
                return
        yield _natural_stop(self.tokenizer.decode(new, skip_special_tokens=True), prompt.chat)[0][len(said) :]

    def complete(self, prompt: Prompt, max_new_tokens: int = 48) -> str:
        """`stream`, in one piece, without surrounding space."""
        return "".join(self.stream(prompt, max_new_tokens)).strip()

    @torch.inference_mode()
    def complete_all(self, prompts: Sequence[Prompt], max_new_tokens: int = 48, batch: int = 64) -> list[str]:
        """`complete` for many prompts. Prompts of equal length run together, so no padding bears on an answer; contrasted ones run alone.

        Raises:
            HybridError: if a prompt leaves no room in the model's context.
        """
        said, groups = [""] * len(prompts), defaultdict[int, list[tuple[int, list[int]]]](list)
        for number, prompt in enumerate(prompts):
            ids = self.encode(prompt)
            if prompt.contrast > 0 or len(ids) >= self.context:
                said[number] = self.complete(prompt, max_new_tokens)
            else:
                groups[len(ids)].append((number, ids))
        for length, rows in groups.items():
            for start in range(0, len(rows), batch):
                part = rows[start : start + batch]
                chats = [prompts[number].chat for number, _ in part]
                texts = self._together([ids for _, ids in part], chats, min(max_new_tokens, self.context - length))
                for (number, _), text in zip(part, texts, strict=True):
                    said[number] = text
        return said

    def _together(self, rows: list[list[int]], chats: list[bool], room: int) -> list[str]:
        """Greedy texts of rows of one length."""
        ends, new, texts = _end_tokens(self.model, self.tokenizer), [list[int]() for _ in rows], [""] * len(rows)
        tokens, cache, going = torch.tensor(rows, device=self.model.device), None, set(range(len(rows)))
        for _ in range(room):
            out = self.model(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache, best = out.past_key_values, out.logits[:, -1].argmax(-1)
            for row, token in enumerate(best.tolist()):
                if row in going:
                    done = token in ends
                    if not done:
                        new[row].append(token)
                        texts[row], done = _natural_stop(self.tokenizer.decode(new[row], skip_special_tokens=True), chats[row])
                    if done:
                        going.remove(row)
            if not going:
                break
            tokens = best[:, None]
        return [text.strip() for text in texts]


class Scorer:
    """Next-token scores of one growing sequence, with its cache."""

    def __init__(self, model: Any, ids: list[int]):
        self.model, self.cache = model, None
        self.tokens = torch.tensor([ids], device=model.device)

    def next(self) -> torch.Tensor:
        """Logits of the next token, (vocabulary,)."""
        out = self.model(input_ids=self.tokens, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
        self.cache = out.past_key_values
        logits: torch.Tensor = out.logits[0, -1]
        return logits

    def take(self, token: int) -> None:
        """Go on with a token."""
        self.tokens = torch.tensor([[token]], device=self.model.device)


def _choose(logits: list[torch.Tensor], contrast: float) -> int:
    """The greedy token, or the one that the context speaks for most."""
    if len(logits) == 1:
        return int(logits[0].argmax())
    given, alone = (each.float().log_softmax(-1) for each in logits)
    scores = (1 + contrast) * given - contrast * alone
    return int(scores.masked_fill(given < given.max() - PLAUSIBLE, -torch.inf).argmax())


def _end_tokens(model: Any, tokenizer: Any) -> set[int]:
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    several: Sequence[int] = configured if isinstance(configured, (list, tuple)) else [] if configured is None else [configured]
    return {*several, *([] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id])}


def _natural_stop(text: str, chat: bool) -> tuple[str, bool]:
    """The text up to its natural stop, and whether it has come."""
    if chat:
        return text, False
    body = text.lstrip()
    lead = len(text) - len(body)
    line = body.find("\n")
    sentence = SENTENCE_END.search(body)
    stops = [at for at in (line if line >= 0 else None, sentence.start() + 1 if sentence else None) if at is not None]
    return (text[: lead + min(stops)], True) if stops else (text, False)
