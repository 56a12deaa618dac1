"""Activation steering: a direction in the residual stream, added to one block's output while the model answers.

The direction comes from contrasting examples: the difference of the means (Turner et al. 2023, arXiv:2308.10248; Rimsky et al.
2024, arXiv:2312.06681) or the first principal component of the differences (Zou et al. 2023, arXiv:2310.01405). Half of the
examples make it; on the other half the block, the method and the strength are chosen. Weights are not touched.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from hybrid.architecture import Architecture, captured, changed_output
from hybrid.consolidation.checks import prose
from hybrid.consolidation.verify import perplexity
from hybrid.formats import rows
from hybrid.model import LanguageModel
from stores.errors import BadRequest, Conflict, Corrupt, FormatError, NotFound
from stores.records import Identity

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


@dataclass(frozen=True, kw_only=True)
class Steering:
    """A vector (d,) float32 for one block's output, and how it was chosen."""

    vector: Tensor
    layer: int
    strength: float
    method: str
    onward: bool
    """Whether new tokens are steered, too, or the end of the prompt alone. A direction between prompts says what to answer; once the
    answer has begun it would begin it again. One between completions is made of their tokens and goes with them."""
    model: Identity
    about: dict[str, Any]
    """Counts of examples, held-out score before and after, perplexity drift on other text."""

    def save(self, folder: Path) -> str:
        """Write vector and manifest; returns the vector's SHA-256, which the ledger keeps.

        Raises:
            Conflict: if there is one already.
        """
        if (folder / "manifest.json").exists():
            raise Conflict(f"{folder} holds a steering vector already; `hybrid steer remove {folder.name}` first, or choose another --name")
        folder.mkdir(parents=True, exist_ok=True)
        raw = save({"vector": self.vector.contiguous()})
        (folder / "vector.safetensors").write_bytes(raw)
        manifest = {name: getattr(self, name) for name in ("layer", "strength", "method", "onward", "about")} | {"model": asdict(self.model)}
        manifest["sha256"] = hashlib.sha256(raw).hexdigest()
        partial = folder / "manifest.json.partial"
        partial.write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        partial.replace(folder / "manifest.json")
        return str(manifest["sha256"])

    @classmethod
    def load(cls, folder: Path, sha256: str) -> Steering:
        """Read a vector whose hash the ledger knows.

        Raises:
            NotFound, Corrupt: if the files are gone, or are others.
        """
        again = f"`hybrid steer remove {folder.name}`, then make it again"
        try:
            raw, manifest = (folder / "vector.safetensors").read_bytes(), json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise NotFound(f"{folder} holds no steering vector any more ({error}); {again}") from error
        except ValueError as error:
            raise Corrupt(f"{folder / 'manifest.json'} is not JSON ({error}); {again}") from error
        if not hashlib.sha256(raw).hexdigest() == sha256 == manifest.get("sha256"):
            raise Corrupt(f"the steering vector in {folder} is not the one that the ledger knows; {again}")
        about = {name: manifest[name] for name in ("layer", "strength", "method", "onward", "about")}
        return cls(vector=load(raw)["vector"], model=Identity(**manifest["model"]), **about)

    def held_to(self, model: LanguageModel, name: str) -> Steering:
        """Itself, if it belongs to the model.

        Raises:
            Conflict: if not.
        """
        if self.model.weights_hash != model.identity.weights_hash:
            raise Conflict(f"the steering vector {name!r} was made for {self.model}, and this model is {model.identity}; `hybrid steer detach {name}`")
        return self


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


# -- applying ------------------------------------------------------------------------------------


@contextmanager
def steered(model: LanguageModel, layer: int, change: Tensor, start: Tensor | None = None, onward: bool = True) -> Iterator[None]:
    """Add a vector (d,) to a block's output from a place on, while the context lasts; afterwards the model is what it was, to the bit.

    Args:
        start: first changed place of each row (n,); by default the last place of what is read at once, which is the end of the
            prompt and then each new token.
        onward: also where one token alone is read, as new ones are; without it the end of the prompt is changed and no more.
    """
    block = Architecture(model.model).part(layer, "block")

    def add(hidden: Tensor) -> Tensor:
        if not onward and hidden.shape[1] == 1:
            return hidden
        places = torch.arange(hidden.shape[1], device=hidden.device)
        first = torch.full((hidden.shape[0],), hidden.shape[1] - 1) if start is None else start
        mask = places[None] >= first.to(hidden.device)[:, None]
        return torch.where(mask[..., None], hidden + change.to(hidden), hidden)

    with changed_output(block, add):
        yield


# -- making --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Texts:
    """Encoded rows of one side, right-padded; `first` is the last place of each prompt, `last` that of each row."""

    ids: Tensor
    first: Tensor
    last: Tensor


def _encode(model: LanguageModel, pairs: Sequence[Pair], side: str) -> _Texts:
    from hybrid.model import Prompt

    ids, firsts = [], []
    for pair in pairs:
        head = model.encode(Prompt(pair.prompt or getattr(pair, side), model.is_chat))
        tail = model.tokenizer(" " + getattr(pair, side).strip(), add_special_tokens=False)["input_ids"] if pair.completes else []
        if len(head) + len(tail) > model.context:
            raise BadRequest(f"an example has {len(head) + len(tail)} tokens and {model.name} reads {model.context}: {getattr(pair, side)[:60]!r}; shorten it")
        ids.append([*head, *tail])
        firsts.append(len(head) - 1)
    longest = max(map(len, ids))
    device = model.model.device
    padded = torch.tensor([row + [row[-1]] * (longest - len(row)) for row in ids], device=device)  # what comes after a row bears on nothing in it
    return _Texts(padded, torch.tensor(firsts, device=device), torch.tensor([len(row) - 1 for row in ids], device=device))


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
