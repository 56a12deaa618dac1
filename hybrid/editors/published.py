"""Settings: published ones by model where they exist, what a sweep found for pocket, layers that `hybrid locate` found, else a third of the depth;
and as users type them."""

from __future__ import annotations

import dataclasses
import json
import math
import tomllib
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hybrid.editors import adapter_class

if TYPE_CHECKING:
    from hybrid.model import LanguageModel

T = TypeVar("T")
LOCATE = ("rome", "memit", "alphaedit", "emmet")
"""Methods that edit where a fact is stored."""


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


def remember_located(model: LanguageModel, layers: Sequence[int]) -> Path:
    """Keep layers that causal tracing found, for editors of a model without published ones; returns the file."""
    path = _located(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".partial").write_text(json.dumps({"layers": list(layers)}) + "\n", encoding="utf-8")
    return path.with_suffix(".partial").replace(path)


def located(model: LanguageModel) -> tuple[int, ...]:
    """The layers that `remember_located` kept; empty if none."""
    path = _located(model)
    return tuple(json.loads(path.read_text(encoding="utf-8"))["layers"]) if path.is_file() else ()


def _located(model: LanguageModel) -> Path:
    from hybrid.statistics import statistics_folder

    return statistics_folder(model.identity.weights_hash) / "located.json"


def configured(kind: type[T], method: str, model: LanguageModel, given: dict[str, Any]) -> T:
    """An editor with published settings, overridden by what is given.

    Raises:
        ValueError: if a given setting does not exist, naming those that do.
    """
    fields = {field.name: str(field.type) for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    known, wrong = set(fields), sorted(set(given) - set(fields))
    if wrong:
        raise ValueError(f"{method} has no setting {wrong[0]!r}; it has {', '.join(sorted(name for name in fields if fields[name] in READERS))}")
    settings = {**{k: v for k, v in settings_for(method, model).items() if k in known}, **given}
    if method in LOCATE and not settings.get("layers") and (found := located(model)):
        settings["layers"] = found[-1:] if method == "rome" else found
    return kind(**settings)


def _parts(text: str) -> list[str]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise ValueError("nothing between the commas")
    return parts


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("not finite")
    return number


READERS: dict[str, tuple[Callable[[str], Any], str]] = {
    "int": (int, "a whole number"),
    "float": (_finite, "a number"),
    "tuple[int, ...]": (lambda text: tuple(map(int, _parts(text))), "whole numbers, such as 3,4,5"),
    "tuple[str, ...]": (lambda text: tuple(_parts(text)), "names with commas between them"),
    "str": (str, "text"),
    "str | None": (str, "text"),
}
"""How a setting of a type is read, and what to write."""


def typed(method: str, given: dict[str, str]) -> dict[str, Any]:
    """Settings as the editor's fields declare them; names that it does not have are left for `configured` to refuse.

    Raises:
        ValueError: naming the setting and what to write.
    """
    fields = {field.name: str(field.type) for field in dataclasses.fields(adapter_class(method))}
    made: dict[str, Any] = dict(given)
    for name, text in given.items():
        if name not in fields:
            continue
        if fields[name] not in READERS:
            raise ValueError(f"{name} can only be set from Python")
        read, wanted = READERS[fields[name]]
        try:
            made[name] = read(text)
        except ValueError as error:
            raise ValueError(f"{name} is {text!r}; write {wanted}") from error
    return made
