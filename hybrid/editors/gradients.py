"""What gradient descent would do to linear modules, token by token: factors whose outer products sum to the gradient.

The gradient of a matrix is the sum over tokens of delta u^T: u is the module's input, delta the loss's gradient at its output
(Mitchell et al. 2022, section 3). Changes in that form are tried without writing to the model, each row of a batch with its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from hybrid.architecture import Architecture, captured, changed_output, frozen, is_linear
from hybrid.editors.fine_tune import Batch, target_losses


def feed_forward_modules(arch: Architecture, layers: Sequence[int]) -> dict[str, Any]:
    """The linear modules of the blocks' feed-forward networks, by their weights' names."""
    found: dict[str, Any] = {}
    for layer in layers:
        inside = {id(part) for part in arch.part(layer, "mlp").modules()}
        path = f"{arch.layout.blocks}.{layer}"
        for name, part in arch.part(layer, "block").named_modules():
            if id(part) in inside and is_linear(part):
                found[f"{path}.{name}.weight"] = part
    return found


def token_gradients(arch: Architecture, modules: Mapping[str, Any], batch: Batch) -> tuple[dict[str, tuple[Tensor, Tensor]], Tensor]:
    """The factors of each row's gradient of its own loss.

    Returns:
        For each module u (rows, length, d_in) and delta (rows, length, d_out), float32, zero at padding; and the losses (rows,).
    """
    probes: dict[str, Tensor] = {}
    rows, length = batch.ids.shape

    def probed(name: str) -> Any:
        def add(output: Tensor) -> Tensor:
            probes[name] = torch.zeros_like(output, requires_grad=True)
            return output + probes[name]

        return add

    with torch.enable_grad(), frozen(arch.model), captured(dict(modules), inputs=True) as inputs, ExitStack() as stack:
        for name, module in modules.items():
            stack.enter_context(changed_output(module, probed(name)))
        losses = target_losses(arch.model, batch)
        gradients = torch.autograd.grad(losses.sum(), [probes[name] for name in modules])
    real = batch.mask[..., None].float()
    factors = {
        name: (inputs[name].detach().reshape(rows, length, -1).float() * real, gradient.reshape(rows, length, -1).float() * real)
        for name, gradient in zip(modules, gradients, strict=True)
    }
    return factors, losses.detach()


@contextmanager
def changed_by(modules: Mapping[str, Any], factors: Mapping[str, tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Each group of rows with its own change of the weights, while the context lasts.

    Args:
        factors: for each module right (groups, tokens, d_in) and left (groups, tokens, d_out); group g's matrix is changed by
            left[g]^T right[g]. The rows of a batch are as many for each group, those of the first group first.
    """
    handles = []
    for name, module in modules.items():
        right, left = factors[name]

        def change(_: Any, given: Any, output: Tensor, right: Tensor = right, left: Tensor = left) -> Tensor:
            states = given[0].reshape(len(right), -1, right.shape[-1])
            added = (states @ right.mT.to(states.dtype)) @ left.to(states.dtype)
            changed: Tensor = output + added.reshape(output.shape)
            return changed

        handles.append(module.register_forward_hook(change))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
