"""Steering directions from contrasting examples, and the choice of block, method and strength.

The difference of the means (Turner et al. 2023, arXiv:2308.10248; Rimsky et al. 2024, arXiv:2312.06681) or the first principal
component of the differences (Zou et al. 2023, arXiv:2310.01405). Half of the examples make it; the other half is what the choice
is made on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hybrid.architecture import Architecture, captured
from hybrid.consolidation.checks import prose
from hybrid.consolidation.verify import perplexity
from hybrid.formats import rows
from hybrid.model import LanguageModel, Prompt
from hybrid.steering import Steering, steered
from stores.errors import BadRequest, FormatError

METHODS = ("mean", "pca")
STRENGTHS = (0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0)
"""Multiples of the mean distance between the two sides, along the direction."""
CLOSE = 0.02
"""Of several choices within this of the best score, the one that disturbs other text least is taken."""


@dataclass(frozen=True)
class Pair:
    """One example. Without a `prompt` both sides are prompts: asked `negative`, the model shall answer as asked `positive`.

    With one both sides are completions of it: the model shall prefer `positive`.
    """

    positive: str
    negative: str
    prompt: str = ""

    @property
    def completes(self) -> bool:
        """Whether the sides are completions."""
        return bool(self.prompt)


def read_pairs(text: str, kind: str) -> list[Pair]:
    """Examples from JSON lines, a JSON list, CSV or TSV with `positive`, `negative` and perhaps `prompt`.

    Raises:
        FormatError: naming the record.
    """
    found = []
    for number, row in enumerate(rows(text, kind), start=1):
        given = {name: row.get(name) or "" for name in ("positive", "negative", "prompt")} if isinstance(row, dict) else {}
        if not given or not all(isinstance(value, str) for value in given.values()) or not given["positive"].strip() or not given["negative"].strip():
            raise FormatError(
                f"record {number}: an example needs the texts 'positive' and 'negative' (and perhaps 'prompt', which both complete); found {row!r}"
            )
        if given["positive"] == given["negative"]:
            raise FormatError(f"record {number}: both sides are {given['positive']!r}; nothing can be told apart")
        found.append(Pair(**given))
    return found


@dataclass(frozen=True)
class _Texts:
    """Encoded rows of one side, right-padded; `first` is the last place of each prompt, `last` that of each row."""

    ids: Tensor
    first: Tensor
    last: Tensor


def _encode(model: LanguageModel, pairs: Sequence[Pair], side: str) -> _Texts:
    ids, firsts = [], []
    for pair in pairs:
        head = model.encode(Prompt(pair.prompt or getattr(pair, side), model.is_chat))
        tail = _completion(model, pair, head, getattr(pair, side).strip()) if pair.completes else []
        if len(head) + len(tail) > model.context:
            raise BadRequest(f"an example has {len(head) + len(tail)} tokens and {model.name} reads {model.context}: {getattr(pair, side)[:60]!r}; shorten it")
        ids.append([*head, *tail])
        firsts.append(len(head) - 1)
    longest = max(map(len, ids))
    device = model.model.device
    padded = torch.tensor([row + [row[-1]] * (longest - len(row)) for row in ids], device=device)  # what comes after a row bears on nothing in it
    return _Texts(padded, torch.tensor(firsts, device=device), torch.tensor([len(row) - 1 for row in ids], device=device))


def _completion(model: LanguageModel, pair: Pair, head: list[int], text: str) -> list[int]:
    """Tokens of a completion as the model would say it: where plain text is tokenized as one, a leading space goes with its word."""
    if not model.is_chat:
        whole = model.encode(Prompt(f"{pair.prompt} {text}"))
        if whole[: len(head)] == head and len(whole) > len(head):
            return whole[len(head) :]
    return list(model.tokenizer(text if model.is_chat else f" {text}", add_special_tokens=False)["input_ids"])


def _states(model: LanguageModel, texts: _Texts, layers: Sequence[int]) -> Tensor:
    """What blocks give at the end of a prompt, or on average over its completion: (layers, n, d) float32."""
    arch = Architecture(model.model)
    with captured({str(layer): arch.part(layer, "block") for layer in layers}) as found:
        model.model(input_ids=texts.ids, use_cache=False)
    places = torch.arange(texts.ids.shape[1], device=texts.ids.device)[None]
    completion = (places > texts.first[:, None]) & (places <= texts.last[:, None])
    mask = torch.where(completion.any(1, keepdim=True), completion, places == texts.last[:, None]).float()[..., None]
    return torch.stack([(found[str(layer)].float() * mask).sum(1) / mask.sum(1) for layer in layers])


def direction(positive: Tensor, negative: Tensor, method: str) -> Tensor:
    """The vector from negative to positive states (n, d) each; its length is the mean distance along it.

    `mean`: the difference of the means. `pca`: the first principal component of the paired differences, with their sign.
    """
    apart = positive - negative
    if method == "mean":
        return apart.mean(0)
    axis: Tensor = torch.linalg.svd(apart.double(), full_matrices=False)[2][0].to(apart.dtype)
    return axis * (apart @ axis).mean()


def _log_likelihood(logits: Tensor, texts: _Texts) -> Tensor:
    """Of each row's completion, (n,)."""
    each = logits[:, :-1].float().log_softmax(-1).gather(-1, texts.ids[:, 1:, None]).squeeze(-1)
    places = torch.arange(each.shape[1], device=each.device)[None]
    return (each * ((places >= texts.first[:, None]) & (places < texts.last[:, None]))).sum(1)


