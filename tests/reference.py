"""The equations of four model-editing papers, written down plainly and slowly: what the editors are tested against.

ROME (Meng et al. 2022), MEMIT (Meng et al. 2023), AlphaEdit (Fang et al. 2025) and EMMET (Gupta et al. 2024). Facts are taken one at a time,
every step runs the whole model with its whole head, and all systems are solved densely in float64. Nothing of `hybrid.editors` is used except
the tokenization of a request, and of `hybrid.architecture` only where the modules are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers.pytorch_utils import Conv1D

from hybrid.architecture import Architecture
from hybrid.editors.requests import Passage, passage


class Edit(Protocol):
    """What is asked of a model."""

    @property
    def subject(self) -> str:
        """Who or what the fact is about."""

    @property
    def prompt(self) -> str:
        """A sentence's beginning, with one `{}` for the subject."""

    @property
    def target_new(self) -> str:
        """How the sentence shall end."""


@dataclass(frozen=True)
class ValueSettings:
    """How a target value is searched for."""

    layer: int
    steps: int = 25
    lr: float = 0.5
    decay: float = 0.5
    clamp: float = 0.75
    kl: float = 0.0625
    stop: float = 0.05


# -- running the model ---------------------------------------------------------------------------------


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """No dropout while the context lasts."""
    training: bool = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _rows(tokenizer: Any, fact: Edit, prefixes: Sequence[str]) -> list[Passage]:
    """The fact's sentence after each prefix; the first is the bare one."""
    if not prefixes or prefixes[0] != "":
        raise ValueError("the first prefix must be empty")
    return [passage(tokenizer, fact.prompt, fact.subject, fact.target_new, prefix=prefix) for prefix in prefixes]


def _logits(model: Any, rows: Sequence[Passage]) -> Tensor:
    """Scores (rows, length, vocabulary); rows are padded on the right, where a causal model does not look."""
    ids = pad_sequence([torch.tensor(row.ids) for row in rows], batch_first=True)
    mask = pad_sequence([torch.ones(len(row.ids), dtype=torch.long) for row in rows], batch_first=True)
    scores: Tensor = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device), use_cache=False).logits
    return scores


def _at_lookups(hidden: Tensor, rows: Sequence[Passage]) -> Tensor:
    """Of hidden states (rows, length, width), those at the subjects' last tokens, (rows, width)."""
    return torch.stack([hidden[number, row.lookup] for number, row in enumerate(rows)])


@torch.no_grad()
def _inputs_and_outputs(model: Any, module: Any, rows: Sequence[Passage]) -> tuple[Tensor, Tensor]:
    """What a module gets and what it returns at the lookups, as float64 (rows, width)."""
    seen: list[tuple[Tensor, Tensor]] = []

    def look(_: Any, given: tuple[Tensor, ...], output: Any) -> None:
        result = output[0] if isinstance(output, tuple) else output
        seen.append((_at_lookups(given[0], rows).double(), _at_lookups(result, rows).double()))

    handle = module.register_forward_hook(look)
    try:
        with _evaluating(model):
            _logits(model, rows)
    finally:
        handle.remove()
    (pair,) = seen
    return pair


# -- values and keys -------------------------------------------------------------------------------------


