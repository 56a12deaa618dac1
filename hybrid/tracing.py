"""Causal tracing: which states, put back into a run whose subject was blurred, bring the answer back.

Meng et al. 2022 ("Locating and Editing Factual Associations in GPT", arXiv:2202.05262, section 2). All restorations of a
prompt share one clean run and the same noise, and run side by side as rows of a batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm

from hybrid.architecture import Architecture, captured, changed_output, frozen
from hybrid.editors.requests import Passage, passage
from hybrid.prompts import query_text
from stores.errors import BadRequest, HybridError, UnsupportedModel
from stores.records import Fact

if TYPE_CHECKING:
    from hybrid.model import LanguageModel

KINDS = ("block", "mlp", "attention")


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What each restored state does to the probability of the first token of the model's own greedy answer."""

    tokens: list[str]
    subject_range: tuple[int, int]
    """First token of the subject, and one past its last."""
    answer: str
    high: float
    """Probability of the answer in the clean run."""
    low: float
    """The same with a blurred subject, mean over samples."""
    scores: dict[str, list[list[float]]]
    """The same with restored states: "block", "mlp" and "attention", each [tokens][layers]."""
    settings: dict[str, float]
    """The arguments; `deviation` is what `noise` multiplies."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {**asdict(self), "subject_range": list(self.subject_range)}

    def plot(self, path: str | Path) -> None:
        """Draw the scores as three heat maps (tokens down, layers across), each with its own scale, into a PNG file.

        Raises:
            HybridError: if matplotlib is not installed.
        """
        try:
            from matplotlib.figure import Figure
            from matplotlib.ticker import MaxNLocator
        except ImportError as error:
            raise HybridError("drawing a trace needs matplotlib; pip install matplotlib") from error
        first, end = self.subject_range
        labels = [repr(token)[1:-1] + "*" * (first <= i < end) for i, token in enumerate(self.tokens)]
        figure = Figure(figsize=(15, 1.8 + 0.28 * len(labels)), layout="constrained")
        figure.suptitle(f"{self.answer!r}: probability {self.high:.3g} clean, {self.low:.3g} with the subject (*) blurred", parse_math=False)
        for axes, kind in zip(figure.subplots(1, len(KINDS)), KINDS, strict=True):
            axes.set_title("block output restored" if kind == "block" else f"{kind} outputs restored, window {self.settings['window']}")
            axes.set_xlabel("layer" if kind == "block" else "centre of the window of layers")
            axes.set_yticks(range(len(labels)), labels, parse_math=False)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            figure.colorbar(axes.imshow(self.scores[kind], aspect="auto", interpolation="nearest"), ax=axes, label="probability")
        with warnings.catch_warnings():  # tokens in alphabets that the font lacks
            warnings.filterwarnings("ignore", message="Glyph")
            figure.savefig(path, format="png", dpi=120)


@dataclass(frozen=True, kw_only=True)
class Located:
    """The layers to edit, and the evidence for them."""

    layers: tuple[int, ...]
    effect: list[float]
    """For each layer, the mean gain in probability from MLP outputs restored around it at the subject's last token."""
    known: int
    """Facts that the model answers, over which the mean goes."""
    asked: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {**asdict(self), "layers": list(self.layers)}


