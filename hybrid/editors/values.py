"""Values: the state at the subject's last token that makes the model say the target, optimised for many facts at once.

The loss and its stop are those of ROME and MEMIT, fact by fact (Meng et al. 2022, 2023); what is shared is the work. States
below the edited layer do not depend on the value and are computed once; positions before the subject's last token
cannot depend on it either (attention is causal), so their keys and values are kept; the head runs where
targets and the KL term need it; facts that are done leave the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import DynamicCache

from hybrid.architecture import Architecture, captured, changed_output, frozen
from hybrid.editors.requests import Passage, passage
from stores.errors import HybridError
from stores.records import Fact

if TYPE_CHECKING:
    from hybrid.model import LanguageModel

KL_PROMPT = "{} is a"
MEMORY = 1_500_000_000
"""Bytes that one batch's activations may take."""


@dataclass(frozen=True, kw_only=True)
class ValueSettings:
    """How a value is optimised; names follow the papers' quantities."""

    steps: int = 25
    """Forward passes; one Adam step fewer."""
    lr: float = 0.5
    decay: float = 0.5
    """Weight of |delta| / |initial value|^2."""
    clamp: float = 0.75
    """Largest |delta| as a multiple of the initial value's norm."""
    kl: float = 0.0625
    """Weight of KL(before || after) of what follows "{subject} is a"."""
    stop: float = 0.05
    """Loss under which a fact is done."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.lr <= 0 or self.clamp <= 0 or min(self.decay, self.kl, self.stop) < 0:
            raise ValueError(f"steps must be at least 1, lr and clamp positive, decay, kl and stop not negative: {self}")


@dataclass(frozen=True)
class Values:
    """Targets (n, d) of the edited state, float32 or finer, the losses (n,) that they reached, and the steps (n,) that they took."""

    targets: Tensor
    losses: Tensor
    steps: Tensor


@dataclass(frozen=True)
class _Row:
    fact: int
    passage: Passage
    """The last row of a fact is the KL prompt; the others end with the target."""
    is_kl: bool


def optimise_values(
    model: LanguageModel,
    arch: Architecture,
    requests: Sequence[Fact],
    prefixes: Sequence[str],
    layer: int,
    settings: ValueSettings,
    *,
    at: str = "block",
    batch_size: int = 0,
) -> Values:
    """Optimise the values of all requests.

    Args:
        prefixes: texts before the prompt; the first is empty.
        layer: the block whose state at the subject's last token is optimised.
        at: "block" for the block's output (MEMIT), "rewrite" for its rewrite module's output (ROME).
        batch_size: facts at once; chosen by memory if 0. It does not change the values but for rounding.
    Raises:
        HybridError: if values cannot be optimised there.
    """
    if at == "block" and not arch.layout.plain:
        at = "rewrite_in_block"
    rows = [
        [
            *(_Row(n, passage(model.tokenizer, request.prompt, request.subject, request.target_new, prefix), False) for prefix in prefixes),
            _Row(n, passage(model.tokenizer, KL_PROMPT, request.subject), True),
        ]
        for n, request in enumerate(requests)
    ]
    order = sorted(range(len(requests)), key=lambda n: max(len(row.passage.ids) for row in rows[n]))
    size = batch_size or fitting_batch(arch, max(len(row.passage.ids) for group in rows for row in group), len(prefixes) + 1)
    width = arch.weight(layer).shape[0]
    found = Values(torch.zeros(len(requests), width, dtype=arch.precise), torch.zeros(len(requests)), torch.zeros(len(requests), dtype=torch.long))
    with frozen(arch.model), tqdm(total=len(requests), desc="values", unit="fact", disable=None) as bar:
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            part = _Batch(arch, [[_Row(i, row.passage, row.is_kl) for row in rows[n]] for i, n in enumerate(chosen)], layer, at).optimise(settings)
            where = torch.tensor(chosen)
            found.targets[where], found.losses[where], found.steps[where] = part.targets, part.losses.float(), part.steps
            bar.update(len(chosen))
    if not torch.isfinite(found.targets).all():
        bad = [requests[int(n)].subject for n in (~torch.isfinite(found.targets).all(1)).nonzero()[:3]]
        raise HybridError(f"the values of {', '.join(bad)} diverged; use a smaller --set lr=... or clamp=...")
    return found


def fitting_batch(arch: Architecture, longest: int, rows: int) -> int:
    """How many facts fit into `MEMORY` bytes, given the longest row and the rows of a fact."""
    d_out, d_in = arch.weight(0).shape
    token = 4 * len(arch) * (10 * d_out + 4 * d_in)  # what a backward pass keeps, float32
    return max(1, min(1024, MEMORY // (token * longest * rows)))


class _Batch:
    """Some facts, optimised together; `rows[i]` are the passages of fact i."""

    def __init__(self, arch: Architecture, rows: list[list[_Row]], layer: int, at: str):
        self.arch, self.layer, self.at, self.count = arch, layer, at, len(rows)
        self.first = layer + 1 if at != "rewrite_in_block" else layer
        flat = [row for group in rows for row in group]
        self.fact = torch.tensor([row.fact for row in flat], device=arch.device)
        self.is_kl = torch.tensor([row.is_kl for row in flat], device=arch.device)
        self.bare = torch.tensor([next(i for i, row in enumerate(flat) if row.fact == n) for n in range(self.count)], device=arch.device)
        self._prepare(flat)

    @torch.no_grad()
    def _prepare(self, flat: list[_Row]) -> None:
        """One pass over everything: the state that enters the upper blocks, and the keys and values of earlier positions."""
        arch, device = self.arch, self.arch.device
        passages = [row.passage for row in flat]
        # The last target token is predicted, never read.
        lengths = [len(p.ids) - (not row.is_kl) for p, row in zip(passages, flat, strict=True)]
        before = torch.tensor([p.lookup for p in passages], device=device)
        longest = max(lengths)
        ids = torch.zeros(len(flat), longest, dtype=torch.long)
        mask = torch.zeros(len(flat), longest, dtype=torch.long)
        for i, (p, length) in enumerate(zip(passages, lengths, strict=True)):
            ids[i, :length] = torch.tensor(p.ids[:length])
            mask[i, :length] = 1
        ids, mask = ids.to(device), mask.to(device)
        cache = DynamicCache()
        watched = {"below": arch.blocks[self.first - 1]} if self.first > 0 else {"below": arch.model.get_input_embeddings()}
        watched["initial"] = arch.blocks[self.layer] if self.at == "block" else arch.rewrite(self.layer)
        with captured(watched) as seen:
            if self.first == 0:  # the state that enters the first block, positions and scales included
                with captured({"entering": arch.blocks[0]}, inputs=True) as entering:
                    arch.model.base_model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True)
                seen["below"] = entering["entering"]
            else:
                arch.model.base_model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True)
        every = torch.arange(len(flat), device=device)
        self.initial = seen["initial"][every, before][self.bare].to(arch.precise)
        self.past = int(before.max())
        # Positions before the lookup, right-aligned; from the lookup on, left-aligned.
        shift = before[:, None] - self.past + torch.arange(self.past, device=device)[None]
        keep = shift >= 0
        source = shift.clamp_min(0)
        self.cache = [
            None if index < self.first else tuple(_gather(each, source) for each in (layer.keys, layer.values)) for index, layer in enumerate(cache.layers)
        ]
        tail = int((mask.sum(1) - before).max())
        after = before[:, None] + torch.arange(tail, device=device)[None]
        inside = after < mask.sum(1)[:, None]
        self.positions = after.clamp_max(longest - 1)
        self.tokens = ids.gather(1, self.positions)
        self.hidden = seen["below"][every[:, None], self.positions]
        self.mask = torch.cat([keep, inside], 1).long()
        self._targets(flat, device)

    def _targets(self, flat: list[_Row], device: torch.device) -> None:
        """Where, after the lookup, the head is needed, and which token should come there."""
        where = [
            (i, row.passage.target - 1 + k - row.passage.lookup, token, 1 / len(row.passage.target_ids))
            for i, row in enumerate(flat)
            if not row.is_kl
            for k, token in enumerate(row.passage.target_ids)
        ]
        rows, at, tokens, weights = zip(*where, strict=True)
        self.target_row, self.target_at = torch.tensor(rows, device=device), torch.tensor(at, device=device)
        self.target_token, self.target_weight = torch.tensor(tokens, device=device), torch.tensor(weights, device=device, dtype=self.arch.precise)
        self.contexts = int((~self.is_kl).sum()) // self.count

    def optimise(self, s: ValueSettings) -> Values:
        """Adam with the papers' stop, decay and clamp, each fact for itself."""
        delta = torch.zeros_like(self.initial, requires_grad=True)
        optimizer = torch.optim.Adam([delta], lr=s.lr)
        norm = self.initial.norm(dim=1)
        final, losses = torch.zeros_like(self.initial), delta.new_zeros(self.count).detach()
        steps = torch.zeros(self.count, dtype=torch.long)
        active = torch.ones(self.count, dtype=torch.bool, device=delta.device)
        view = _View(self, active)
        before: Tensor | None = None
        for step in range(s.steps):
            nll, now = view.forward(delta)
            if before is None:
                before = now.detach()
            kl = s.kl * (before.exp() * (before - now)).sum(-1)
            loss = nll + kl + s.decay * delta.norm(dim=1) / norm**2
            done = active & ((loss < s.stop) | (step == s.steps - 1))
            with torch.no_grad():
                final[done], losses[done], steps[done.cpu()] = delta[done], loss[done].detach(), step + 1
            active = active & ~done
            if not active.any():
                break
            optimizer.zero_grad()
            loss[active].sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            with torch.no_grad():
                delta *= (s.clamp * norm / delta.norm(dim=1).clamp_min(1e-30)).clamp_max(1.0)[:, None]
            if int(active.sum()) < 0.8 * view.facts:
                view = _View(self, active)
        return Values((self.initial + final).cpu(), losses.cpu(), steps)