class _Judge:
    """Scores a steered model on held-out examples, 0 to 1."""

    @torch.inference_mode()
    def __init__(self, model: LanguageModel, pairs: Sequence[Pair]):
        self.model, self.completes = model, pairs[0].completes
        self.positive, self.negative = (_encode(model, pairs, side) for side in ("positive", "negative"))
        self.wanted = self._next(self.positive)

    def _next(self, texts: _Texts) -> Tensor:
        logits = self.model.model(input_ids=texts.ids, use_cache=False).logits
        at = texts.last.clamp(max=logits.shape[1] - 1)
        found: Tensor = logits[torch.arange(len(at), device=at.device), at].float().log_softmax(-1)
        return found

    @torch.inference_mode()
    def score(self, layer: int, change: Tensor) -> float:
        """Prompts: exp(-KL) between what the positive prompt is answered and what the steered negative one is, on average.

        Completions: the mean probability of the positive one, where there are only the two.
        """
        if not self.completes:
            with steered(self.model, layer, change, self.negative.last):
                got = self._next(self.negative)
            return float((-(self.wanted.exp() * (self.wanted - got)).sum(-1)).exp().mean())
        found = []
        for texts in (self.positive, self.negative):
            with steered(self.model, layer, change, texts.first):
                found.append(_log_likelihood(self.model.model(input_ids=texts.ids, use_cache=False).logits, texts))
        return float((found[0] - found[1]).sigmoid().mean())


@torch.inference_mode()
def make(
    model: LanguageModel, pairs: Sequence[Pair], *, methods: Sequence[str] = METHODS, layers: Sequence[int] = (), strengths: Sequence[float] = STRENGTHS
) -> Steering:
    """Make a steering vector from at least eight examples; every other one is held out to choose by.

    Args:
        methods, layers, strengths: what is tried; all blocks if `layers` is empty.
    Raises:
        BadRequest: if there are too few examples, they are of two kinds, nothing is to be tried, or nothing helps.
    """
    if len(pairs) < 8:
        raise BadRequest(f"{len(pairs)} examples are too few: half of them are held out to choose layer and strength; give at least 8")
    if len({pair.completes for pair in pairs}) > 1:
        raise BadRequest("some examples have a 'prompt' and others have none; give one kind")
    arch = Architecture(model.model)
    layers = tuple(layers) or tuple(range(len(arch)))
    try:
        arch.check_layers(layers)
    except ValueError as error:
        raise BadRequest(str(error)) from error
    if not methods or not strengths or set(methods) - set(METHODS):
        raise BadRequest(f"choose methods among {', '.join(METHODS)} and at least one strength")
    training, held = pairs[0::2], pairs[1::2]
    sides = [_states(model, _encode(model, training, side), layers) for side in ("positive", "negative")]
    judge, texts = _Judge(model, held), list(prose())
    tried = []
    for at, layer in enumerate(layers):
        for method in methods:
            vector = direction(sides[0][at], sides[1][at], method)
            tried += [(judge.score(layer, strength * vector), layer, method, strength, vector) for strength in strengths]
    best = max(score for score, *_ in tried)
    if not np.isfinite(best):
        raise BadRequest("the model gives no finite scores under any strength; try smaller ones with --strength")
    before = judge.score(layers[0], torch.zeros_like(tried[0][-1]))
    if best <= before:
        raise BadRequest(
            f"no choice does better on the held-out examples than no steering ({best:.3f}, {before:.3f} without); give more examples, or clearer ones"
        )
    calm = perplexity(model, texts)
    finalists = []
    for candidate in [each for each in tried if each[0] >= best - CLOSE]:
        with steered(model, candidate[1], candidate[3] * candidate[4], torch.zeros(1, dtype=torch.long)):
            finalists.append((abs(perplexity(model, texts) / calm - 1), *candidate))
    drift, score, layer, method, strength, vector = min(finalists, key=lambda each: (each[0], each[2], each[4]))
    about = {
        "examples": len(training), "held_out": len(held), "score_before": round(before, 4), "score": round(score, 4), "perplexity_drift": round(drift, 4),
        "norm": round(float(vector.norm()), 4), "tried": len(tried),
    }  # fmt: skip
    return Steering(vector=vector.float().cpu(), layer=layer, strength=strength, method=method, onward=judge.completes, model=model.identity, about=about)
