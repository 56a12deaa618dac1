"""Networks that an editor needs beforehand: where they lie, and that they are the right ones for a model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from hybrid.statistics import statistics_folder
from stores.errors import Conflict, Corrupt, NotFound

if TYPE_CHECKING:
    from hybrid.model import LanguageModel

SHIPPED = Path(__file__).parent / "pretrained"
"""Networks for pocket, trained by `hybrid train` on what it was taught, less the subjects that `bench/editors.py` edits."""
WEIGHTS, MANIFEST = "hypernetwork.safetensors", "hypernetwork.json"
LARGE = 1 << 16
"""Entries from which a matrix becomes float16 where half the size is wanted. Learning rates, means and deviations are few, and span many sizes."""


def default_folder(method: str, model: LanguageModel) -> Path:
    """Where a network goes unless told otherwise: beside what else was measured of the model."""
    return statistics_folder(model.identity.weights_hash) / method


def ships(method: str, weights_hash: str) -> bool:
    """Whether a network for these weights comes with the package."""
    manifest = SHIPPED / method / MANIFEST
    return manifest.exists() and bool(json.loads(manifest.read_text(encoding="utf-8"))["model"]["weights_hash"] == weights_hash)


def compacted(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Large matrices in float16, the rest as it is."""
    return {name: tensor.half() if tensor.numel() >= LARGE else tensor for name, tensor in tensors.items()}


def save(folder: Path, method: str, model: LanguageModel, tensors: Mapping[str, Tensor], about: dict[str, Any]) -> None:
    """Write weights, then the manifest that knows their sha256 and the model's."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{WEIGHTS}.partial"
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, partial)
    digest = hashlib.sha256(partial.read_bytes()).hexdigest()
    (folder / MANIFEST).unlink(missing_ok=True)
    partial.replace(folder / WEIGHTS)
    made_for = {"name": model.name, "weights_hash": model.identity.weights_hash}
    (folder / f"{MANIFEST}.partial").write_text(json.dumps({"method": method, "model": made_for, "sha256": digest, **about}, indent=1) + "\n", encoding="utf-8")
    (folder / f"{MANIFEST}.partial").replace(folder / MANIFEST)


def load(method: str, model: LanguageModel, given: str | None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and manifest of a method's network for a model.

    Args:
        given: its folder; if None, the default one, or else what ships.
    Raises:
        NotFound: if there is none.
        Conflict: if it was trained for other weights, or another method.
        Corrupt: if its weights are not those that the manifest knows.
    """
    train = f"hybrid train {method} --facts FILE --model {model.name}"
    wanted = model.identity.weights_hash
    folder = Path(given) if given is not None else default_folder(method, model)
    if given is None and not (folder / MANIFEST).exists() and ships(method, wanted):
        folder = SHIPPED / method
    if not (folder / MANIFEST).exists():
        raise NotFound(f"{method} needs a network trained for {model.name}, and there is none in {folder}; make one: {train}")
    try:
        about: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        kind, made_for, digest = about["method"], about["model"], about["sha256"]
        name, weights_hash = made_for["name"], made_for["weights_hash"]
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(f"{folder / MANIFEST} cannot be read ({error!r}); train again: {train}") from error
    if kind != method:
        raise Conflict(f"{folder} holds a network for {kind}, not for {method}; make one: {train}")
    if weights_hash != wanted:
        raise Conflict(f"the network in {folder} was trained for {name} ({weights_hash[:12]}), and this model is {model.identity}; train one for it: {train}")
    path = folder / WEIGHTS
    if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
        raise Corrupt(f"{path} is missing or does not match its manifest; train again: {train}")
    return load_file(path), about