def trace(
    model: LanguageModel, prompt: str, subject: str, *, samples: int = 10, noise: float = 3.0, window: int | None = None, seed: int = 0, batch: int = 64
) -> Trace:
    """Trace where a model finds its answer to a prompt.

    Args:
        prompt: text that holds the subject (its first occurrence is meant), or a template with `{}`. A question goes in
            question-and-answer form.
        samples: noise draws over which probabilities are averaged.
        noise: standard deviation of the noise on the subject's embeddings, as a multiple of `deviation`.
        window: layers whose MLP or attention outputs are restored together, cut off at the model's ends; if None, the
            paper's 10, and a fifth of the layers in models with fewer than 20.
        seed: of the noise, which is drawn on the CPU.
        batch: rows (a restoration with a noise draw) that run at once; it changes nothing but rounding.
    Raises:
        BadRequest: if the subject is not in the prompt, or the prompt is too long for the model.
        UnsupportedModel: if the model's parts cannot be found.
        ValueError: if a setting is out of range.
    """
    if min(samples, batch, 1 if window is None else window) < 1 or noise < 0:
        raise ValueError(f"samples, window and batch must be at least 1, noise not negative: {samples}, {window}, {batch}, {noise}")
    arch = Architecture(model.model)
    depth, sigma = len(arch), deviation(arch)
    width, scores = min(depth, window or _window(depth)), {}
    with frozen(arch.model):
        run = _Run(model, arch, prompt, subject, samples, noise * sigma, seed)
        low = run.probabilities("block", [(0, range(0))], batch)[0]
        for kind in KINDS:
            layers = _around(depth, 1 if kind == "block" else width)
            flat = run.probabilities(kind, [(token, each) for token in range(len(run.passage.ids)) for each in layers], batch, f"trace {kind}")
            scores[kind] = [flat[start : start + depth] for start in range(0, len(flat), depth)]
    tokens = [model.tokenizer.decode([token]) for token in run.passage.ids]
    subject_range, answer = (run.first, run.passage.lookup + 1), model.tokenizer.decode([run.answer])
    settings = {"samples": samples, "noise": noise, "deviation": sigma, "window": width, "seed": seed, "batch": batch}
    return Trace(tokens=tokens, subject_range=subject_range, answer=answer, high=run.high, low=low, scores=scores, settings=settings)


def locate(model: LanguageModel, facts: Sequence[Fact], *, count: int = 3, samples: int = 4, seed: int = 0) -> Located:
    """Choose the layers to edit: those that end where restored MLP outputs help known facts most.

    As MEMIT takes a range of layers that ends where MLPs matter (Meng et al. 2023, arXiv:2210.07229). A fact is known if
    the greedy first token is that of its `target_new`. The last block is not chosen: no block above it could read the edit.

    Args:
        facts: all are asked, so give a sample; the noise of the n-th (from 0) has seed `seed` + n.
        count: consecutive layers; fewer if the peak is too near to the first layer.
        samples: noise draws for a fact.
    Raises:
        BadRequest: if the model knows none of the facts, or a fact cannot be traced.
        UnsupportedModel: if the model's parts cannot be found, or it has one block only.
        ValueError: if count or samples are below one.
    """
    if min(count, samples) < 1:
        raise ValueError(f"count and samples must be at least 1: {count}, {samples}")
    arch = Architecture(model.model)
    depth, sigma = len(arch), 3 * deviation(arch)
    if depth < 2:
        raise UnsupportedModel(f"{model.name!r} has one block only, so there is no layer to choose; correct facts in memory instead")
    total, known = torch.zeros(depth, dtype=torch.float64), 0
    with frozen(arch.model):
        for number, fact in enumerate(tqdm(facts, desc="locate", unit="fact", disable=None)):
            run = _Run(model, arch, fact.prompt, fact.subject, samples, sigma, seed + number)
            if (run.answer,) != passage(model.tokenizer, fact.prompt, fact.subject, fact.target_new).target_ids[:1]:
                continue
            low, *restored = run.probabilities("mlp", [(run.passage.lookup, each) for each in (range(0), *_around(depth, _window(depth)))])
            total += torch.tensor(restored, dtype=torch.float64) - low
            known += 1
    if not known:
        raise BadRequest(f"{model.name!r} knows none of the {len(facts)} facts (its first token is never that of target_new); give facts that it answers")
    peak = int(total[:-1].argmax())
    return Located(layers=tuple(range(max(0, peak - count + 1), peak + 1)), effect=(total / known).tolist(), known=known, asked=len(facts))


@torch.inference_mode()
def deviation(arch: Architecture) -> float:
    """Standard deviation of all entries of the embedding module's outputs for (at most) 4096 tokens, drawn from the vocabulary once and for all.

    The paper measures it on the tokens of its data set's subjects; the vocabulary needs no data set.
    """
    embedding = arch.model.get_input_embeddings()
    drawn = torch.randperm(embedding.weight.shape[0], generator=torch.Generator().manual_seed(0))[:4096]
    return float(embedding(drawn.to(arch.device)).float().std())


