"""Knowledge neurons (Dai et al. 2022, arXiv:2104.08696): find the feed-forward neurons that express a fact, and change what they say.

A neuron is an input of the rewrite module, its value slot the module's column. Both follow the authors' code: a layer's neurons are
scaled together from zero, and the neurons that most wordings share are kept. What the paper says of a masked word is done here at
the first token in which the new answer differs from what the model would say.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from hybrid.architecture import Architecture, captured, frozen, replaced_input
from hybrid.editors.fine_tune import Batch, target_losses
from hybrid.editors.gradients import changed_by
from hybrid.editors.requests import check, contexts, passage, refuse_known
from hybrid.editors.rows import run
from stores.deltas import Delta, Factors
from stores.records import Fact

if TYPE_CHECKING:
    from hybrid.model import LanguageModel

Neuron = tuple[int, int]
"""A layer and the index of one of its neurons."""


@dataclass(frozen=True, kw_only=True)
class KnowledgeNeurons:
    """Knowledge neurons: each fact changes the value slots of a handful."""

    layers: tuple[int, ...] = ()
    """Blocks whose neurons are looked at; all if empty."""
    steps: int = 20
    """Of the integral's Riemann sum."""
    threshold: float = 0.2
    """A wording's neurons are those with this share of its largest attribution."""
    shared: float = 0.7
    """Share of the wordings in which a neuron must be found; less where too few are."""
    least: int = 2
    most: int = 5
    """Bounds of the number of neurons a fact."""
    questions: int = 2
    wordings: int = 6
    """The request's own questions, and the lexicon's statements, that must share the neurons."""
    away: float = 1.0
    """How much of the old answer's embedding is taken from a value slot (the paper's lambda 1)."""
    towards: float = 8.0
    """How much of the new answer's is put there (lambda 2)."""

    method = "kn"

    def __post_init__(self) -> None:
        if self.steps < 1 or not 1 <= self.least <= self.most or min(self.questions, self.wordings) < 0:
            raise ValueError(f"steps must be at least 1, least and most ascend from 1, questions and wordings not be negative: {self}")
        if not (0 < self.threshold <= 1 and 0 < self.shared <= 1):
            raise ValueError(f"threshold and shared must lie between 0 and 1: {self.threshold}, {self.shared}")

    def edit(self, model: LanguageModel, requests: Sequence[Fact]) -> Delta:
        """Find each fact's neurons and change their value slots.

        Raises:
            BadRequest: if a request cannot be carried out.
            ValueError: if this model does not have the layers.
        """
        started = time.perf_counter()
        check(requests)
        arch = Architecture(model.model)
        layers = self.layers or tuple(range(len(arch)))
        arch.check_layers(layers)
        refuse_known(model, enumerate(requests, start=1))
        changes: dict[Neuron, Tensor] = {}
        chosen: list[list[Neuron]] = []
        embeddings = arch.head.weight.detach().to(arch.precise)
        for request in requests:
            rows, old, new = queries(model, arch, request, self.questions, self.wordings)
            with frozen(arch.model):
                found = [attributions(arch, layers, row, old, self.steps) for row in rows]
                active = activations(arch, layers, rows[0])
            neurons = self.refine(found)
            for layer, index in neurons:
                # a gated network's neurons can be negative; the value slot then counts the other way round
                sign = -1.0 if float(active[layer][index]) < 0 else 1.0
                slot = sign * (self.towards * embeddings[new] - self.away * embeddings[old])
                changes[layer, index] = changes.get((layer, index), torch.zeros_like(slot)) + slot
            chosen.append(neurons)
        made = _factors(arch, changes)
        edits = tuple(
            {"subject": r.subject, "prompt": r.prompt, "target_new": r.target_new, "loss": round(loss, 4), "neurons": [list(neuron) for neuron in neurons]}
            for r, loss, neurons in zip(requests, _losses(model, arch, made, requests), chosen, strict=True)
        )
        return Delta(
            method=self.method, model=model.identity, settings=asdict(self) | {"layers": list(layers)}, changes=made, edits=edits,
            seconds=time.perf_counter() - started,
        )  # fmt: skip

    def refine(self, found: Sequence[Mapping[int, Tensor]]) -> list[Neuron]:
        """The neurons that enough wordings share, those in most wordings (then with the largest attribution) first."""
        counts: dict[Neuron, int] = {}
        total: dict[Neuron, float] = {}
        for scores in found:
            peak = max(float(each.max()) for each in scores.values())
            for layer, each in scores.items():
                for index in (each >= self.threshold * peak).nonzero()[:, 0].tolist() if peak > 0 else ():
                    counts[layer, index] = counts.get((layer, index), 0) + 1
                    total[layer, index] = total.get((layer, index), 0.0) + float(each[index])
        ranked = sorted(counts, key=lambda neuron: (-counts[neuron], -total[neuron], neuron))
        enough = sum(count >= self.shared * len(found) for count in counts.values())
        return ranked[: min(self.most, max(self.least, enough))]


