"""The one place that knows architectures: where blocks, rewrite modules, the final norm and the head are.

Keyed by `config.model_type`; an unknown type is resolved by structure where that is unambiguous. Hooks exist only
as context managers, and nothing here leaves one behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stores.errors import UnsupportedModel


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Module paths: `blocks` and `norm` from the model, the others from a block."""

    blocks: str
    rewrite: str
    """The second matrix of the feed-forward network, whose input is the key and whose output is the value."""
    mlp: str
    attention: str
    norm: str
    plain: bool = True
    """Whether the rewrite module's output is added to the residual stream as it is (no norm in between)."""


_LLAMA = Layout(blocks="model.layers", rewrite="mlp.down_proj", mlp="mlp", attention="self_attn", norm="model.norm")
_GEMMA2 = Layout(blocks="model.layers", rewrite="mlp.down_proj", mlp="mlp", attention="self_attn", norm="model.norm", plain=False)
LAYOUTS = {
    "gpt2": Layout(blocks="transformer.h", rewrite="mlp.c_proj", mlp="mlp", attention="attn", norm="transformer.ln_f"),
    "gptj": Layout(blocks="transformer.h", rewrite="mlp.fc_out", mlp="mlp", attention="attn", norm="transformer.ln_f"),
    "gpt_neox": Layout(blocks="gpt_neox.layers", rewrite="mlp.dense_4h_to_h", mlp="mlp", attention="attention", norm="gpt_neox.final_layer_norm"),
    "opt": Layout(blocks="model.decoder.layers", rewrite="fc2", mlp="fc2", attention="self_attn", norm="model.decoder.final_layer_norm"),
    "falcon": Layout(blocks="transformer.h", rewrite="mlp.dense_4h_to_h", mlp="mlp", attention="self_attention", norm="transformer.ln_f"),
    "phi": Layout(blocks="model.layers", rewrite="mlp.fc2", mlp="mlp", attention="self_attn", norm="model.final_layernorm"),
    "gemma2": _GEMMA2,
    "gemma3_text": _GEMMA2,
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma", "phi3"), _LLAMA),
}
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")


