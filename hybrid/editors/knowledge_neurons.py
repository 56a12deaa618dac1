"""Knowledge neurons (Dai et al. 2022, arXiv:2104.08696): find the feed-forward neurons that express a fact, and change what they say.

A neuron is an input of the rewrite module, its value slot the module's column. As in the authors' code, a layer's neurons are scaled
together from zero; those that most wordings share are kept, but for those that other facts of the relation share, too; and embeddings
are brought to the norm of the slot that they change. What the paper does for a masked word is done here for each token of the new answer
that the model would not say after those before it, with the slots as the tokens before have left them.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from hybrid.architecture import Architecture, captured, frozen, replaced_input
from hybrid.consolidation.checks import subjects
from hybrid.editors.fine_tune import Batch, target_losses
from hybrid.editors.gradients import changed_by
from hybrid.editors.requests import check, contexts, passage, refuse_known
from hybrid.editors.rows import run
from hybrid.lexicon import find
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
    others: int = 10
    """Other subjects in the request's relation, whose facts' neurons are looked for, too."""
    common: float = 0.1
    """A neuron that more than this share of the others have is left alone."""
    away: float = 1.0
    """How much of the old answer's embedding is taken from a value slot, in norms of the slot (the paper's lambda 1)."""
    towards: float = 8.0
    """How much of the new answer's is put there (lambda 2)."""

    method = "kn"

    def __post_init__(self) -> None:
        if self.steps < 1 or not 1 <= self.least <= self.most or min(self.questions, self.wordings, self.others) < 0:
            raise ValueError(f"steps must be at least 1, least and most ascend from 1, questions, wordings and others not be negative: {self}")
        if not (0 < self.threshold <= 1 and 0 < self.shared <= 1 and 0 <= self.common <= 1):
            raise ValueError(f"threshold, shared and common must lie between 0 and 1: {self.threshold}, {self.shared}, {self.common}")

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
        known: dict[tuple[int, ...], set[Neuron]] = {}
        for request in requests:
            elsewhere = self.in_others(model, arch, layers, request, known)
            own: dict[Neuron, Tensor] = {}
            chosen.append([])
            start = 0
            while True:
                with frozen(arch.model), slots_changed(arch, own):
                    asked = query(model, arch, request, self.questions, self.wordings, start)
                    if asked is None:
                        break
                    rows, old, new, start = asked
                    neurons = self.refine([attributions(arch, layers, row, old, self.steps) for row in rows], elsewhere)
                    active = activations(arch, layers, rows[0])
                for layer, index in neurons:
                    # a gated network's neurons can be negative; the value slot then counts the other way round
                    sign = -1.0 if float(active[layer][index]) < 0 else 1.0
                    norm = sign * arch.weight(layer)[:, index].to(arch.precise).norm()
                    slot = norm * (self.towards * embeddings[new] / embeddings[new].norm() - self.away * embeddings[old] / embeddings[old].norm())
                    own[layer, index] = own.get((layer, index), torch.zeros_like(slot)) + slot
                chosen[-1] += neurons
            for neuron, slot in own.items():
                changes[neuron] = changes.get(neuron, torch.zeros_like(slot)) + slot
        made = _factors(arch, changes)
        edits = tuple(
            {"subject": r.subject, "prompt": r.prompt, "target_new": r.target_new, "loss": round(loss, 4), "neurons": [list(neuron) for neuron in neurons]}
            for r, loss, neurons in zip(requests, _losses(model, arch, changes, requests), chosen, strict=True)
        )
        return Delta(
            method=self.method, model=model.identity, settings=asdict(self) | {"layers": list(layers)}, changes=made, edits=edits,
            seconds=time.perf_counter() - started,
        )  # fmt: skip

    def refine(self, found: Sequence[Mapping[int, Tensor]], elsewhere: Mapping[Neuron, float] | None = None) -> list[Neuron]:
        """The neurons that enough wordings share, those in most wordings (then with the largest attribution) first.

        Args:
            elsewhere: the share of other facts that have a neuron, if any has; `common` ones are taken only if there are not `least` others.
        """
        counts: Counter[Neuron] = Counter()
        total: dict[Neuron, float] = {}
        for scores in found:
            own = self.peaks(scores)
            counts.update(own)
            for layer, index in own:
                total[layer, index] = total.get((layer, index), 0.0) + float(scores[layer][index])
        alien = {neuron for neuron, share in (elsewhere or {}).items() if share > self.common}
        ranked = sorted(counts, key=lambda neuron: (neuron in alien, -counts[neuron], -total[neuron], neuron))
        enough = sum(count >= self.shared * len(found) for neuron, count in counts.items() if neuron not in alien)
        return ranked[: min(self.most, max(self.least, enough))]

    def peaks(self, scores: Mapping[int, Tensor]) -> list[Neuron]:
        """One wording's neurons: those with a share of its largest attribution."""
        peak = max(float(each.max()) for each in scores.values())
        return [(layer, index) for layer, each in scores.items() for index in (each >= self.threshold * peak).nonzero()[:, 0].tolist() if peak > 0]

    def in_others(
        self, model: LanguageModel, arch: Architecture, layers: Sequence[int], request: Fact, known: dict[tuple[int, ...], set[Neuron]]
    ) -> dict[Neuron, float]:
        """Of each neuron the share of the relation's other facts that have it, where the model says what it says; `known` keeps them between requests."""
        relation = find(request.relation)
        form = relation.statements[0] if relation else request.prompt
        rows = [passage(model.tokenizer, form, name).ids for name in others(request, self.others)]
        for row in rows:
            if row not in known:
                with torch.no_grad():
                    said = int(model.model(input_ids=torch.tensor([row], device=arch.device), use_cache=False).logits[0, -1].argmax())
                known[row] = set(self.peaks(attributions(arch, layers, row, said, self.steps)))
        return {neuron: count / len(rows) for neuron, count in Counter(neuron for row in rows for neuron in known[row]).items()}