class _View:
    """The rows of the facts that are still active, gathered once, and their forward pass through the upper blocks."""

    def __init__(self, batch: _Batch, active: Tensor):
        self.batch, self.facts = batch, int(active.sum())
        rows = active[batch.fact].nonzero()[:, 0]
        self.active = active.clone()
        place = torch.full((len(batch.fact),), -1, device=rows.device)
        place[rows] = torch.arange(len(rows), device=rows.device)
        self.fact, self.is_kl = batch.fact[rows], batch.is_kl[rows]
        self.hidden, self.tokens, self.positions, self.mask = batch.hidden[rows], batch.tokens[rows], batch.positions[rows], batch.mask[rows]
        self.cache = [None if pair is None else (pair[0][rows], pair[1][rows]) for pair in batch.cache]
        kept = place[batch.target_row] >= 0
        self.target_row, self.target_at = place[batch.target_row[kept]], batch.target_at[kept]
        self.target_token, self.target_weight = batch.target_token[kept], batch.target_weight[kept]

    def forward(self, delta: Tensor) -> tuple[Tensor, Tensor]:
        """Mean loss of the target (facts,) and log probabilities (facts, vocabulary) after the KL prompt; zero for facts that are done."""
        batch, arch = self.batch, self.batch.arch
        added = delta[self.fact].to(self.hidden.dtype)
        if batch.at == "rewrite_in_block":

            def change(output: Tensor) -> Tensor:
                return torch.cat([output[:, :1] + added[:, None], output[:, 1:]], 1)

            with changed_output(arch.rewrite(batch.layer), change):
                out = self._run(self.hidden)
        else:
            out = self._run(torch.cat([self.hidden[:, :1] + added[:, None], self.hidden[:, 1:]], 1))
        needed = torch.cat([out[self.target_row, self.target_at], out[self.is_kl, 0]])
        scores = arch.logits(needed)
        many = len(self.target_row)
        each = scores[:many].logsumexp(-1) - scores[:many].gather(1, self.target_token[:, None])[:, 0]
        nll = delta.new_zeros(batch.count).index_add(0, self.fact[self.target_row], each * self.target_weight) / batch.contexts
        log = delta.new_zeros(batch.count, scores.shape[1]).index_put((self.fact[self.is_kl],), scores[many:].log_softmax(-1))
        return nll, log

    def _run(self, hidden: Tensor) -> Tensor:
        """Final-norm outputs (rows, tail, d) of states that enter the upper blocks."""
        batch = self.batch
        cache: Any = None
        if batch.past:
            rows = len(hidden)
            empty = hidden.new_zeros(1, 1, 1, 1).expand(rows, 1, batch.past, 1)
            cache = DynamicCache([(empty, empty) if pair is None else pair for pair in self.cache])
        with batch.arch.only(batch.first, len(batch.arch) - 1, hidden):
            output = batch.arch.model.base_model(
                input_ids=self.tokens, attention_mask=self.mask, position_ids=self.positions, past_key_values=cache, use_cache=cache is not None
            )
        state: Tensor = output.last_hidden_state
        return state


def _gather(states: Tensor, source: Tensor) -> Tensor:
    """(rows, heads, length, d) at positions (rows, past) -> (rows, heads, past, d)."""
    return states.gather(2, source[:, None, :, None].expand(-1, states.shape[1], -1, states.shape[3]))
