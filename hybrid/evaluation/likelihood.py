"""Probabilities of given answers, and long sampled texts, under a prompt as the model decodes it (context-aware decoding included)."""

from __future__ import annotations

import torch
from torch import Tensor

from hybrid.adapters.prompts import prompts_end
from hybrid.counterfactual.model import CounterfactualModel
from hybrid.model import LanguageModel, Prompt


@torch.inference_mode()
def mean_nll(model: LanguageModel, prompt: Prompt, target: str) -> float:
    """Mean negative log likelihood a token of `target` behind the prompt, in nats; infinite if there is no room for it.

    With contrasted contexts it is that of the distribution which tokens are chosen from, without its plausibility mask.
    """
    scores = _target_scores(model, prompt.text, prompt.chat, target)
    if scores is None:
        return float("inf")
    given, ids = scores
    if prompt.without is not None and prompt.contrast > 0:
        alone = _target_scores(model, prompt.without, prompt.chat, target)
        if alone is not None and alone[1].tolist() == ids.tolist():
            given = ((1 + prompt.contrast) * given - prompt.contrast * alone[0]).log_softmax(-1)
    return float(-given.gather(1, ids[:, None]).mean())


def _target_scores(model: LanguageModel, text: str, chat: bool, target: str) -> tuple[Tensor, Tensor] | None:
    """Log probabilities (n, vocabulary) at the target's n tokens, and the tokens."""
    if isinstance(model, CounterfactualModel) and model.encodes:
        return model.target_scores(text, target)
    before = model.encode(Prompt(text, chat))
    if chat:
        ids = before + list(model.tokenizer(target, add_special_tokens=False)["input_ids"])
    else:  # as one text, so that a token that carries its leading space is the one that the model would say
        ids = model.encode(Prompt(f"{text} {target}"))
        special = set(model.tokenizer.all_special_ids)
        before, ids = _without_end(before, special), _without_end(ids, special)
        if ids[: len(before)] != before:
            shared = next((i for i, (a, b) in enumerate(zip(ids, before, strict=False)) if a != b), min(len(ids), len(before)))
            before = before[:shared]
    if not before or len(ids) <= len(before) or len(ids) > model.context:
        return None
    tokens = torch.tensor([ids], device=model.model.device)
    with prompts_end(torch.tensor([len(before) - 1])):
        logits = model.model(input_ids=tokens, logits_to_keep=len(ids) - len(before) + 1).logits[0, :-1]
    return logits.float().log_softmax(-1), tokens[0, len(before) :]


def _without_end(ids: list[int], special: set[int]) -> list[int]:
    """Tokens less the special ones that a tokenizer appends."""
    last = len(ids)
    while last > 1 and ids[last - 1] in special:
        last -= 1
    return ids[:last]


@torch.inference_mode()
def sample(model: LanguageModel, prompt: Prompt, tokens: int, seed: int, top: int = 5) -> str:
    """A text of so many tokens (or up to the end token) behind the prompt, drawn from the `top` best at each step, as the ROME paper measures fluency."""
    ids = model.encode(prompt)
    room = min(tokens, model.context - len(ids))
    generator = torch.Generator().manual_seed(seed)
    scorer, said = model.scorer(ids), list[int]()
    for _ in range(max(0, room)):
        best = scorer.next().float().cpu().topk(top)
        token = int(best.indices[torch.multinomial(best.values.softmax(-1), 1, generator=generator)])
        if token == model.tokenizer.eos_token_id:
            break
        said.append(token)
        scorer.take(token)
    return str(model.tokenizer.decode(said, skip_special_tokens=True))
