"""LoRA (Hu et al. 2022, arXiv:2106.09685) through the peft library: low-rank adapters trained on all requests."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hybrid.architecture import Architecture, is_linear
from hybrid.editors.fine_tune import GradientEditor, Trained
from hybrid.loading import optional
from stores.deltas import Factors


@dataclass(frozen=True, kw_only=True)
class Lora(GradientEditor):
    """Adapters on the rewrite modules (or other matrices) of all blocks, or of those in `layers`."""

    steps: int = 40
    lr: float = 5e-3
    rank: int = 8
    alpha: float = 16.0
    """The change is alpha / rank times the product of the factors."""
    targets: tuple[str, ...] = ()
    """Paths of linear modules within a block, such as "self_attn.q_proj"; the rewrite module if empty."""
    seed: int = 0
    """Of the adapters' random beginning."""

    method = "lora"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank < 1 or not self.alpha > 0:
            raise ValueError(f"rank must be at least 1 and alpha positive: {self}")

    def prepare(self) -> None:
        """The library must be there."""
        optional("peft", "the editor 'lora'")

    def default_layers(self, blocks: int) -> tuple[int, ...]:
        """All blocks."""
        return tuple(range(blocks))

    @contextmanager
    def trainable(self, arch: Architecture, layers: Sequence[int]) -> Iterator[Trained]:
        """The model with adapters in it, which are taken out again.

        Raises:
            ValueError: if a target is not a linear module of the blocks.
        """
        peft: Any = import_module("peft")  # it is there, see `prepare`
        names = [f"{arch.layout.blocks}.{layer}.{target}" for layer in layers for target in self.targets or (arch.layout.rewrite,)]
        kinds = {_kind(arch, name) for name in names}
        config = peft.LoraConfig(
            r=self.rank, lora_alpha=self.alpha, lora_dropout=0.0, bias="none", fan_in_fan_out="Conv1D" in kinds, target_modules="|".join(map(re.escape, names))
        )  # fmt: skip
        with _given_back(arch.model, names):
            with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
                torch.manual_seed(self.seed)
                peft.LoraModel(arch.model, config, "default")
            adapted: dict[str, Any] = {name: arch.model.get_submodule(name) for name in names}
            pairs: dict[str, tuple[Tensor, Tensor, float]] = {
                name: (module.lora_B["default"].weight, module.lora_A["default"].weight, module.scaling["default"]) for name, module in adapted.items()
            }

            def changes() -> dict[str, Factors | np.ndarray]:
                return {f"{name}.weight": Factors(_array(b.detach() * scaling), _array(a.detach().T)) for name, (b, a, scaling) in pairs.items()}

            yield Trained([tensor for b, a, _ in pairs.values() for tensor in (b, a)], arch.model, changes)


def _kind(arch: Architecture, name: str) -> str:
    """The class of a module that is to be adapted.

    Raises:
        ValueError: if there is no such module, or it is not linear.
    """
    try:
        module = arch.model.get_submodule(name)
    except AttributeError:
        module = None
    if not is_linear(module):
        linear = [path for path, part in arch.part(0, "block").named_modules() if is_linear(part)]
        raise ValueError(f"{name!r} is not a linear module of this model; targets can be {', '.join(linear)}")
    return type(module).__name__


@contextmanager
def _given_back(model: Any, names: Sequence[str]) -> Iterator[None]:
    """Whatever happens inside, the named modules are in their places afterwards, and the model's attributes are those it had.

    An own record, not peft's unloading, so that it also holds if putting in the adapters was interrupted. The adapters only
    wrap the modules: no weight is written to.
    """
    places = [(model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], model.get_submodule(name)) for name in names]
    attributes = dict(vars(model))
    try:
        yield
    finally:
        for parent, name, module in places:
            setattr(parent, name, module)
        for key in set(vars(model)) - set(attributes):
            delattr(model, key)
        vars(model).update(attributes)


def _array(tensor: Tensor) -> np.ndarray:
    """A copy as float32."""
    return np.array(tensor.float().cpu().numpy(), order="C", copy=True)
