"""A generation for other programs: a PEFT adapter with the exact factors, or a merged Hugging Face checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.numpy import save_file

from hybrid.architecture import Architecture, is_linear
from hybrid.consolidation.solver import add
from hybrid.editing import revert
from hybrid.loading import quiet
from stores.deltas import Factors
from stores.errors import Conflict
from stores.generations import Manifest

if TYPE_CHECKING:
    from hybrid.memory import HybridMemory

FORMATS = ("lora", "merged")


def export(memory: HybridMemory, number: int, form: str, out: Path, max_rank: int | None = None) -> dict[str, Any]:
    """Write a generation to a new folder, and note where it went.

    Args:
        form: "lora" or "merged".
        out: the folder; a LoRA adapter goes into a folder of its unique name below it.
        max_rank: of an adapter; beyond it the factors are cut by singular values.
    Returns:
        What was written: `path`, `format`, and `rank` with its relative `error`, or `rounded_away` of `changed` entries.
    Raises:
        Conflict: if the folder holds something already.
        NotFound, Corrupt: see `Generations.load`.
    """
    manifest, changes = memory.generations.load(number)
    folder = out / unique_name(manifest) if form == "lora" else out
    if folder.exists() and any(folder.iterdir()):
        raise Conflict(f"{folder} is not empty; choose a new folder")
    memory.weights.release()
    try:
        done = adapter(memory, manifest, changes, folder, max_rank) if form == "lora" else merged(memory, changes, folder)
    finally:
        memory.weights.refresh()
    memory.generations.note_export(number, form, folder)
    return {"generation": number, "format": form, "path": str(folder), **done}


def unique_name(manifest: Manifest) -> str:
    """A name that no other weights ever have: servers cache by it."""
    return f"hybrid-g{manifest.id:06d}-{manifest.weights_hash[:8]}"


def adapter(memory: HybridMemory, manifest: Manifest, changes: dict[str, Factors], folder: Path, max_rank: int | None) -> dict[str, Any]:
    """A PEFT LoRA adapter: every layer padded to one rank, alpha equal to it, no patterns, so that every server scales it alike."""
    model = memory.model.model
    arch, cut, error = Architecture(model), {}, 0.0
    for name, factors in changes.items():
        cut[name], lost = truncated(factors, max_rank)
        error = max(error, lost)
    rank = max(f.left.shape[1] for f in cut.values())
    tensors = {}
    for name, factors in cut.items():
        module = f"base_model.model.{name.removesuffix('.weight')}"
        pad = ((0, 0), (0, rank - factors.left.shape[1]))
        tensors[f"{module}.lora_A.weight"] = np.ascontiguousarray(np.pad(factors.right, pad).T.astype(np.float32))
        tensors[f"{module}.lora_B.weight"] = np.ascontiguousarray(np.pad(factors.left, pad).astype(np.float32))
    layers = [layer for layer in range(len(arch)) if arch.weight_name(layer) in changes]
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": str(memory.model.name), "r": rank, "lora_alpha": rank, "lora_dropout": 0.0,
        "target_modules": [target_name(arch)], "layers_to_transform": layers, "layers_pattern": arch.layout.blocks.rpartition(".")[2], "bias": "none",
        "use_rslora": False, "use_dora": False, "modules_to_save": None, "inference_mode": True, "fan_in_fan_out": type(arch.rewrite(0)).__name__ == "Conv1D",
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    about = {"generation": manifest.id, "weights_hash": manifest.weights_hash, "base_hash": manifest.base_hash, "base": vars_of(manifest), "error": error}
    (folder / "hybrid.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return {"rank": rank, "error": error}


def vars_of(manifest: Manifest) -> dict[str, str]:
    """The base model by name, revision and hash of its files."""
    return {"name": manifest.model.name, "revision": manifest.model.revision, "weights_hash": manifest.model.weights_hash}


def target_name(arch: Architecture) -> str:
    """The rewrite module's name, as short as it names no other module of a block."""
    parts = arch.layout.rewrite.split(".")
    linear = [name for name, module in arch.part(0, "block").named_modules() if is_linear(module)]
    for start in range(len(parts) - 1, -1, -1):
        short = ".".join(parts[start:])
        if sum(name == short or name.endswith(f".{short}") for name in linear) == 1:
            return short
    return arch.layout.rewrite


def truncated(factors: Factors, max_rank: int | None) -> tuple[Factors, float]:
    """Factors of at most a rank, the best by singular values, and the relative error (Frobenius) that this costs; exact ones stay as they are."""
    if max_rank is None or factors.left.shape[1] <= max_rank:
        return factors, 0.0
    left, right = (torch.from_numpy(side).double() for side in (factors.left, factors.right))
    (q_left, r_left), (q_right, r_right) = torch.linalg.qr(left), torch.linalg.qr(right)
    u, s, v = torch.linalg.svd(r_left @ r_right.T)
    keep = min(max_rank, len(s))
    scale = s[:keep].sqrt()
    cut = Factors((q_left @ u[:, :keep] * scale).float().numpy(), (q_right @ v.T[:, :keep] * scale).float().numpy())
    return cut, float(s[keep:].norm() / s.norm().clamp_min(1e-300))


@torch.no_grad()
def merged(memory: HybridMemory, changes: dict[str, Factors], folder: Path) -> dict[str, Any]:
    """A checkpoint that transformers loads, in the model's type; the sums are those of the live generation, rounded once."""
    model = memory.model
    originals = add(model, changes)
    try:
        changed = away = 0
        for name, factors in changes.items():
            wanted = torch.from_numpy(factors.left).double() @ torch.from_numpy(factors.right).double().T != 0
            module: Any = model.model.get_submodule(name.rpartition(".")[0])
            same = (module.weight == originals[name]).cpu()
            changed += int(wanted.sum())
            away += int((wanted & (same.T if type(module).__name__ == "Conv1D" else same)).sum())
        with quiet():
            model.model.save_pretrained(folder)
        model.tokenizer.save_pretrained(folder)
    finally:
        revert(model, originals)
    return {"changed": changed, "rounded_away": away, "dtype": str(model.model.dtype).removeprefix("torch.")}
