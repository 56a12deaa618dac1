"""Applying a delta to a model: for a while or for good, always reversible to the bit."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hybrid.architecture import oriented
from hybrid.editors import editor_class
from hybrid.embedder import file_hash
from hybrid.loading import quiet
from hybrid.model import Prompt
from hybrid.prompts import query_text
from stores.deltas import Delta, Factors
from stores.errors import Conflict, Corrupt, NotFound
from stores.records import Fact

if TYPE_CHECKING:
    from hybrid.model import LanguageModel


RECORD, ORIGINALS = Path("hybrid-edit/record.json"), Path("hybrid-edit/originals.safetensors")
"""Kept in an edited model's folder, where no loader takes them for weights."""


@torch.no_grad()
def apply(model: LanguageModel, delta: Delta, *, check: bool = True) -> dict[str, Tensor]:
    """Add a delta to the weights, computed in float64; returns the original tensors, with which `revert` restores every bit.

    Raises:
        Conflict: if the delta was made for other weights.
    """
    if check and delta.model.weights_hash != model.identity.weights_hash:
        raise Conflict(f"the delta was made for {delta.model}, and this model is {model.identity}; apply it to the model it was made for")
    originals: dict[str, Tensor] = {}
    for name, change in delta.changes.items():
        parameter: nn.Parameter = model.model.get_parameter(name)
        owner: Any = model.model.get_submodule(name.rpartition(".")[0])
        weight = oriented(owner) if name.endswith(".weight") else parameter.data  # biases, which a task vector may have
        originals[name] = parameter.data.clone()
        added = torch.from_numpy(change.dense if isinstance(change, Factors) else change).to(weight.device).double()
        weight.copy_((weight.double() + added).to(weight.dtype))
    return originals


@torch.no_grad()
def revert(model: LanguageModel, originals: dict[str, Tensor]) -> None:
    """Put the original tensors back."""
    for name, tensor in originals.items():
        parameter: nn.Parameter = model.model.get_parameter(name)
        parameter.data.copy_(tensor)


@contextmanager
def applied(model: LanguageModel, delta: Delta) -> Iterator[None]:
    """The model with a delta, while the context lasts."""
    originals = apply(model, delta)
    try:
        yield
    finally:
        revert(model, originals)


def edit(model: LanguageModel, requests: Sequence[Fact], method: str = "memit", **settings: Any) -> Delta:
    """Turn requests into a delta with an editor; the model is bit-identical afterwards.

    Args:
        method: a name from `hybrid edit --list`.
        settings: override the published (or default) settings of the method for this model.
    Raises:
        NotFound: if there is no such method, or statistics are missing.
        BadRequest: if a request cannot be carried out; the message names it.
    """
    from hybrid.editors.published import configured

    made: Delta = configured(editor_class(method), method, model, settings).edit(model, requests)
    return made


def answers(model: LanguageModel, queries: Sequence[str], max_new_tokens: int = 48) -> list[str]:
    """Greedy answers to prompts or questions, the model alone."""
    return model.complete_all([Prompt(query_text(query)) for query in queries], max_new_tokens)


def write_edited(model: LanguageModel, delta: Delta, folder: Path) -> list[str]:
    """Write the model with a delta, and what was overwritten as `originals.safetensors`; returns the changed names.

    Raises:
        Conflict: if the folder is not empty, or the delta was made for other weights.
    """
    if folder.exists() and any(folder.iterdir()):
        raise Conflict(f"{folder} is not empty; choose a new folder")
    originals = apply(model, delta)
    try:
        (folder / RECORD).parent.mkdir(parents=True, exist_ok=True)
        with quiet():
            model.model.save_pretrained(folder)
        model.tokenizer.save_pretrained(folder)
        save_file({name: tensor.contiguous().cpu() for name, tensor in originals.items()}, folder / ORIGINALS)
        digest = file_hash(folder / ORIGINALS)
        about = {"method": delta.method, "base": {"name": delta.model.name, "weights_hash": delta.model.weights_hash}, "originals": digest}
        (folder / RECORD).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    finally:
        revert(model, originals)
    return sorted(originals)


def revert_folder(folder: Path) -> list[str]:
    """Undo `write_edited` in place, one weight file after the other, each replaced atomically; returns the restored names.

    Raises:
        NotFound: if the folder was not written by it.
        Corrupt: if the kept originals have changed, or there is no weight that they belong to.
    """
    if not (folder / RECORD).exists():
        raise NotFound(f"{folder} has no {RECORD}: it was not written by `hybrid edit apply`, or has been reverted already")
    if not (folder / ORIGINALS).exists() or file_hash(folder / ORIGINALS) != json.loads((folder / RECORD).read_text(encoding="utf-8"))["originals"]:
        raise Corrupt(f"{folder / ORIGINALS} has changed since it was written, or is gone; apply the delta to the base model again")
    originals = load_file(folder / ORIGINALS)
    about = {path: _contents(path) for path in sorted(folder.glob("*.safetensors"))}
    if lost := originals.keys() - {name for names, _ in about.values() for name in names}:
        raise Corrupt(f"{folder} has no weight {min(lost)!r} any more; apply the delta to the base model again")
    for path, (names, metadata) in about.items():
        if names & originals.keys():
            tensors = load_file(path)
            save_file({name: originals.get(name, tensor) for name, tensor in tensors.items()}, path.with_suffix(".partial"), metadata=metadata)
            path.with_suffix(".partial").replace(path)
    (folder / RECORD).unlink()
    (folder / ORIGINALS).unlink()
    (folder / RECORD).parent.rmdir()
    return sorted(originals)


def _contents(path: Path) -> tuple[set[str], dict[str, str] | None]:
    """Names and metadata of a weight file."""
    with safe_open(path, framework="pt") as file:
        return set(file.keys()), file.metadata()
