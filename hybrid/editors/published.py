"""Settings by model: published ones where they exist, what a sweep found for pocket, else a third of the depth."""

from __future__ import annotations

import dataclasses
import tomllib
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from hybrid.model import LanguageModel

T = TypeVar("T")


@lru_cache(maxsize=1)
def _table() -> dict[str, Any]:
    return tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))


def default_layers(blocks: int, several: int) -> tuple[int, ...]:
    """`several` consecutive layers that end at a third of the depth, where the papers' choices lie."""
    last = max(several - 1, round(blocks / 3))
    return tuple(range(max(0, last - several + 1), min(last, blocks - 1) + 1))


def settings_for(method: str, model: LanguageModel) -> dict[str, Any]:
    """Published settings of a method for a model; empty if there are none."""
    from hybrid.model import POCKET

    family = POCKET if model.name == POCKET else model.model.config.model_type
    blocks = str(model.model.config.num_hidden_layers)
    methods = _table().get(method, {}).get(family, {})
    found = methods.get(blocks, methods.get("0", {}))
    return {key: tuple(value) if isinstance(value, list) else value for key, value in found.items()}


def configured(kind: type[T], method: str, model: LanguageModel, given: dict[str, Any]) -> T:
    """An editor with published settings, overridden by what is given.

    Raises:
        ValueError: if a given setting does not exist, naming those that do.
    """
    known = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    wrong = sorted(set(given) - known)
    if wrong:
        raise ValueError(f"{method} has no setting {wrong[0]!r}; it has {', '.join(sorted(known))}")
    return kind(**{**{k: v for k, v in settings_for(method, model).items() if k in known}, **given})
