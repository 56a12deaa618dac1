"""Context prefixes: beginnings that keys and values are averaged over, so that an edit holds in the middle of a text.

Made once a model, with a fixed seed, from the model's own continuations of common words (Meng et al. 2022).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import torch

from hybrid.statistics import statistics_folder

if TYPE_CHECKING:
    from hybrid.model import LanguageModel

BEGINNINGS = ("The", "Therefore", "Because", "I", "You")


@torch.inference_mode()
def generate_prefixes(model: LanguageModel, count: int = 5, length: int = 10, top: int = 5, seed: int = 0) -> list[str]:
    """`count` texts that end with ". ", of `length` tokens each, sampled among the `top` likeliest tokens.

    Deterministic for a model and a seed: random numbers come from a generator on the processor.
    """
    generator = torch.Generator().manual_seed(seed)
    prefixes = []
    for number in range(count):
        ids = list(model.tokenizer(BEGINNINGS[number % len(BEGINNINGS)])["input_ids"])
        end = model.tokenizer.eos_token_id
        for _ in range(length):
            scores = model.model(input_ids=torch.tensor([ids], device=model.model.device)).logits[0, -1].float().cpu()
            if end is not None:
                scores[end] = -torch.inf
            best = scores.topk(min(top, len(scores)))
            ids.append(int(best.indices[torch.multinomial(best.values.softmax(-1), 1, generator=generator)]))
        text = " ".join(model.tokenizer.decode(ids, skip_special_tokens=True).replace("{", " ").replace("}", " ").split())
        prefixes.append(text.rstrip(".?! ") + ". ")
    return prefixes


def context_prefixes(model: LanguageModel, count: int = 5) -> list[str]:
    """The model's prefixes, the empty one first; generated at the first call and kept beside its statistics."""
    if count == 0:
        return [""]
    path = statistics_folder(model.identity.weights_hash) / f"prefixes-{count}.json"
    if path.exists():
        return ["", *json.loads(path.read_text(encoding="utf-8"))]
    made = generate_prefixes(model, count)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(made, ensure_ascii=False), encoding="utf-8")
    partial.replace(path)
    return ["", *made]