def queries(model: LanguageModel, arch: Architecture, request: Fact, questions: int, wordings: int) -> tuple[list[tuple[int, ...]], int, int]:
    """The wordings up to where the answers part, the token that the model says there, and the one that it should."""
    templates = list(dict.fromkeys(template for template, _ in contexts(request, [""], questions, wordings)))
    passages = [passage(model.tokenizer, template, request.subject, request.target_new) for template in templates]
    whole = passages[0]
    with torch.no_grad():
        said = model.model(input_ids=torch.tensor([whole.ids[:-1]], device=arch.device), use_cache=False).logits[0, whole.target - 1 :].argmax(-1).tolist()
    at = next((i for i, (a, b) in enumerate(zip(said, whole.target_ids, strict=True)) if a != b), 0)
    return [each.ids[: each.target + at] for each in passages if len(each.target_ids) > at], said[at], whole.target_ids[at]


@torch.no_grad()
def activations(arch: Architecture, layers: Sequence[int], row: Sequence[int]) -> dict[int, Tensor]:
    """The neurons of each layer at a row's last token, (d_in,)."""
    with captured({str(layer): arch.rewrite(layer) for layer in layers}, inputs=True) as seen:
        arch.model.base_model(input_ids=torch.tensor([row], device=arch.device), use_cache=False)
    return {layer: seen[str(layer)].reshape(len(row), -1)[-1] for layer in layers}


def attributions(arch: Architecture, layers: Sequence[int], row: Sequence[int], answer: int, steps: int) -> dict[int, Tensor]:
    """Integrated gradients of the answer's probability, by layer (d_in,): w times the mean of dP/dw at k/m w, k from 1 to m (equation 4)."""
    ids = torch.tensor([row], device=arch.device)
    watched = {f"in {layer}": arch.part(layer, "block") for layer in layers} | {str(layer): arch.rewrite(layer) for layer in layers}
    with torch.no_grad(), captured(watched, inputs=True) as seen:
        arch.model.base_model(input_ids=ids, use_cache=False)
    with torch.no_grad():  # what precedes the last token is the same for all steps
        pairs = run(arch, ids[:, :-1], torch.ones_like(ids[:, :-1]), keep=True)[1] if len(row) > 1 else []
    last = ids[:, -1:].expand(steps, -1)
    shares = torch.arange(1, steps + 1, device=arch.device)[:, None] / steps
    found = {}
    for layer in layers:
        whole, entering = seen[str(layer)], seen[f"in {layer}"]
        neurons = whole.reshape(len(row), -1)[-1]
        scaled = (shares.to(neurons.dtype) * neurons).requires_grad_()
        states = scaled.reshape(steps, *[1] * (whole.ndim - 2), -1)
        above = [None if block < layer else pair for block, pair in enumerate(pairs)]
        with torch.enable_grad(), replaced_input(arch.rewrite(layer), states):
            hidden, _ = run(arch, last, torch.ones_like(last), first=layer, hidden=entering[:, -1:].expand(steps, -1, -1), pairs=above)
            chances = arch.logits(hidden[:, -1]).softmax(-1)[:, answer]
            (gradient,) = torch.autograd.grad(chances.sum(), scaled)
        found[layer] = (neurons * gradient.mean(0)).detach()
    return found


def _factors(arch: Architecture, changes: Mapping[Neuron, Tensor]) -> dict[str, Factors]:
    """Value slots as columns of the rewrite weights."""
    made: dict[str, Factors] = {}
    for layer in sorted({layer for layer, _ in changes}):
        here = {index: change for (at, index), change in sorted(changes.items()) if at == layer}
        right = np.zeros((arch.weight(layer).shape[1], len(here)), dtype=np.float32)
        right[list(here), range(len(here))] = 1
        made[arch.weight_name(layer)] = Factors(torch.stack(list(here.values()), 1).float().cpu().numpy(), right)
    return made


@torch.no_grad()
def _losses(model: LanguageModel, arch: Architecture, made: Mapping[str, Factors], requests: Sequence[Fact]) -> list[float]:
    """Each target's loss with all changes in place."""
    modules = {arch.weight_name(layer): arch.rewrite(layer) for layer in range(len(arch)) if arch.weight_name(layer) in made}
    sides = {name: (torch.from_numpy(made[name].right.T)[None], torch.from_numpy(made[name].left.T)[None]) for name in modules}
    with changed_by(modules, {name: (right.to(arch.device), left.to(arch.device)) for name, (right, left) in sides.items()}):
        passages = [passage(model.tokenizer, r.prompt, r.subject, r.target_new) for r in requests]
        return [float(target_losses(model.model, Batch.of([each], arch.device))) for each in passages]
