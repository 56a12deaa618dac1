"""Values: the state at the subject's last token that makes the model say the target, optimised for many facts at once.

The loss and its stop are those of ROME and MEMIT, fact by fact (Meng et al. 2022, 2023); what is shared is the work. States
below the edited layer do not depend on the value and are computed once; positions before the subject's last token
cannot depend on it either (attention is causal), so their keys and values are kept, and those of a prefix are computed once for
all facts; the head and the last feed-forward network run where targets and the KL term need them; facts that are done leave the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from tqdm import tqdm

from hybrid.architecture import Architecture, captured, changed_output, frozen, only_at
from hybrid.editors.requests import Passage, contexts, passage
from hybrid.editors.rows import Beginning, Pairs, Rows, cache_of, common_length, run
from stores.errors import HybridError
from stores.records import Fact

if TYPE_CHECKING:
    from hybrid.model import LanguageModel

KL_PROMPT = "{} is a"
MEMORY = 1_500_000_000
"""Bytes that one batch's activations may take."""
TOKENS = 1024
"""Positions with gradients in a batch on a processor, where larger batches are not faster."""
FEW = 16
"""Rows up to which targets and the KL term run together: padding costs less there than a second pass."""


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
    questions: int = 0
    """Contexts made of the request's own questions, beside the prompt and its prefixes; the papers have none."""
    wordings: int = 0
    """Contexts made of the lexicon's other statements of the request's relation; the papers have none."""
    keep: int = 0
    """Contexts in which the model says what it knows about the subject, and is to say it still; the papers have none."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.lr <= 0 or self.clamp <= 0 or min(self.decay, self.kl, self.stop, self.questions, self.wordings, self.keep) < 0:
            raise ValueError(f"steps must be at least 1, lr and clamp positive, decay, kl, stop, questions, wordings and keep not negative: {self}")


@dataclass(frozen=True)
class Values:
    """Targets (n, d) of the edited state, float32 or finer, the losses (n,) that they reached, and the steps (n,) that they took."""

    targets: Tensor
    losses: Tensor
    steps: Tensor


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
    kept: Sequence[Sequence[tuple[str, str]]] = (),
) -> Values:
    """Optimise the values of all requests.

    Args:
        prefixes: texts before the prompt; the first is empty.
        layer: the block whose state at the subject's last token is optimised.
        at: "block" for the block's output (MEMIT), "rewrite" for its rewrite module's output (ROME).
        batch_size: facts at once; chosen by memory if 0. It does not change the values but for rounding.
        kept: of each request what else is to be said about its subject, as (template, answer); where there is less than `settings.keep`, the prompt stands in.
    Raises:
        HybridError: if values cannot be optimised there.
    """
    if at == "block" and not arch.layout.plain:
        at = "rewrite_in_block"
    several = zip(*(contexts(r, prefixes, settings.questions, settings.wordings) for r in requests), strict=True)
    kinds = [[passage(model.tokenizer, form, r.subject, r.target_new, prefix) for r, (form, prefix) in zip(requests, each, strict=True)] for each in several]
    for number in range(settings.keep if kept else 0):
        others = [own[number] if number < len(own) else (r.prompt, r.target_new) for r, own in zip(requests, kept, strict=True)]
        kinds.append([passage(model.tokenizer, form, r.subject, answer) for r, (form, answer) in zip(requests, others, strict=True)])
    kinds.append([passage(model.tokenizer, KL_PROMPT, r.subject) for r in requests])
    width = arch.weight(layer).shape[0]
    found = Values(torch.zeros(len(requests), width, dtype=arch.precise), torch.zeros(len(requests)), torch.zeros(len(requests), dtype=torch.long))
    with frozen(arch.model), tqdm(total=len(requests), desc="values", unit="fact", disable=None) as bar:
        with torch.no_grad():
            groups = [_Group(arch, passages, is_kl=passages is kinds[-1]) for passages in kinds]
        for chosen in _batches(arch, layer, groups, batch_size):
            part = _Batch(arch, groups, chosen, layer, at).optimise(settings)
            where = torch.tensor(chosen)
            found.targets[where], found.losses[where], found.steps[where] = part.targets, part.losses.float(), part.steps
            bar.update(len(chosen))
    if not torch.isfinite(found.targets).all():
        bad = [requests[int(n)].subject for n in (~torch.isfinite(found.targets).all(1)).nonzero()[:3]]
        raise HybridError(f"the values of {', '.join(bad)} diverged; use a smaller --set lr=... or clamp=...")
    return found


class _Group:
    """All requests in one context: a prefix, or the KL prompt. What their passages have in common before the subject is computed once."""

    def __init__(self, arch: Architecture, passages: Sequence[Passage], is_kl: bool):
        self.passages, self.is_kl = passages, is_kl
        # The last target token is predicted, never read; of the KL prompt nothing after the subject can matter.
        self.rows = [p.until_lookup if is_kl else p.ids[:-1] for p in passages]
        self.common = common_length(self.rows, min(p.lookup for p in passages))
        self.beginning = Beginning(arch, torch.tensor([self.rows[0][: self.common]], device=arch.device))

    def tail(self, n: int) -> int:
        """Positions of a row from the lookup on, which gradients pass through."""
        return len(self.rows[n]) - self.passages[n].lookup


def _batches(arch: Architecture, layer: int, groups: Sequence[_Group], size: int) -> Iterator[list[int]]:
    """Requests in batches of like tails, so that little is padding; of `size`, or as many as memory allows."""
    tails = [sum(group.tail(n) for group in groups) for n in range(len(groups[0].rows))]
    lengths = [sum(len(group.rows[n]) for group in groups) for n in range(len(tails))]
    chosen: list[int] = []
    for n in sorted(range(len(tails)), key=tails.__getitem__):
        many = size or fitting_batch(arch, layer, tails[n], lengths[n], sum(len(group.passages[n].target_ids) for group in groups))
        if chosen and len(chosen) >= many:
            yield chosen
            chosen = []
        chosen.append(n)
    yield chosen


def fitting_batch(arch: Architecture, layer: int, tail: int, length: int, targets: int) -> int:
    """How many facts fit into `MEMORY` bytes: of one fact, all rows' positions with gradients, all positions, and all target tokens."""
    d_out, d_in = arch.weight(layer).shape
    above = len(arch) - layer
    floats = tail * above * (10 * d_out + 4 * d_in) + 2 * length * above * d_out + 3 * (targets + 2) * arch.head.weight.shape[0]
    most = 1024 if arch.device.type != "cpu" else max(1, TOKENS // tail)
    fits: int = min(most, MEMORY // (4 * floats))
    return max(1, fits)


@dataclass(frozen=True)
class _Tails:
    """Rows from the subject's last token on: what the optimisation runs, again and again."""

    fact: Tensor
    """The fact of each row, (rows,)."""
    hidden: Tensor
    """What enters the first block that runs, (rows, length, d)."""
    tokens: Tensor
    positions: Tensor
    mask: Tensor
    """(rows, past + length), 1 where there is a token."""
    pairs: Pairs
    """Keys and values of what precedes, right-aligned."""

    @property
    def past(self) -> int:
        """Earlier positions, padding included."""
        return self.mask.shape[1] - self.tokens.shape[1]

    def __getitem__(self, rows: Tensor) -> _Tails:
        pairs = [None if pair is None else (pair[0][rows], pair[1][rows]) for pair in self.pairs]
        return _Tails(self.fact[rows], self.hidden[rows], self.tokens[rows], self.positions[rows], self.mask[rows], pairs)

    @classmethod
    def joined(cls, parts: Sequence[_Tails]) -> _Tails:
        """Parts, one below the other; padded to the longest past and the longest tail."""
        past, length = max(part.past for part in parts), max(part.tokens.shape[1] for part in parts)
        padded = [part._padded(past, length) for part in parts]
        pairs: Pairs = []
        for several in zip(*(part.pairs for part in padded), strict=True):
            real = [pair for pair in several if pair is not None]
            pairs.append((torch.cat([k for k, _ in real]), torch.cat([v for _, v in real])) if real else None)
        names = ("fact", "hidden", "tokens", "positions", "mask")
        return cls(*(torch.cat([getattr(part, name) for part in padded]) for name in names), pairs)  # type: ignore

    def _padded(self, past: int, length: int) -> _Tails:
        left, right = past - self.past, length - self.tokens.shape[1]
        pad = torch.nn.functional.pad
        pairs = [None if pair is None else (pad(pair[0], (0, 0, left, 0)), pad(pair[1], (0, 0, left, 0))) for pair in self.pairs]
        tokens, positions = pad(self.tokens, (0, right)), pad(self.positions, (0, right))
        return _Tails(self.fact, pad(self.hidden, (0, 0, 0, right)), tokens, positions, pad(self.mask, (left, right)), pairs)


class _Batch:
    """Some facts, optimised together."""

    @torch.no_grad()
    def __init__(self, arch: Architecture, groups: Sequence[_Group], chosen: Sequence[int], layer: int, at: str):
        self.arch, self.layer, self.at, self.count = arch, layer, at, len(chosen)
        self.first = layer + 1 if at != "rewrite_in_block" else layer
        targets: list[_Tails] = []
        for group in groups:
            tails, initial = self._tails(group, chosen)
            if group.is_kl:
                self.kl = tails
                continue
            if not targets:  # the bare prompts come first
                self.initial = initial.to(arch.precise)
            targets.append(tails)
        self.tails = _Tails.joined(targets)
        where = [
            (number * self.count + i, p.target - 1 + k - p.lookup, token, 1 / len(p.target_ids))
            for number, group in enumerate(group for group in groups if not group.is_kl)
            for i, p in enumerate(group.passages[n] for n in chosen)
            for k, token in enumerate(p.target_ids)
        ]
        row, place, token, weight = zip(*where, strict=True)
        self.row, self.place, self.token = (torch.tensor(each, device=arch.device) for each in (row, place, token))
        self.weight = torch.tensor(weight, device=arch.device, dtype=arch.precise) / len(targets)

    def _tails(self, group: _Group, chosen: Sequence[int]) -> tuple[_Tails, Tensor]:
        """One pass over one context of the facts: their tails, and the state (facts, d) that is to be changed."""
        arch, passages = self.arch, [group.passages[n] for n in chosen]
        rows = Rows.of([group.rows[n] for n in chosen], group.common, arch.device)
        entering = self.first < len(arch)
        watched = {"below": arch.blocks[self.first] if entering else arch.blocks[-1]}
        changed = {"state": arch.blocks[self.layer] if self.at == "block" else arch.rewrite(self.layer)}
        with captured(watched, inputs=entering) as below, captured(changed) as seen:
            _, pairs = run(arch, rows.ids, rows.mask, pairs=group.beginning.pairs, keep=True)
        lookup = torch.tensor([p.lookup - group.common for p in passages], device=arch.device)
        every = torch.arange(len(chosen), device=arch.device)
        ends, before = rows.mask.sum(1), lookup + group.common
        past, length = int(before.max()), int((ends - lookup).max())
        source = before[:, None] - past + torch.arange(past, device=arch.device)[None]
        after = lookup[:, None] + torch.arange(length, device=arch.device)[None]
        mask = torch.cat([source >= 0, after < ends[:, None]], 1).long()
        after = after.clamp_max(rows.ids.shape[1] - 1)
        kept: Pairs = [
            None if pair is None or index < self.first else (_gather(pair[0], source.clamp_min(0)), _gather(pair[1], source.clamp_min(0)))
            for index, pair in enumerate(pairs)
        ]
        tails = _Tails(every, below["below"][every[:, None], after], rows.ids.gather(1, after), after + group.common, mask, kept)
        return tails, seen["state"][every, lookup]

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
        rows = active[batch.tails.fact].nonzero()[:, 0]
        place = torch.full((len(batch.tails.fact),), -1, device=rows.device)
        place[rows] = torch.arange(len(rows), device=rows.device)
        kept = place[batch.row] >= 0
        self.token, self.weight = batch.token[kept], batch.weight[kept]
        tails, kl = batch.tails[rows], batch.kl[active[batch.kl.fact].nonzero()[:, 0]]
        row, at, each = place[batch.row[kept]], batch.place[kept], torch.arange(len(kl.fact), device=rows.device)
        first = torch.zeros_like(each)
        self.fact, self.kl_fact = tails.fact[row], kl.fact
        self.runs = [(tails, row, at), (kl, each, first)]
        if len(rows) + len(each) <= FEW:
            self.runs = [(_Tails.joined([tails, kl]), torch.cat([row, len(rows) + each]), torch.cat([at, first]))]

    def forward(self, delta: Tensor) -> tuple[Tensor, Tensor]:
        """Mean loss of the target (facts,) and log probabilities (facts, vocabulary) after the KL prompt; zero for facts that are done."""
        batch, many = self.batch, len(self.token)
        scores = batch.arch.logits(torch.cat([self._run(delta, *each) for each in self.runs]))
        each = scores[:many].logsumexp(-1) - scores[:many].gather(1, self.token[:, None])[:, 0]
        nll = delta.new_zeros(batch.count).index_add(0, self.fact, each * self.weight)
        log = delta.new_zeros(batch.count, scores.shape[1]).index_put((self.kl_fact,), scores[many:].log_softmax(-1))
        return nll, log

    def _run(self, delta: Tensor, tails: _Tails, row: Tensor, place: Tensor) -> Tensor:
        """Final-norm outputs (k, d) at k places, of states that enter the upper blocks with the values added at the lookup."""
        batch, arch = self.batch, self.batch.arch
        added = delta[tails.fact].to(tails.hidden.dtype)[:, None]

        def change(states: Tensor) -> Tensor:
            return torch.cat([states[:, :1] + added, states[:, 1:]], 1)

        inside = batch.at == "rewrite_in_block"
        values = changed_output(arch.rewrite(batch.layer), change) if inside else nullcontext()
        trimmed = only_at(arch, len(arch) - 1, row, place) if batch.first < len(arch) - inside else nullcontext()
        cache = cache_of(tails.pairs, tails.past, len(tails.hidden), tails.hidden)
        with values, trimmed, arch.only(batch.first, len(arch) - 1, tails.hidden if inside else change(tails.hidden)):
            output = arch.model.base_model(
                input_ids=tails.tokens, attention_mask=tails.mask, position_ids=tails.positions, past_key_values=cache, use_cache=cache is not None
            )
        state: Tensor = output.last_hidden_state
        return state[row, place]


def _gather(states: Tensor, source: Tensor) -> Tensor:
    """(rows, heads, length, d) at positions (rows, past) -> (rows, heads, past, d)."""
    return states.gather(2, source[:, None, :, None].expand(-1, states.shape[1], -1, states.shape[3]))