def others(request: Fact, most: int) -> list[str]:
    """Other subjects of the request's kind, in the order of the project's list."""
    relation, kinds = find(request.relation), subjects()
    names = kinds[relation.subject_type] if relation else [each for several in kinds.values() for each in several[:2]]
    return [name for name in names if name.casefold() != request.subject.casefold()][:most]


def query(
    model: LanguageModel, arch: Architecture, request: Fact, questions: int, wordings: int, start: int = 0
) -> tuple[list[tuple[int, ...]], int, int, int] | None:
    """The first token of the new answer, from number `start` on, that the model would not say after those before it.

    Returns:
        The wordings up to there, the token that the model says, the new answer's, and the number to go on from; None if there is no such token.
    """
    templates = list(dict.fromkeys(template for template, _ in contexts(request, [""], questions, wordings)))
    passages = [passage(model.tokenizer, template, request.subject, request.target_new) for template in templates]
    whole = passages[0]
    with torch.no_grad():
        said = model.model(input_ids=torch.tensor([whole.ids[:-1]], device=arch.device), use_cache=False).logits[0, whole.target - 1 :].argmax(-1).tolist()
    at = next((i for i, (a, b) in enumerate(zip(said, whole.target_ids, strict=True)) if a != b and i >= start), None)
    return None if at is None else ([p.ids[: p.target + at] for p in passages if len(p.target_ids) > at], said[at], whole.target_ids[at], at + 1)


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


def slots_changed(arch: Architecture, changes: Mapping[Neuron, Tensor]) -> AbstractContextManager[None]:
    """The model with value slots changed, while the context lasts; no weight is written to."""
    made = _factors(arch, changes)
    modules = {arch.weight_name(layer): arch.rewrite(layer) for layer in range(len(arch)) if arch.weight_name(layer) in made}
    sides = {name: [torch.from_numpy(side.T)[None].to(arch.device) for side in (made[name].right, made[name].left)] for name in modules}
    return changed_by(modules, {name: (right, left) for name, (right, left) in sides.items()})


@torch.no_grad()
def _losses(model: LanguageModel, arch: Architecture, changes: Mapping[Neuron, Tensor], requests: Sequence[Fact]) -> list[float]:
    """Each target's loss with all changes in place."""
    with slots_changed(arch, changes):
        passages = [passage(model.tokenizer, r.prompt, r.subject, r.target_new) for r in requests]
        return [float(target_losses(model.model, Batch.of([each], arch.device))) for each in passages]
