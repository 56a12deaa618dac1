"""Keys: inputs of the rewrite layers at the subject's last token, and current values, layer after layer in one walk up the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hybrid.architecture import Architecture, captured
from hybrid.editors.requests import contexts, passage
from hybrid.editors.rows import Beginning, Rows, common_length, run
from stores.records import Fact

if TYPE_CHECKING:
    from hybrid.model import LanguageModel


class Walk:
    """Goes up the blocks with all contexts of all requests, up to the subject's last token; later tokens cannot matter.

    The states that enter a block are kept, so a step to the next rewrite layer costs the blocks in between, with whatever
    the weights below have become. What the contexts of a prefix have in common, and contexts that are the same, are computed once.
    """

    def __init__(
        self,
        model: LanguageModel,
        arch: Architecture,
        requests: Sequence[Fact],
        prefixes: Sequence[str],
        questions: int = 0,
        wordings: int = 0,
        tokens_a_batch: int = 4096,
    ):
        self.arch, self.at = arch, 0
        several = zip(*(contexts(r, prefixes, questions, wordings) for r in requests), strict=True)
        self.groups = [
            _Group(
                arch,
                [passage(model.tokenizer, form, r.subject, prefix=prefix).until_lookup for r, (form, prefix) in zip(requests, each, strict=True)],
                tokens_a_batch,
            )
            for each in several
        ]

    @torch.no_grad()
    def keys(self, layer: int) -> Tensor:
        """Inputs of a rewrite layer, (n, d_in) float32 or finer: the bare prompt's and the mean of the prefixed ones', half and half (as MEMIT does)."""
        each = [group.look(self.arch, self.arch.rewrite(layer), self.at, layer, inputs=True, move=True).to(self.arch.precise) for group in self.groups]
        self.at = layer
        return each[0] if len(each) == 1 else (each[0] + torch.stack(each[1:]).mean(0)) / 2

    @torch.no_grad()
    def bare_keys(self, layer: int) -> Tensor:
        """Inputs of a rewrite layer at the bare prompts, (n, d_in); does not move the walk."""
        return self.groups[0].look(self.arch, self.arch.rewrite(layer), self.at, layer, inputs=True).to(self.arch.precise)

    @torch.no_grad()
    def current(self, layer: int, at: str) -> Tensor:
        """Outputs of a block ("block") or its rewrite module at the bare prompts, (n, d), with the weights as they are."""
        module = self.arch.blocks[layer] if at == "block" else self.arch.rewrite(layer)
        return self.groups[0].look(self.arch, module, self.at, layer, inputs=False).to(self.arch.precise)


class _Group:
    """The rows of all requests in one context, in batches of like lengths, and the states with which they enter the walk's next block."""

    def __init__(self, arch: Architecture, rows: Sequence[tuple[int, ...]], tokens: int):
        distinct = sorted(set(rows), key=len)
        place = {row: i for i, row in enumerate(distinct)}
        self.place = torch.tensor([place[row] for row in rows], device=arch.device)
        common = common_length(distinct, len(distinct[0]) - 1)
        parts: list[list[tuple[int, ...]]] = [[]]
        for row in distinct:
            if parts[-1] and (len(row) - common) * (len(parts[-1]) + 1) > tokens:
                parts.append([])
            parts[-1].append(row)
        self.parts = [Rows.of(part, common, arch.device) for part in parts]
        self.states: list[Tensor | None] = [None] * len(parts)
        self.shared: Tensor | None = None

    def look(self, arch: Architecture, module: Any, first: int, last: int, *, inputs: bool, move: bool = False) -> Tensor:
        """What a module of block `last` gets or gives at each row's last token, (n, d), going on from block `first`."""
        beginning = Beginning(arch, self.parts[0].common, first=first, last=last, hidden=self.shared, enter=last)
        found = []
        for number, part in enumerate(self.parts):
            with captured({"found": module}, inputs=inputs) as seen, captured({"in": arch.blocks[last]}, inputs=True) as entering:
                run(arch, part.ids, part.mask, first=first, last=last, hidden=self.states[number], pairs=beginning.pairs)
            ends = part.mask.sum(1) - 1
            found.append(seen["found"][torch.arange(len(ends), device=ends.device), ends])
            if move:
                self.states[number] = entering["in"]
        if move:
            self.shared = beginning.entering
        return torch.cat(found)[self.place]