def optimise_value(
    model: Any, tokenizer: Any, arch: Architecture, fact: Edit, prefixes: Sequence[str], s: ValueSettings, at: Literal["block", "rewrite"] = "block"
) -> Tensor:
    """Search what a module should return at the subject's last token so that the model continues with the target.

    The objective, over a vector delta that is added to the module's output at that token in every row, is
    mean over prefixes of the mean over target tokens of -log p(token) + kl KL(P_0 || P) + decay |delta| / |h|^2, where P is the next-token
    distribution after the subject in "<subject> is a", P_0 the same at delta = 0, and h the module's own output in the bare prompt.
    After each step of Adam, delta is scaled back into the ball of radius clamp |h|.

    Args:
        at: the block `s.layer`, as MEMIT does, or its rewrite module, as ROME does.
    Returns:
        h + delta (d,), in the model's dtype.
    """
    rows = _rows(tokenizer, fact, prefixes)
    drift = passage(tokenizer, "{} is a", fact.subject)
    everything = [*rows, drift]
    module = arch.part(s.layer, "block") if at == "block" else arch.rewrite(s.layer)
    delta: Tensor | None = None
    target_init: Tensor | None = None
    log_p_init: Tensor | None = None
    optimiser: torch.optim.Adam | None = None

    def shift(_: Any, __: Any, output: Any) -> Any:
        nonlocal delta, target_init
        hidden = output[0] if isinstance(output, tuple) else output
        if delta is None or target_init is None:  # the first forward
            target_init = hidden[0, rows[0].lookup].detach().clone()
            delta = torch.zeros_like(target_init, requires_grad=True)
        moved = hidden.detach().clone()  # nothing below depends on delta
        for number, row in enumerate(everything):
            moved[number, row.lookup] = moved[number, row.lookup] + delta
        return (moved, *output[1:]) if isinstance(output, tuple) else moved

    handle = module.register_forward_hook(shift)
    try:
        with _evaluating(model), torch.enable_grad():
            for step in range(s.steps):
                log_p = _logits(model, everything).log_softmax(-1)
                assert delta is not None and target_init is not None
                per_row = []
                for number, row in enumerate(rows):
                    nll = torch.stack([-log_p[number, place - 1, row.ids[place]] for place in range(row.target, len(row.ids))])
                    per_row.append(nll.mean())
                log_p_now = log_p[len(rows), drift.lookup]
                if log_p_init is None:
                    log_p_init = log_p_now.detach().clone()
                divergence = (log_p_init.exp() * (log_p_init - log_p_now)).sum()
                loss = torch.stack(per_row).mean() + s.kl * divergence + s.decay * delta.norm() / target_init.norm() ** 2
                if loss.item() < s.stop or step == s.steps - 1:
                    break
                if optimiser is None:
                    optimiser = torch.optim.Adam([delta], lr=s.lr)
                (delta.grad,) = torch.autograd.grad(loss, [delta])  # leaves no gradients on the weights
                optimiser.step()
                with torch.no_grad():
                    longest = s.clamp * target_init.norm()
                    if delta.norm() > longest:
                        delta.mul_(longest / delta.norm())
    finally:
        handle.remove()
    if delta is None or target_init is None:
        raise ValueError(f"steps must be at least 1, not {s.steps}")
    return target_init + delta.detach()


def key(model: Any, tokenizer: Any, arch: Architecture, fact: Edit, prefixes: Sequence[str], layer: int) -> Tensor:
    """What the rewrite module gets at the subject's last token, in float64 (d_in,): half of it bare, half the mean over the other prefixes."""
    keys, _ = _inputs_and_outputs(model, arch.rewrite(layer), _rows(tokenizer, fact, prefixes))
    return keys[0] if len(keys) == 1 else (keys[0] + keys[1:].mean(0)) / 2


# -- one fact, one layer -----------------------------------------------------------------------------------


def rome(model: Any, tokenizer: Any, facts: Sequence[Edit], prefixes: Sequence[str], covariance: dict[int, Tensor], s: ValueSettings) -> dict[str, Tensor]:
    """ROME: the rank-one change that makes the bare prompt's key give v*, in the direction u = C^-1 k*.

    Returns:
        The dense change (d_out, d_in) in float64, by the parameter's name.
    """
    (fact,) = facts
    arch = Architecture(model)
    k_star = key(model, tokenizer, arch, fact, prefixes, s.layer)
    u = torch.linalg.solve(covariance[s.layer].to(k_star), k_star)
    u = u / u.norm()
    v_star = optimise_value(model, tokenizer, arch, fact, prefixes, s, at="rewrite").double()
    given, returned = _inputs_and_outputs(model, arch.rewrite(s.layer), _rows(tokenizer, fact, [""]))
    k_bare, current = given[0], returned[0]
    return {arch.weight_name(s.layer): torch.outer((v_star - current) / (k_bare @ u), u)}


# -- many facts, several layers ------------------------------------------------------------------------------


@contextmanager
def _restored(parameters: Sequence[Tensor]) -> Iterator[None]:
    """Whatever happens to these weights, they are bit for bit what they were when the context ends."""
    copies = [parameter.detach().clone() for parameter in parameters]
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, copy in zip(parameters, copies, strict=True):
                parameter.copy_(copy)


@torch.no_grad()
def _add(module: Any, delta: Tensor) -> None:
    """Add a change (d_out, d_in) to a module's weight; the sum is formed in float64."""
    weight = module.weight
    weight.copy_(weight.double() + (delta.T if isinstance(module, Conv1D) else delta))


