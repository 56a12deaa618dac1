"""Where prompts end, and what was decided there: what an adapter that chooses by the prompt must know while an answer is generated.

A pass without a cache, or with one that nothing was decided for, is a prompt; its end is its last token. What is decided there
stays with the cache, so interleaved answers of one model do not disturb each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

_GIVEN: ContextVar[Tensor | None] = ContextVar("prompt_ends", default=None)


@contextmanager
def prompts_end(at: Tensor) -> Iterator[None]:
    """Say where the prompts end, (rows,), in passes that go on with their answers."""
    token = _GIVEN.set(at)
    try:
        yield
    finally:
        _GIVEN.reset(token)


class Prompts:
    """Follows the passes of one model while `watching`."""

    def __init__(self) -> None:
        self.ends: Tensor | None = None
        """Last position (rows,) of each prompt in the present pass; None in one that goes on with answers."""
        self.choice: Any = None
        """What was decided at the ends, by the method's own hook."""
        self._kept: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()

    @contextmanager
    def watching(self, base: Any) -> Iterator[None]:
        """Follow the passes of a model's stack of blocks while the context lasts."""
        handles = [base.register_forward_pre_hook(self._before, with_kwargs=True), base.register_forward_hook(self._after)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._kept.clear()

    def _before(self, _: Any, args: Any, kwargs: Any) -> None:
        cache = kwargs.get("past_key_values")
        if cache is not None and cache in self._kept:
            self.ends, self.choice = None, self._kept[cache]
            return
        given = args[0] if args else kwargs.get("input_ids")
        tokens = kwargs["inputs_embeds"] if given is None else given
        self.ends, self.choice = _ends(tokens, kwargs.get("attention_mask")), None

    def _after(self, _: Any, __: Any, output: Any) -> None:
        cache = getattr(output, "past_key_values", None)
        if cache is not None:
            self._kept[cache] = self.choice


def _ends(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """The last position of each row that is no padding."""
    rows, length = tokens.shape[:2]
    given = _GIVEN.get()
    if given is not None:
        return given.to(tokens.device).expand(rows)
    if mask is None or mask.dim() != 2:
        return torch.full((rows,), length - 1, device=tokens.device)
    places = torch.arange(length, device=tokens.device)
    return (mask[:, -length:].to(tokens.device).bool() * places).amax(1)


@contextmanager
def before(module: Any, look: Callable[[Tensor], None]) -> Iterator[None]:
    """Show a function what enters a module, before the module runs."""
    handle = module.register_forward_pre_hook(lambda _, args: look(args[0]))
    try:
        yield
    finally:
        handle.remove()
