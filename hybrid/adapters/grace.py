"""GRACE (Hartvigsen et al. 2023, arXiv:2211.11031): a codebook at one layer, whose values stand in for the layer's output near its keys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hybrid.adapters.base import AdapterMethod, Fitted, Lesson, batches, state_losses, states, tensor
from hybrid.adapters.codebook import Codebook, nearest
from hybrid.adapters.prompts import Prompts
from hybrid.architecture import Architecture, captured, hooked
from hybrid.editors.rows import run
from stores.adapters import Adapter
from stores.records import Fact

if TYPE_CHECKING:
    from hybrid.model import LanguageModel

PLACES = ("prompt", "last")


@dataclass(frozen=True, kw_only=True)
class Grace(AdapterMethod):
    """GRACE. The key is what enters a block at the prompt's last token, the value what leaves it at the prompt's tokens (the authors' `replace_prompt`).

    Requests are learnt in their order, as a stream; values are trained from what the block gave (the paper's warm start).
    The paper's radius and learning rate are numbers for one model each; here both are shares of what the model has there, so that
    they mean the same at every layer and width.
    """

    radius: float = 0.4
    """Initial deferral radius, as a share of the key's norm."""
    replace: str = "prompt"
    """Where the value stands: at all of the prompt's tokens ("prompt"), so that the whole of a long target can see nothing else of it, or at its "last" one."""

    method = "grace"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.radius < float("inf"):
            raise ValueError(f"radius must be positive, not {self.radius}")
        if self.replace not in PLACES:
            raise ValueError(f"replace must be one of {', '.join(PLACES)}, not {self.replace!r}")

    def default_layer(self, blocks: int) -> int:
        """A third of the depth: what follows the target's first token learns of the value through the blocks above alone, and needs some."""
        return min(max(0, blocks - 2), round(blocks / 3))

    def fit(self, model: LanguageModel, arch: Architecture, layer: int, requests: Sequence[Fact], lessons: Sequence[Lesson], onto: Adapter | None) -> Fitted:
        """The codebook walks through the lessons; then the values that it asks for are trained together."""
        block = arch.part(layer, "block")
        seen = states(arch, [each.passage.ids[: each.end + 1] for each in lessons], {"key": (block, True), "value": (block, False)}, self.batch_size)
        keys, initial = (torch.stack([each[which][-1] for each in seen]) for which in ("key", "value"))
        if onto is None:
            book, values = Codebook.empty(keys.shape[1], keys), initial[:0]
        else:
            book = Codebook.of(tensor(onto, "keys", arch), tensor(onto, "radii", arch), onto.extra["labels"])
            values = tensor(onto, "values", arch)
        places: list[tuple[int, bool]] = [book.learn(key, each.label, self.radius * float(key.norm())) for key, each in zip(keys, lessons, strict=True)]
        teacher = {index: number for number, (index, new) in enumerate(places) if new}  # the last lesson that claimed an entry
        numbers = list(teacher.values())
        trained, losses = self._train(arch, layer, [lessons[n] for n in numbers], initial[numbers])
        values = torch.cat([values, values.new_zeros(len(book) - len(values), values.shape[1])])
        values[list(teacher)] = trained
        loss_of = dict(zip(teacher, losses, strict=True))
        tensors = {"keys": book.keys, "values": values, "radii": book.radii}
        return Fitted(tensors, {"labels": book.labels}, [loss_of.get(index, 0.0) for index, _ in places])

    def _train(self, arch: Architecture, layer: int, lessons: Sequence[Lesson], initial: Tensor) -> tuple[Tensor, list[float]]:
        """Values (n, d) with which each lesson's target follows, by Adam; and the losses that they reach."""
        final, losses = initial.clone(), [0.0] * len(lessons)
        for part, batch, ends in batches(lessons, self.batch_size, arch):
            scale = initial[part].pow(2).mean(1, keepdim=True).sqrt()
            change = torch.zeros_like(initial[part], requires_grad=True)
            optimizer = torch.optim.Adam([change], lr=self.lr)
            with torch.no_grad(), captured({"out": arch.part(layer, "block")}) as seen:
                run(arch, batch.ids, batch.mask, last=layer)
            below = seen["out"]
            places = _places(below, ends, self.replace)
            best = torch.full((len(ends),), float("inf"), device=ends.device)
            for _ in range(self.steps):
                value = initial[part] + scale * change
                out, _ = run(arch, batch.ids, batch.mask, first=layer + 1, hidden=torch.where(places, value[:, None].to(below.dtype), below))
                each = state_losses(arch, out, batch)
                better = (each.detach() < best) & ~(best < self.stop)
                best = torch.where(better, each.detach(), best)
                final[part] = torch.where(better[:, None], value.detach(), final[part])
                if bool((best < self.stop).all()):
                    break
                optimizer.zero_grad()
                each.sum().backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            losses[part] = best.tolist()
        return final, losses

    @staticmethod
    @contextmanager
    def attached(arch: Architecture, adapter: Adapter) -> Iterator[None]:
        """The value of the nearest key, if the state at the prompt's last token lies within its radius, takes the place of the block's output there."""
        keys, values, radii = (tensor(adapter, name, arch) for name in ("keys", "values", "radii"))
        prompts = Prompts()

        def change(given: Tensor, hidden: Tensor) -> Tensor | None:
            if prompts.ends is None:
                return None
            rows = torch.arange(len(hidden), device=hidden.device)
            found = nearest(given[rows, prompts.ends].to(keys.dtype), keys, radii)
            if not bool((found >= 0).any()):
                return None
            places = _places(hidden, prompts.ends, adapter.settings.get("replace", "last")) & (found >= 0)[:, None, None]
            return torch.where(places, values[found.clamp_min(0)][:, None].to(hidden.dtype), hidden)

        with prompts.watching(arch.model.base_model), hooked(arch.part(adapter.settings["layer"], "block"), change):
            yield


def _places(hidden: Tensor, ends: Tensor, replace: str) -> Tensor:
    """Which positions of states (rows, length, d) take the value, (rows, length, 1)."""
    at = torch.arange(hidden.shape[1], device=hidden.device)
    return (at == ends[:, None] if replace == "last" else at <= ends[:, None])[..., None]