class Architecture:
    """A loaded causal language model, seen as blocks with rewrite modules.

    Args:
        model: a transformers causal language model.
        layout: where its parts are; looked up by `config.model_type` if None.
    Raises:
        UnsupportedModel: saying what to supply, if the parts cannot be found.
    """

    def __init__(self, model: Any, layout: Layout | None = None):
        self.model = model
        self.config = model.config
        kind = getattr(self.config, "model_type", "?")
        experts = next((name for name in EXPERTS if (getattr(self.config, name, 0) or 0) > 1), None)
        if experts:
            raise UnsupportedModel(
                f"{kind!r} routes tokens among {getattr(self.config, experts)} experts; editors of one feed-forward matrix cannot be used on it. "
                "Correct facts in memory instead: `hybrid add-fact` works with every model"
            )
        self.layout = layout or LAYOUTS.get(kind) or infer_layout(model)
        try:
            self.blocks = model.get_submodule(self.layout.blocks)
            self.head = model.get_output_embeddings()
            self._real: list[Any] = list(self.blocks)
            for layer in range(len(self.blocks)):
                self.rewrite(layer)
        except AttributeError as error:
            raise UnsupportedModel(f"{kind!r} does not have the parts {self.layout}: {error}; pass a `Layout` that names them") from error

    # -- parts -----------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.blocks)

    def rewrite(self, layer: int) -> Any:
        """The rewrite module of a block."""
        return self._real[layer].get_submodule(self.layout.rewrite)

    def part(self, layer: int, which: str) -> Any:
        """A block ("block") or its "mlp" or "attention"."""
        return self._real[layer] if which == "block" else self._real[layer].get_submodule(getattr(self.layout, which))

    def weight_name(self, layer: int) -> str:
        """The rewrite weight's name among the model's parameters."""
        return f"{self.layout.blocks}.{layer}.{self.layout.rewrite}.weight"

    def weight(self, layer: int) -> Tensor:
        """The rewrite weight as (d_out, d_in), whatever way the module stores it; a view, so writing to it edits the model."""
        return oriented(self.rewrite(layer))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.weight(0).device

    @property
    def tied(self) -> bool:
        """Whether the head shares its weight with the embedding."""
        return self.head.weight is self.model.get_input_embeddings().weight

    @property
    def precise(self) -> torch.dtype:
        """What keys, values and losses are computed in: float32, or the weights' own type if that is finer."""
        return torch.promote_types(self.weight(0).dtype, torch.float32)

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores (..., vocabulary) in `precise` of final-norm outputs (..., d)."""
        scores: Tensor = self.head(hidden.to(self.head.weight.dtype)).to(self.precise)
        cap = getattr(self.config, "final_logit_softcapping", None)
        return torch.tanh(scores / cap) * cap if cap else scores

    def read(self, states: Tensor) -> Tensor:
        """Scores (..., vocabulary) in `precise` of last block outputs (..., d)."""
        return self.logits(self.normed(states))

    def normed(self, states: Tensor) -> Tensor:
        """The final norm of last block outputs (..., d)."""
        found: Tensor = self.model.get_submodule(self.layout.norm)(states.to(self.head.weight.dtype))
        return found

    def check_layers(self, layers: Sequence[int]) -> None:
        """Raises ValueError if a layer does not exist, or they do not ascend."""
        wrong = [layer for layer in layers if not 0 <= layer < len(self)]
        if wrong or not layers or sorted(set(layers)) != list(layers):
            raise ValueError(f"layers must ascend within 0 to {len(self) - 1} for this model, not {list(layers)}")

    # -- running a part of the model -----------------------------------------------------------------

    @contextmanager
    def only(self, first: int, last: int, hidden: Tensor | None = None) -> Iterator[None]:
        """Make the model run blocks `first` to `last` alone; `hidden` (rows, length, d) enters block `first`.

        The stack keeps its length (some models look up a block's mask by its index); blocks outside the range pass on what they get.
        """
        several = returns_tuple(self.config.model_type)
        with ExitStack() as stack:

            def restore() -> None:
                for index, block in enumerate(self._real):
                    self.blocks[index] = block

            stack.callback(restore)
            for index, block in enumerate(self._real):
                if index == first - 1 and hidden is not None:
                    self.blocks[index] = _Pass(block, several, hidden)
                elif not first <= index <= last:
                    self.blocks[index] = _Pass(block, several)
            if first == 0 and hidden is not None:
                stack.enter_context(replaced_input(self._real[0], hidden))
            yield


class _Pass(nn.Module):
    """Stands in for a block: hands on its input, or a given state; knows the attributes by which models choose masks."""

    def __init__(self, block: nn.Module, several: bool, hidden: Tensor | None = None):
        super().__init__()
        self.several, self.hidden = several, hidden
        for name in ("attention_type", "layer_type", "layer_idx"):
            if hasattr(block, name):
                setattr(self, name, getattr(block, name))

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """What the block would return, without its work."""
        out = hidden_states if self.hidden is None else self.hidden
        return (out, None) if self.several else out


def returns_tuple(model_type: str) -> bool:
    """Whether the blocks of this architecture return (hidden, attention) and not the hidden states alone."""
    return model_type in ("gptj", "falcon")


def oriented(module: Any) -> Tensor:
    """A Linear's or Conv1D's weight as (d_out, d_in)."""
    weight: Tensor = module.weight
    return weight.data.T if type(module).__name__ == "Conv1D" else weight.data


def is_linear(module: Any) -> bool:
    """Whether a module is one matrix that an editor can change: a Linear or a Conv1D."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def infer_layout(model: Any) -> Layout:
    """Find the parts of an unknown architecture by their shapes.

    Raises:
        UnsupportedModel: if there is not exactly one stack of blocks, or not exactly one matrix in a block that could be rewritten.
    """
    config = model.config
    kind, depth, width = config.model_type, getattr(config, "num_hidden_layers", None), getattr(config, "hidden_size", None)
    help_ = f"{kind!r} is not known; pass a `Layout` with the paths of its blocks, rewrite module, attention and norm"
    stacks = [name for name, module in model.named_modules() if isinstance(module, nn.ModuleList) and len(module) == depth]
    if len(stacks) != 1:
        raise UnsupportedModel(f"{help_} ({len(stacks)} lists of {depth} blocks were found)")
    block = model.get_submodule(stacks[0])[0]
    shapes = {name: oriented(module).shape for name, module in block.named_modules() if is_linear(module)}
    down = [name for name, (rows, columns) in shapes.items() if rows == width and columns != width]
    if len(down) != 1:
        raise UnsupportedModel(f"{help_} (in a block, {down or 'no matrix'} could be the rewrite module)")
    holders = [name for name, child in block.named_children() if any(map(is_linear, child.modules()))]
    attention = [name for name in holders if "attn" in name.lower() or "attention" in name.lower()]
    siblings = [name for name, _ in model.get_submodule(stacks[0].rpartition(".")[0]).named_children()]
    norms = [name for name in siblings if "norm" in name.lower() or name.startswith("ln")]
    if len(attention) != 1 or not norms:
        raise UnsupportedModel(f"{help_} (attention {attention}, norms {norms})")
    parent = stacks[0].rpartition(".")[0]
    mlp = down[0].rpartition(".")[0] or down[0]
    return Layout(blocks=stacks[0], rewrite=down[0], mlp=mlp, attention=attention[0], norm=f"{parent}.{norms[-1]}")


# -- hooks -------------------------------------------------------------------------------------------


def hidden_of(output: Any) -> Tensor:
    """The hidden states in what a module returned."""
    state: Tensor = output[0] if isinstance(output, tuple) else output
    return state


@contextmanager
def captured(modules: dict[str, Any], inputs: bool = False) -> Iterator[dict[str, Tensor]]:
    """Keep the last output (or input) of modules under their keys while the context lasts."""
    found: dict[str, Tensor] = {}
    handles = []
    for key, module in modules.items():

        def keep(_: Any, given: Any, output: Any, key: str = key) -> None:
            found[key] = given[0] if inputs else hidden_of(output)

        handles.append(module.register_forward_hook(keep))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _replaced(module: Any, change: Callable[[tuple[Any, ...], Tensor], Tensor | None]) -> Iterator[None]:
    """Pass a module's positional arguments and output hidden states through a function; None leaves the output as it is, to the bit."""

    def replace(_: Any, args: tuple[Any, ...], output: Any) -> Any:
        hidden = change(args, hidden_of(output))
        if hidden is None:
            return output
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handle = module.register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()


def hooked(module: Any, change: Callable[[Tensor, Tensor], Tensor | None]) -> AbstractContextManager[None]:
    """Pass a module's input and output hidden states through a function while the context lasts; None leaves the output as it is, to the bit."""
    return _replaced(module, lambda args, hidden: change(args[0], hidden))


def changed_output(module: Any, change: Any) -> AbstractContextManager[None]:
    """Pass a module's output hidden states through a function while the context lasts."""
    return _replaced(module, lambda _, hidden: change(hidden))


@contextmanager
def replaced_input(module: Any, hidden: Tensor) -> Iterator[None]:
    """Give a module other hidden states than it would get, while the context lasts."""
    handle = module.register_forward_pre_hook(lambda _, args: (hidden, *args[1:]))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def only_at(arch: Architecture, layer: int, row: Tensor, place: Tensor) -> Iterator[None]:
    """Run a block's feed-forward network at some (row, place) alone while the context lasts; elsewhere it gives zeros, which nobody may read."""
    if arch.layout.mlp == arch.layout.rewrite:  # the network is not one module
        yield
        return
    network, shape = arch.part(layer, "mlp"), []

    def gather(_: Any, args: Any) -> Any:
        shape.append(args[0].shape)
        return (args[0][row, place][None], *args[1:])

    def scatter(states: Tensor) -> Tensor:
        rows, length, width = shape.pop()
        return states.new_zeros(rows, length, width).index_put((row, place), states[0])

    handle = network.register_forward_pre_hook(gather)
    try:
        with changed_output(network, scatter):
            yield
    finally:
        handle.remove()


@contextmanager
def frozen(model: Any) -> Iterator[None]:
    """No gradients for weights, evaluation mode; both as they were afterwards."""
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    training = model.training
    model.eval()
    for parameter, _ in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        model.train(training)
        for parameter, flag in wanted:
            parameter.requires_grad_(flag)
