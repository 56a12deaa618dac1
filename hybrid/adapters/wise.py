"""WISE (Wang et al. 2024, arXiv:2405.14768): a side memory of one rewrite weight, which answers where its activation is far enough from the main one's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hybrid.adapters.base import AdapterMethod, Fitted, Lesson, batches, states, tensor
from hybrid.adapters.prompts import Prompts
from hybrid.adapters.unrelated import texts
from hybrid.architecture import Architecture, hooked
from hybrid.editors.fine_tune import target_losses
from stores.adapters import Adapter
from stores.errors import Conflict
from stores.records import Fact

if TYPE_CHECKING:
    from hybrid.model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class Wise(AdapterMethod):
    """WISE, with one side memory a shard. A prompt goes to the memory whose |D a|, with a what enters the rewrite module at its last token, is largest.

    D is the memory less the main weight, and the routing activation of the paper (equation 2). Below the least activation of what a
    memory was taught (equation 4), nothing changes. The margins are shares of the norm of what the main weight gives, so that
    they mean the same in every model. Facts are dealt into shards of `shard`, each with its own memory and its own random mask
    (the paper's retrieve variant, section 2.3.2).
    """

    steps: int = 70
    lr: float = 2e-3
    ratio: float = 0.5
    """Share of the entries that a shard's mask lets change."""
    shard: int = 20
    """Facts in a memory."""
    alpha: float = 0.2
    """What unrelated activations are pushed below."""
    beta: float = 0.8
    """What the activations of the facts are pushed above."""
    gamma: float = 0.4
    """How far the two are pushed apart."""
    reach: float = 0.0
    """How far the threshold lies below the least activation of what was taught, as a share of the way to the largest unrelated one; the paper's is 0.

    With it a memory of one fact claims that very prompt alone, since the paper teaches each fact behind many random prefixes, and this does not.
    """
    seed: int = 0
    """Of the masks."""

    method = "wise"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.ratio <= 1 or self.shard < 1 or min(self.alpha, self.beta, self.gamma) < 0:
            raise ValueError(f"ratio must be in (0, 1], shard at least 1, alpha, beta and gamma not negative: {self}")
        if not 0 <= self.reach < 1:
            raise ValueError(f"reach must be at least 0 and less than 1, not {self.reach}")

    def default_layer(self, blocks: int) -> int:
        """Two thirds of the depth (the paper's are mid to late)."""
        return min(max(0, blocks - 2), round(2 * blocks / 3))

    def fit(self, model: LanguageModel, arch: Architecture, layer: int, requests: Sequence[Fact], lessons: Sequence[Lesson], onto: Adapter | None) -> Fitted:
        """A memory for each shard, trained on the targets and on the margins."""
        module = {"a": (arch.rewrite(layer), True), "out": (arch.rewrite(layer), False)}
        seen = states(arch, [each.passage.ids[: each.end + 1] for each in lessons], module, self.batch_size)
        keys = torch.stack([each["a"][-1] for each in seen])
        size = float(torch.stack([each["out"][-1] for each in seen]).norm(dim=1).mean())
        unrelated = torch.stack([each["a"][-1] for each in states(arch, texts(model, requests, self.questions, self.wordings), module, self.batch_size)])
        generator = torch.Generator().manual_seed(self.seed if onto is None else self.seed + len(onto.tensors["threshold"]))
        memories, thresholds, losses = [], [], []
        for start in range(0, len(requests), self.shard):
            mine = [n for n, each in enumerate(lessons) if start <= each.request < start + self.shard]
            mask = (torch.rand(arch.weight(layer).shape, generator=generator) < self.ratio).to(keys)
            memory, found = self._train(arch, layer, [lessons[n] for n in mine], keys[mine], unrelated, size, mask)
            memories.append(memory)
            least, most = _activation(memory, keys[mine]).min(), _activation(memory, unrelated).max()
            thresholds.append(least - self.reach * (least - most).clamp_min(0))
            losses += found
        made = {"memory": torch.stack(memories), "threshold": torch.stack(thresholds) * (1 - 1e-4)}  # rounding must not lose the weakest one
        if onto is not None:
            if onto.tensors["memory"].shape[1:] != made["memory"].shape[1:]:
                raise Conflict("that adapter has memories of another shape; make a new one")
            made = {name: torch.cat([tensor(onto, name, arch), part]) for name, part in made.items()}
        return Fitted(made, {"unrelated": len(unrelated)}, losses)

    def _train(
        self, arch: Architecture, layer: int, lessons: Sequence[Lesson], keys: Tensor, unrelated: Tensor, size: float, mask: Tensor
    ) -> tuple[Tensor, list[float]]:
        """D (d_out, d_in), and each lesson's loss: L_edit + L_a (equation 3) by Adam on what the mask lets change."""
        change = torch.zeros_like(mask, requires_grad=True)
        optimizer = torch.optim.Adam([change], lr=self.lr)
        parts = list(batches(lessons, self.batch_size, arch))
        losses: list[float] = []
        for step in range(self.steps + 1):
            memory = change * mask
            losses = []
            optimizer.zero_grad()
            for _, batch, _ends in parts:
                with _side(arch, layer, memory):
                    each = target_losses(arch.model, batch)
                losses += each.tolist()
                each.sum().backward(retain_graph=True)  # type: ignore[no-untyped-call]
            own, other = _activation(memory, keys) / size, _activation(memory, unrelated) / size
            margin = (other - self.alpha).clamp_min(0).mean() + (self.beta - own).clamp_min(0).mean()
            margin = margin + (self.gamma - (own[:, None] - other[None])).clamp_min(0).mean()
            if step == self.steps or (max(losses) < self.stop and float(own.detach().min()) > float(other.detach().max())):
                break
            (margin * len(lessons)).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return (change * mask).detach(), losses

    @staticmethod
    @contextmanager
    def attached(arch: Architecture, adapter: Adapter) -> Iterator[None]:
        """Prompts that a memory claims are answered with it, to the end of the answer; others with the main weight, to the bit."""
        memory, threshold = (tensor(adapter, name, arch) for name in ("memory", "threshold"))
        prompts = Prompts()

        def change(given: Tensor, hidden: Tensor) -> Tensor | None:
            a = given.to(memory.dtype)
            if prompts.ends is not None:
                rows = torch.arange(len(given), device=given.device)
                strength = torch.stack([_activation(each, a[rows, prompts.ends]) for each in memory])
                strength = torch.where(strength >= threshold[:, None], strength, -torch.inf)
                best, index = strength.max(0)
                prompts.choice = torch.where(torch.isfinite(best), index, -1)
            chosen = prompts.choice
            if chosen is None or not bool((chosen >= 0).any()):
                return None
            added = torch.stack([row @ memory[int(which)].T for row, which in zip(a, chosen.clamp_min(0), strict=True)])
            return torch.where((chosen >= 0)[:, None, None], hidden + added.to(hidden.dtype), hidden)

        with prompts.watching(arch.model.base_model), hooked(arch.rewrite(adapter.settings["layer"]), change):
            yield


def _activation(memory: Tensor, keys: Tensor) -> Tensor:
    """|D a| (n,) of keys a (n, d_in); its gradient is finite where D is zero."""
    return ((keys @ memory.T).pow(2).sum(1) + 1e-12).sqrt()


@contextmanager
def _side(arch: Architecture, layer: int, memory: Tensor) -> Iterator[None]:
    """The model with a memory on every token."""
    module = arch.rewrite(layer)

    def add(given: Tensor, hidden: Tensor) -> Tensor:
        return hidden + (given.to(memory.dtype) @ memory.T).to(hidden.dtype)

    with hooked(module, add):
        yield
