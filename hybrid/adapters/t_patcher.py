"""T-Patcher (Huang et al. 2023, arXiv:2301.09785): one more neuron in the last feed-forward network for each token that the model gets wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hybrid.adapters.base import AdapterMethod, Fitted, Lesson, states, tensor
from hybrid.adapters.unrelated import texts
from hybrid.architecture import Architecture, captured, hooked
from stores.adapters import Adapter
from stores.errors import UnsupportedModel
from stores.records import Fact

if TYPE_CHECKING:
    from hybrid.model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class TPatcher(AdapterMethod):
    """T-Patcher. A patch adds relu(q . k + b) v to what the last block gives, where q enters its feed-forward network.

    Above the last block positions do not see each other, so a patch is trained on the states at its own token, and runs nothing
    but the head. k begins at q / |q|^2 and b at 0, as in the authors' code: the patch is active on its own token. What the memory
    holds must stay below `margin` and `gap` below the activation; with the rectifier that is no change at all.
    """

    steps: int = 200
    lr: float = 0.02
    """Adam's step for k as a share of 1 / |q|, and for b."""
    strength: float = 0.1
    """Adam's step for v as a share of the state's root mean square."""
    activate: float = 1.0
    """Weight a of the activation loss exp(-(q . k + b))."""
    memorize: float = 10.0
    """Weight m of the memory loss."""
    margin: float = -0.5
    """beta: what the memory's activations are pushed below."""
    gap: float = 0.5
    """gamma: how far they are pushed below the patch's own activation."""
    top: int = 200
    """How many of the memory's largest terms are averaged."""

    method = "t-patcher"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.strength <= 0 or min(self.activate, self.memorize, self.gap) < 0 or self.margin > 0 or self.top < 1:
            raise ValueError(f"strength and top must be positive, activate, memorize and gap not negative, margin not positive: {self}")

    def default_layer(self, blocks: int) -> int:
        """The last block."""
        return blocks - 1

    def fit(self, model: LanguageModel, arch: Architecture, layer: int, requests: Sequence[Fact], lessons: Sequence[Lesson], onto: Adapter | None) -> Fitted:
        """A patch for each target token that the model, with the patches that it has, gets wrong behind the right ones."""
        if layer != len(arch) - 1:
            raise ValueError(f"T-Patcher's layer is the last block, {len(arch) - 1}; leave it out")
        modules = {"q": (_network(arch), True), "h": (arch.part(layer, "block"), False)}
        width = arch.weight(layer).shape[0]
        known = [tensor(onto, name, arch) for name in ("k", "b", "v")] if onto is not None else _none(width, arch)
        seen = states(arch, [each.passage.ids for each in lessons], modules, self.batch_size)
        places = [(n, each.end + i, token) for n, each in enumerate(lessons) for i, token in enumerate(each.passage.target_ids)]
        q, h = (torch.stack([seen[n][key][at] for n, at, _ in places]) for key in ("q", "h"))
        h = h + _patched(q, *known)
        token = torch.tensor([token for *_, token in places], device=arch.device)
        with torch.no_grad():
            wrong = self._losses(arch, h, token)[1].nonzero()[:, 0]
        memory = torch.cat([each["q"] for each in states(arch, texts(model, requests, self.questions, self.wordings), {"q": modules["q"]}, self.batch_size)])
        ends = torch.stack([each["q"][-1] for each in seen])  # behind the target, where the model must find its own way on
        others = torch.cat([q, ends]), torch.cat([token, torch.full((len(ends),), -1, device=token.device)])
        k, b, v = self._train(arch, q[wrong], h[wrong], token[wrong], memory, *others) if len(wrong) else _none(width, arch)
        with torch.no_grad():
            each, _ = self._losses(arch, h + _patched(q, k, b, v), token)
        losses = [float(torch.stack([loss for loss, place in zip(each, places, strict=True) if place[0] == n]).mean()) for n in range(len(lessons))]
        tensors = {name: torch.cat([old, new]) for name, old, new in zip(("k", "b", "v"), known, (k, b, v), strict=True)}
        of = [*(onto.extra["patches"] if onto is not None else ()), *(lessons[places[int(i)][0]].label for i in wrong)]
        return Fitted(tensors, {"patches": of, "memory": len(memory)}, losses)

    def _losses(self, arch: Architecture, h: Tensor, token: Tensor) -> tuple[Tensor, Tensor]:
        """-log p of each token (n,) after states h (n, d) of the last block, and whether another token is likelier."""
        norm = arch.model.get_submodule(arch.layout.norm)
        scores = arch.logits(norm(h.to(arch.weight(0).dtype)))
        return torch.nn.functional.cross_entropy(scores, token, reduction="none"), scores.argmax(-1) != token

    def _train(
        self, arch: Architecture, q: Tensor, h: Tensor, token: Tensor, memory: Tensor, taught: Tensor, next_token: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Patches k (n, d), b (n,), v (n, d) of n errors, each for itself: l_e + a l_a + m l_m, by Adam.

        The memory of a patch are the unrelated states and those that were taught another token.
        """
        size, scale = q.norm(dim=1, keepdim=True), h.pow(2).mean(1, keepdim=True).sqrt()
        own, others = q / size, torch.cat([memory, taught])
        rival = torch.cat([torch.ones(len(q), len(memory), dtype=torch.bool, device=q.device), token[:, None] != next_token[None]], 1)
        u, b, w = own.clone().requires_grad_(), q.new_zeros(len(q), requires_grad=True), torch.zeros_like(h).requires_grad_()
        optimizer = torch.optim.Adam([{"params": [u, b], "lr": self.lr}, {"params": [w], "lr": self.strength}])
        kept = [u.detach().clone(), b.detach().clone(), w.detach().clone()]
        done = torch.zeros(len(q), dtype=torch.bool, device=q.device)
        for _ in range(self.steps):
            act = (own * u).sum(1) + b
            target, _ = self._losses(arch, h + act.clamp_min(0)[:, None] * w * scale, token)
            remembered = (u / size) @ others.T + b[:, None]  # (n, memory)
            below = self._top(remembered - self.margin, rival)
            apart = self._top(remembered - act[:, None] + self.gap, rival)
            quiet = (remembered.masked_fill(~rival, -1) <= 0).all(1)
            now = (target < self.stop) & quiet & (act > 0) & ~done
            for place, tensor_ in zip(kept, (u, b, w), strict=True):
                place[~done] = tensor_.detach()[~done]
            done |= now
            if bool(done.all()):
                break
            loss = target + self.activate * torch.exp(-act) + self.memorize * (below + apart)
            optimizer.zero_grad()
            loss[~done].sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        u_, b_, w_ = kept
        return u_ / size, b_, w_ * scale

    def _top(self, excess: Tensor, counted: Tensor) -> Tensor:
        """S(x; k) of the paper: mean of the k largest exp(x), (n,), of (n, m).

        What keeps the margin costs nothing (the authors' "expmargin"): else the memory pushes a patch down that offends nobody, till it is dead.
        """
        terms = excess.exp().masked_fill(~counted | (excess <= 0), 0.0)
        return terms.topk(min(self.top, terms.shape[1]), dim=1).values.mean(1)

    @staticmethod
    @contextmanager
    def attached(arch: Architecture, adapter: Adapter) -> Iterator[None]:
        """The patches' sum is added at each position where one is active; elsewhere nothing changes, to the bit."""
        patches = [tensor(adapter, name, arch) for name in ("k", "b", "v")]

        with captured({"q": _network(arch)}, inputs=True) as seen:

            def change(_: Tensor, hidden: Tensor) -> Tensor | None:
                q = seen.pop("q")
                act = _activations(q, *patches[:2])
                if not bool((act > 0).any()):
                    return None
                return torch.where((act > 0).any(-1, keepdim=True), hidden + (act @ patches[2]).to(hidden.dtype), hidden)

            with hooked(arch.part(len(arch) - 1, "block"), change):
                yield


def _network(arch: Architecture) -> torch.nn.Module:
    """The last feed-forward network.

    Raises:
        UnsupportedModel: if it is not one module.
    """
    if arch.layout.mlp == arch.layout.rewrite:
        raise UnsupportedModel(f"the feed-forward network of {arch.config.model_type!r} is not one module, so T-Patcher cannot be used on it; try grace")
    network: torch.nn.Module = arch.part(len(arch) - 1, "mlp")
    return network


def _activations(q: Tensor, k: Tensor, b: Tensor) -> Tensor:
    """relu(q . k + b), (..., patches)."""
    return (q.to(k.dtype) @ k.T + b).clamp_min(0)


def _patched(q: Tensor, k: Tensor, b: Tensor, v: Tensor) -> Tensor:
    """What patches add to states, (n, d)."""
    return _activations(q, k, b) @ v


def _none(width: int, arch: Architecture) -> tuple[Tensor, Tensor, Tensor]:
    empty = torch.zeros(0, width, device=arch.device, dtype=arch.precise)
    return empty, empty[:, 0], empty.clone()