class _Run:
    """One prompt: run clean at first, then again and again with noise on the subject and some clean states put back."""

    @torch.inference_mode()
    def __init__(self, model: LanguageModel, arch: Architecture, prompt: str, subject: str, samples: int, sigma: float, seed: int):
        self.arch, self.samples, self.embedding = arch, samples, arch.model.get_input_embeddings()
        self.passage, self.first = _subject_tokens(model, prompt, subject)
        self.ids = torch.tensor([self.passage.ids], device=arch.device)
        size = (samples, self.passage.lookup + 1 - self.first, self.embedding.weight.shape[1])
        self.noise = (sigma * torch.randn(size, generator=torch.Generator().manual_seed(seed))).to(arch.device)
        with captured({f"{kind} {layer}": arch.part(layer, kind) for kind in KINDS for layer in range(len(arch))}) as seen:
            clean = self._forward(1)[0]
        self.clean = {key: states.reshape(self.ids.shape[1], -1) for key, states in seen.items()}  # each (length, d)
        self.answer = int(clean.argmax())
        self.high = float(clean[self.answer])

    def _forward(self, rows: int) -> Tensor:
        """Probabilities of the next token, (rows, vocabulary) float32."""
        scores: Tensor = self.arch.model(input_ids=self.ids.expand(rows, -1), use_cache=False, logits_to_keep=1).logits[:, -1]
        return scores.float().softmax(-1)

    @torch.inference_mode()
    def probabilities(self, kind: str, restorations: Sequence[tuple[int, range]], batch: int = 64, label: str = "") -> list[float]:
        """The answer's mean probability for each (token, layers) restored; no layers is the corrupted run. With a label, progress is shown."""
        spread = [(token, layers, sample) for token, layers in restorations for sample in range(self.samples)]
        found = []
        for start in tqdm(range(0, len(spread), batch), desc=label, unit="batch", disable=None if label else True):
            part = spread[start : start + batch]
            with ExitStack() as stack:
                stack.enter_context(changed_output(self.embedding, partial(self._blurred, samples=[sample for *_, sample in part])))
                for layer in range(len(self.arch)):
                    if at := [(row, token) for row, (token, layers, _) in enumerate(part) if layer in layers]:
                        restore = partial(self._restored, rows=len(part), at=at, clean=self.clean[f"{kind} {layer}"])
                        stack.enter_context(changed_output(self.arch.part(layer, kind), restore))
                found.append(self._forward(len(part))[:, self.answer].double().cpu())
        return [float(mean) for mean in torch.cat(found).view(-1, self.samples).mean(1)]

    def _blurred(self, hidden: Tensor, samples: list[int]) -> Tensor:
        """Embeddings (rows, length, d), each row with its sample's noise on the subject."""
        hidden = hidden.clone()
        hidden[:, self.first : self.passage.lookup + 1] += self.noise[samples].to(hidden.dtype)
        return hidden

    def _restored(self, hidden: Tensor, rows: int, at: list[tuple[int, int]], clean: Tensor) -> Tensor:
        """States with the clean ones (length, d) at each (row, token); some modules see a batch as one long row."""
        states = hidden.reshape(rows, self.ids.shape[1], -1).clone()
        row, token = torch.tensor(at, device=hidden.device).T
        states[row, token] = clean[token]
        return states.view(hidden.shape)


def _subject_tokens(model: LanguageModel, prompt: str, subject: str) -> tuple[Passage, int]:
    """The tokenized prompt, and the index of the subject's first token."""
    if not subject.strip():
        raise BadRequest("the subject is empty; name what the prompt is about")
    template = prompt if "{}" in prompt else prompt.replace(subject, "{}", 1)
    found = passage(model.tokenizer, template, subject)
    if len(found.ids) > model.context:
        raise BadRequest(f"the prompt has {len(found.ids)} tokens and {model.name} reads {model.context}; trace something shorter")
    before, _, after = query_text(template).partition("{}")
    offsets = model.tokenizer(before + subject + after, return_offsets_mapping=True)["offset_mapping"]
    return found, next(i for i, (_, end) in enumerate(offsets) if end > len(before))


def _window(depth: int) -> int:
    """The paper's window of layers, or a fifth of a shallow model's."""
    return 10 if depth >= 20 else max(1, depth // 5)


def _around(depth: int, width: int) -> list[range]:
    """For each layer, `width` layers centred on it (its own place is the upper middle if even), less those that do not exist."""
    return [range(max(0, layer - width // 2), min(depth, layer - width // 2 + width)) for layer in range(depth)]
