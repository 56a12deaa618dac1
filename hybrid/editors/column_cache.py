"""Columns by content, at hand and in a store: they depend on the base weights and what is asked alone, so the next run need not compute them again.

A store gives back the very bits that were put into it, so a run with it comes to the weights that a run without it comes to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from safetensors.torch import load, save

from hybrid.editors.columns import Columns
from stores.values import ValueStore, content_key

FORMAT = 1
"""To be counted up when columns of the same content are computed otherwise."""


@dataclass(frozen=True)
class Wanted:
    """What columns are of, JSON types, all that they depend on beside the base; who owns them, a fact's id or nothing; and how they are made."""

    what: Sequence[Any]
    owner: str
    make: Callable[[], Columns]


class ColumnCache:
    """Columns at hand; without a store, no longer than this lives.

    Args:
        base: what all columns depend on: the model's weights, device and dtype.
        store: keeps them between runs.
        note: told (fact id, key), so that forgetting a fact forgets its columns, before these are stored.
    """

    def __init__(self, base: Mapping[str, str], store: ValueStore | None = None, note: Callable[[Iterable[tuple[str, str]]], None] | None = None):
        self.base, self.store, self.note = {"kind": "columns", "format": FORMAT, **base}, store, note
        self.at_hand: dict[str, Columns] = {}
        self._noted: set[tuple[str, str]] = set()

    def key(self, what: Sequence[Any]) -> str:
        """Under what columns of some content are kept."""
        return content_key(**self.base, what=list(what))

    def has(self, key: str) -> bool:
        """Whether columns are at hand or stored."""
        return key in self.at_hand or (self.store is not None and self.store.has_columns(key))

    def gather(self, wanted: Sequence[Wanted], device: torch.device) -> list[Columns]:
        """The columns of each; those that are neither at hand nor stored are made, and stored one by one."""
        keys = [self.key(each.what) for each in wanted]
        if self.store is not None:
            new = {(each.owner, key) for each, key in zip(wanted, keys, strict=True) if each.owner} - self._noted
            if self.note is not None and new:
                self.note(sorted(new))
            self._noted |= new
        for each, key in zip(wanted, keys, strict=True):
            if key not in self.at_hand:
                self.at_hand[key] = self._stored(key, device) or self._made(key, each)
        return [self.at_hand[key] for key in keys]

    def _stored(self, key: str, device: torch.device) -> Columns | None:
        data = None if self.store is None else self.store.columns(key)
        return None if data is None else Columns(**{name: tensor.to(device) for name, tensor in load(data).items()})

    def _made(self, key: str, wanted: Wanted) -> Columns:
        made = wanted.make()
        if self.store is not None:
            self.store.put_columns(key, save({field.name: getattr(made, field.name).contiguous().cpu() for field in fields(made)}))
        return made

    def trim(self) -> None:
        """Erase what the store has and this never gave, such as columns of sets that are no more; nothing if it gave none."""
        if self.store is not None and self.at_hand:
            self.store.keep_columns(self.at_hand)
