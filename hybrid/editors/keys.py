"""Keys: inputs of the rewrite layers at the subject's last token, and current values, layer after layer in one walk up the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hybrid.architecture import Architecture, captured
from hybrid.editors.requests import passage
from stores.records import Fact

if TYPE_CHECKING:
    from hybrid.model import LanguageModel


class Walk:
    """Goes up the blocks with all contexts of all requests, up to the subject's last token; later tokens cannot matter.

    The states that enter a block are kept, so a step to the next rewrite layer costs the blocks in between, with whatever
    the weights below have become. Contexts that are the same (one subject, one prefix) are computed once.
    """

    def __init__(self, model: LanguageModel, arch: Architecture, requests: Sequence[Fact], prefixes: Sequence[str], tokens_a_batch: int = 8192):
        self.arch = arch
        rows = [[passage(model.tokenizer, r.prompt, r.subject, prefix=prefix).until_lookup for prefix in prefixes] for r in requests]
        distinct = sorted({ids for group in rows for ids in group}, key=len)
        place = {ids: i for i, ids in enumerate(distinct)}
        self.contexts = torch.tensor([[place[ids] for ids in group] for group in rows])
        self.batches = _batches(distinct, tokens_a_batch)
        self.states: list[Tensor | None] = [None] * len(self.batches)
        self.at = 0

    @torch.no_grad()
    def keys(self, layer: int) -> Tensor:
        """Inputs of a rewrite layer, (n, d_in) float32 or finer: the bare prompt's and the mean of the prefixed ones', half and half (as MEMIT does)."""
        found = []
        for number, (ids, mask) in enumerate(self.batches):
            watched = {"key": self.arch.rewrite(layer)}
            with captured(watched, inputs=True) as keys, captured({"in": self.arch.blocks[layer]}, inputs=True) as entering:
                self._run(ids, mask, self.at, layer, self.states[number])
            self.states[number] = entering["in"]
            found.append(_last(keys["key"], mask))
        self.at = layer
        each = torch.cat(found).to(self.arch.precise)[self.contexts.to(self.arch.device)]
        return each[:, 0] if each.shape[1] == 1 else (each[:, 0] + each[:, 1:].mean(1)) / 2

    @torch.no_grad()
    def bare_keys(self, layer: int) -> Tensor:
        """Inputs of a rewrite layer at the bare prompts, (n, d_in); does not move the walk."""
        return self._bare({"found": self.arch.rewrite(layer)}, layer, inputs=True)

    @torch.no_grad()
    def current(self, layer: int, at: str) -> Tensor:
        """Outputs of a block ("block") or its rewrite module at the bare prompts, (n, d), with the weights as they are."""
        module = self.arch.blocks[layer] if at == "block" else self.arch.rewrite(layer)
        return self._bare({"found": module}, layer, inputs=False)

    def _bare(self, watched: dict[str, object], layer: int, inputs: bool) -> Tensor:
        needed = set(self.contexts[:, 0].tolist())
        found, first = [], 0
        for number, (ids, mask) in enumerate(self.batches):
            rows = [i for i in range(len(ids)) if first + i in needed]
            first += len(ids)
            if rows:
                state = self.states[number]
                with captured(watched, inputs=inputs) as seen:
                    self._run(ids[rows], mask[rows], self.at, layer, None if state is None else state[rows])
                found.append(_last(seen["found"], mask[rows]))
        order = {context: i for i, context in enumerate(sorted(needed))}
        return torch.cat(found).to(self.arch.precise)[[order[int(context)] for context in self.contexts[:, 0]]]

    def _run(self, ids: Tensor, mask: Tensor, first: int, last: int, hidden: Tensor | None) -> None:
        with self.arch.only(first, last, hidden):
            self.arch.model.base_model(input_ids=ids.to(self.arch.device), attention_mask=mask.to(self.arch.device), use_cache=False)


def _batches(rows: Sequence[tuple[int, ...]], tokens: int) -> list[tuple[Tensor, Tensor]]:
    """(ids, mask) of rows sorted by length, padded on the right, of at most so many tokens."""
    groups: list[list[tuple[int, ...]]] = [[]]
    for row in rows:
        if groups[-1] and len(row) * (len(groups[-1]) + 1) > tokens:
            groups.append([])
        groups[-1].append(row)
    made = []
    for group in groups:
        longest = max(map(len, group))
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in group])
        made.append((ids, torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in group])))
    return made


def _last(states: Tensor, mask: Tensor) -> Tensor:
    """States (rows, length, d) at each row's last token -> (rows, d)."""
    return states[torch.arange(len(states), device=states.device), (mask.sum(1) - 1).to(states.device)]
