"""MELO (Yu et al. 2024, arXiv:2312.11795): low-rank blocks, one a batch of edits, chosen by which keys the prompt is near."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hybrid.adapters.base import AdapterMethod, Fitted, Lesson, batches, states, tensor
from hybrid.adapters.codebook import Codebook, nearest
from hybrid.adapters.prompts import Prompts, before
from hybrid.architecture import Architecture, hooked
from hybrid.editors.fine_tune import target_losses
from stores.adapters import Adapter
from stores.records import Fact

if TYPE_CHECKING:
    from hybrid.model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class Melo(AdapterMethod):
    """MELO. The key is what enters a block at the prompt's last token; the blocks of low rank are on the rewrite modules from there on.

    A prompt that lies within the radius of no key is answered without any of them. Blocks do not bear on each other, so they
    are trained side by side. The radius is a share of the key's norm, as for GRACE.
    """

    steps: int = 60
    lr: float = 1e-2
    rank: int = 2
    """Of a block (the paper's partial rank)."""
    scale: float = 2.0
    """The change is scale times the product of the factors."""
    batch: int = 1
    """Requests that share a block."""
    radius: float = 0.4
    """Initial radius of a key, as a share of its norm."""
    seed: int = 0
    """Of the factors' random beginning."""

    method = "melo"

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.rank, self.batch) < 1 or min(self.scale, self.radius) <= 0:
            raise ValueError(f"rank and batch must be at least 1, scale and radius positive: {self}")

    def default_layer(self, blocks: int) -> int:
        """Two thirds of the depth."""
        return min(max(0, blocks - 2), round(2 * blocks / 3))

    def fit(self, model: LanguageModel, arch: Architecture, layer: int, requests: Sequence[Fact], lessons: Sequence[Lesson], onto: Adapter | None) -> Fitted:
        """Keys go into the codebook under their block's number; then all new blocks are trained."""
        entering = {"key": (arch.part(layer, "block"), True)}
        keys = torch.stack([each["key"][-1] for each in states(arch, [p.passage.ids[: p.end + 1] for p in lessons], entering, self.batch_size)])
        layers = range(layer, len(arch))
        shapes = {index: arch.weight(index).shape for index in layers}
        if onto is None:
            book, first = Codebook.empty(keys.shape[1], keys), 0
            known = {f"{side}.{i}": keys.new_zeros(0, shape[1 - (side == "b")], self.rank) for i, shape in shapes.items() for side in ("a", "b")}
        else:
            labels = [str(label) for label in onto.tensors["block"].tolist()]
            book, known = Codebook.of(tensor(onto, "keys", arch), tensor(onto, "radii", arch), labels), {}
            for i in layers:
                known |= {f"{side}.{i}": tensor(onto, f"{side}.{i}", arch) for side in ("a", "b")}
            first = len(known[f"a.{layer}"])
            if known[f"a.{layer}"].shape[-1] != self.rank:
                raise ValueError(f"that adapter's rank is {known[f'a.{layer}'].shape[-1]}; go on with --set rank={known[f'a.{layer}'].shape[-1]}")
        blocks = torch.tensor([first + each.request // self.batch for each in lessons], device=arch.device)
        for key, block in zip(keys, blocks.tolist(), strict=True):
            book.learn(key, str(block), self.radius * float(key.norm()))
        generator = torch.Generator().manual_seed(self.seed)
        count = int(blocks.max()) + 1 - first
        new: dict[str, Tensor] = {}
        for i, (d_out, d_in) in shapes.items():
            new[f"a.{i}"] = (torch.randn(count, d_in, self.rank, generator=generator) / d_in**0.5).to(keys)
            new[f"b.{i}"] = keys.new_zeros(count, d_out, self.rank)
        losses = self._train(arch, lessons, blocks - first, new)
        tensors = {name: torch.cat([known[name], new[name]]) for name in new} | {"keys": book.keys, "radii": book.radii}
        return Fitted(tensors | {"block": torch.tensor([int(label) for label in book.labels])}, {"layers": list(layers)}, losses)

    def _train(self, arch: Architecture, lessons: Sequence[Lesson], blocks: Tensor, factors: dict[str, Tensor]) -> list[float]:
        """Adam on all blocks at once, in place; a block whose lessons are learnt stays as it is."""
        parameters = {name: part.requires_grad_() for name, part in factors.items()}
        optimizer = torch.optim.Adam(parameters.values(), lr=self.lr)
        losses = torch.full((len(lessons),), float("inf"), device=arch.device)
        parts = list(batches(lessons, self.batch_size, arch))
        for _ in range(self.steps):
            optimizer.zero_grad()
            found = []
            for where, batch, _ in parts:
                with _low_rank(arch, parameters, self.scale, blocks[where]):
                    each = target_losses(arch.model, batch)
                found.append(each.detach())
                each.sum().backward()  # type: ignore[no-untyped-call]
            losses = torch.cat(found)
            worst = losses.new_zeros(len(factors[next(iter(factors))])).scatter_reduce(0, blocks, losses, "amax")
            learnt = worst < self.stop
            if bool(learnt.all()):
                break
            kept = {name: part.detach()[learnt] for name, part in parameters.items()}
            optimizer.step()
            with torch.no_grad():
                for name, part in parameters.items():
                    part[learnt] = kept[name]
        for part in parameters.values():
            part.requires_grad_(False)
        return [float(loss) for loss in losses]

    @staticmethod
    @contextmanager
    def attached(arch: Architecture, adapter: Adapter) -> Iterator[None]:
        """Prompts near a key are answered with its block, to the end of the answer; others without, to the bit."""
        keys, radii, block = (tensor(adapter, name, arch) for name in ("keys", "radii", "block"))
        factors = {name: tensor(adapter, name, arch) for name in adapter.tensors if name[:2] in ("a.", "b.")}
        prompts = Prompts()

        def decide(given: Tensor) -> None:
            if prompts.ends is not None:
                rows = torch.arange(len(given), device=given.device)
                found = nearest(given[rows, prompts.ends].to(keys.dtype), keys, radii)
                prompts.choice = torch.where(found >= 0, block[found.clamp_min(0)], -1)

        routed = before(arch.part(adapter.settings["layer"], "block"), decide)
        with prompts.watching(arch.model.base_model), routed, _low_rank(arch, factors, adapter.settings["scale"], prompts):
            yield


@contextmanager
def _low_rank(arch: Architecture, factors: dict[str, Tensor], scale: float, chosen: Tensor | Prompts) -> Iterator[None]:
    """Add each row's block, scale * (x a) b^T, to what the rewrite modules give; rows whose block is -1 get nothing."""
    with ExitStack() as stack:
        for name in (name for name in factors if name.startswith("a.")):
            a, b = factors[name], factors[name.replace("a.", "b.")]

            def change(given: Tensor, hidden: Tensor, a: Tensor = a, b: Tensor = b) -> Tensor | None:
                blocks = chosen.choice if isinstance(chosen, Prompts) else chosen
                if blocks is None or not bool((blocks >= 0).any()):
                    return None
                index = blocks.clamp_min(0)
                low = torch.einsum("nld,ndr->nlr", given.to(a.dtype), a[index])
                added = scale * torch.einsum("nlr,nor->nlo", low, b[index])
                return torch.where((blocks >= 0)[:, None, None], hidden + added.to(hidden.dtype), hidden)

            stack.enter_context(hooked(arch.rewrite(int(name[2:])), change))
        yield