def _spread(
    model: Any,
    tokenizer: Any,
    facts: Sequence[Edit],
    prefixes: Sequence[str],
    layers: Sequence[int],
    s: ValueSettings,
    change: Callable[[int, Tensor, Tensor], Tensor],
) -> dict[str, Tensor]:
    """Walk up the layers and let each take an equal share of what is still missing at the last one.

    Args:
        change: from a layer, its keys K (d_in, n) and its residuals R (d, n), the change (d_out, d_in) of its weight.
    """
    if list(layers) != sorted(set(layers)) or not layers or s.layer != layers[-1]:
        raise ValueError(f"layers must ascend to {s.layer}, where the values are, not {list(layers)}")
    arch = Architecture(model)
    deltas: dict[str, Tensor] = {}
    with _restored([arch.rewrite(layer).weight for layer in layers]):
        z = torch.stack([optimise_value(model, tokenizer, arch, fact, prefixes, s).double() for fact in facts], dim=1)
        for position, layer in enumerate(layers):
            k = torch.stack([key(model, tokenizer, arch, fact, prefixes, layer) for fact in facts], dim=1)
            reached = []
            for fact in facts:
                _, outputs = _inputs_and_outputs(model, arch.part(layers[-1], "block"), _rows(tokenizer, fact, [""]))
                reached.append(outputs[0])
            r = (z - torch.stack(reached, dim=1)) / (len(layers) - position)
            delta = change(layer, k, r)
            deltas[arch.weight_name(layer)] = delta
            _add(arch.rewrite(layer), delta)
    return deltas


def memit(
    model: Any,
    tokenizer: Any,
    facts: Sequence[Edit],
    prefixes: Sequence[str],
    covariance: dict[int, Tensor],
    layers: Sequence[int],
    weight: float,
    s: ValueSettings,
) -> dict[str, Tensor]:
    """MEMIT: R K^T (weight C + K K^T)^-1, least squares between the new keys and the old ones.

    Returns:
        Dense changes (d_out, d_in) in float64, by the parameters' names; the model is as it was.
    """

    def change(layer: int, k: Tensor, r: Tensor) -> Tensor:
        c = covariance[layer].to(k)
        delta: Tensor = torch.linalg.solve(weight * c + k @ k.T, r @ k.T, left=False)
        return delta

    return _spread(model, tokenizer, facts, prefixes, layers, s, change)


def alphaedit(
    model: Any,
    tokenizer: Any,
    facts: Sequence[Edit],
    prefixes: Sequence[str],
    covariance: dict[int, Tensor],
    layers: Sequence[int],
    threshold: float,
    l2: float,
    s: ValueSettings,
) -> dict[str, Tensor]:
    """AlphaEdit: R K^T P (K K^T P + l2 I)^-1, where P projects onto the directions that old keys hardly use.

    These are the eigenvectors of C whose eigenvalue is below `threshold` times the largest.

    Returns:
        Dense changes (d_out, d_in) in float64, by the parameters' names; the model is as it was.
    """

    def change(layer: int, k: Tensor, r: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(covariance[layer].to(k))
        unused = vectors[:, values < threshold * values.max()]
        p = unused @ unused.T
        delta: Tensor = torch.linalg.solve(k @ k.T @ p + l2 * torch.eye(len(p)).to(k), r @ k.T @ p, left=False)
        return delta

    return _spread(model, tokenizer, facts, prefixes, layers, s, change)


def emmet(
    model: Any,
    tokenizer: Any,
    facts: Sequence[Edit],
    prefixes: Sequence[str],
    covariance: dict[int, Tensor],
    layers: Sequence[int],
    s: ValueSettings,
) -> dict[str, Tensor]:
    """EMMET: R (K^T C^-1 K)^-1 K^T C^-1, the change that meets all the new keys exactly and disturbs the old ones least.

    Returns:
        Dense changes (d_out, d_in) in float64, by the parameters' names; the model is as it was.
    """

    def change(layer: int, k: Tensor, r: Tensor) -> Tensor:
        k_c: Tensor = torch.linalg.solve(covariance[layer].to(k), k).T  # K^T C^-1, as C is symmetric
        delta: Tensor = r @ torch.linalg.solve(k_c @ k, k_c)
        return delta

    return _spread(model, tokenizer, facts, prefixes, layers, s, change)
