"""Task vectors (Ilharco et al. 2023, arXiv:2212.04089): differences of weights that are scaled, negated, added, and merged with less interference.

TIES (Yadav et al. 2023, arXiv:2306.01708) and DARE (Yu et al. 2024, arXiv:2311.03099) are peft's. A vector is a `Delta`, so `hybrid
edit apply` writes the model with it.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.numpy import load_file

from hybrid.architecture import oriented
from hybrid.embedder import file_hash
from hybrid.loading import optional
from stores.adapters import is_adapter
from stores.deltas import WEIGHTS, Delta, Factors
from stores.errors import BadRequest, Conflict, NotFound

if TYPE_CHECKING:
    from hybrid.model import LanguageModel
    from stores.generations import Generations

MERGES = ("linear", "ties", "dare", "dare-ties", "magnitude")
Change = Factors | np.ndarray


def made(base: LanguageModel, tuned: LanguageModel) -> Delta:
    """What training a model made of its base: the difference of every parameter that differs, computed in float64, kept in float32.

    Raises:
        Conflict: if the two have other parameters or shapes.
    """
    started = time.perf_counter()
    one, two = (dict(each.model.named_parameters()) for each in (base, tuned))
    if odd := sorted(one.keys() ^ two.keys()):
        raise Conflict(f"{base.name} and {tuned.name} are not one architecture: only one of them has {odd[0]!r}")
    changes: dict[str, Change] = {}
    for name, weight in one.items():
        if weight.shape != two[name].shape:
            raise Conflict(f"{name} is {tuple(weight.shape)} in {base.name} and {tuple(two[name].shape)} in {tuned.name}; a vector needs models of one shape")
        if not torch.equal(weight.data, two[name].data.to(weight.device, weight.dtype)):
            here, there = _seen(base, name), _seen(tuned, name).to(weight.device)
            changes[name] = np.ascontiguousarray((there.double() - here.double()).float().cpu().numpy())
    if not changes:
        raise BadRequest(f"{tuned.name} has the weights of {base.name}; there is no vector between them")
    about = {"from": tuned.name, "of": str(tuned.identity)}
    return Delta(method="task-vector", model=base.identity, settings=about, changes=changes, seconds=time.perf_counter() - started)


def _seen(model: LanguageModel, name: str) -> torch.Tensor:
    """A parameter as deltas orient it."""
    if name.endswith(".weight"):
        return oriented(model.model.get_submodule(name.removesuffix(".weight")))
    weight: torch.Tensor = model.model.get_parameter(name).data
    return weight


def read(source: str, base: LanguageModel, generations: Generations | None = None) -> Delta:
    """A vector of a base model from what holds one.

    Args:
        source: a folder with a delta, a PEFT LoRA adapter or a checkpoint of the base's architecture; or `generation:N` of the store.
        generations: those of the store.
    Raises:
        NotFound: if there is nothing of the kind.
        Conflict: if it was made for another model, or is no change of weights.
    """
    folder = Path(source)
    if source.startswith("generation:"):
        return _generation(source.removeprefix("generation:"), base, generations)
    if not folder.is_dir():
        raise NotFound(f"there is no {source!r}; name a folder with a delta, a PEFT adapter or a checkpoint, or generation:N")
    if is_adapter(folder):
        raise Conflict(f"{folder} adds parameters and changes no weight, so there is no vector in it; use it with `hybrid ask --adapter {folder}`")
    if (folder / WEIGHTS).exists():
        found = Delta.load(folder)
    elif (folder / "adapter_config.json").exists():
        found = _lora(folder, base)
    elif (folder / "config.json").exists():
        from hybrid.model import LanguageModel as Loaded

        return made(base, Loaded(source, base.device, base.dtype))
    else:
        raise NotFound(f"{folder} holds neither a delta nor a PEFT adapter nor a checkpoint")
    if found.model.weights_hash != base.identity.weights_hash:
        raise Conflict(f"{folder} was made for {found.model}, and the base is {base.identity}; name its own with --model")
    return found


def _generation(number: str, base: LanguageModel, generations: Generations | None) -> Delta:
    if generations is None or not number.isdigit():
        raise BadRequest(f"generation:{number} is not understood; write generation:3, and name the store with --store")
    manifest, changes = generations.load(int(number))
    if manifest.model.weights_hash != base.identity.weights_hash:
        raise Conflict(f"generation {number} was made for {manifest.model}, and the base is {base.identity}; name its own with --model")
    facts = [generations.ledger.get(each) for each in manifest.fact_ids]
    edits = tuple({"subject": f.subject, "prompt": f.prompt, "target_new": f.target_new, "loss": 0.0} for f in facts)
    return Delta(method="task-vector", model=base.identity, settings={"from": f"generation:{number}"}, changes=dict(changes), edits=edits)


def _lora(folder: Path, base: LanguageModel) -> Delta:
    """The change that a PEFT LoRA adapter makes, scaling * B A, as factors.

    Raises:
        NotFound: if the weights are missing.
        Conflict: if it is another kind of adapter, or has matrices that the base has not.
    """
    about = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    odd = [key for key in ("rank_pattern", "alpha_pattern", "use_dora", "modules_to_save") if about.get(key)]
    if about.get("peft_type") != "LORA" or odd or about.get("bias", "none") != "none":
        raise Conflict(f"{folder} is a {about.get('peft_type')} adapter{f' with {odd[0]}' if odd else ''}; only plain LoRA is a sum of weights")
    if not (folder / "adapter_model.safetensors").exists():
        raise NotFound(f"{folder / 'adapter_model.safetensors'} is missing; save the adapter with safe_serialization=True")
    tensors = load_file(folder / "adapter_model.safetensors")
    scale = about["lora_alpha"] / (about["r"] ** 0.5 if about.get("use_rslora") else about["r"])
    known, changes = dict(base.model.named_parameters()), dict[str, Change]()
    for key, a in tensors.items():
        if not key.endswith(".lora_A.weight"):
            continue
        name = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight") + ".weight"
        b = tensors[key.replace(".lora_A.", ".lora_B.")]
        if name not in known or _seen(base, name).shape != (b.shape[0], a.shape[1]):
            raise Conflict(f"{folder} adapts {name!r}, which {base.name} does not have in that shape; name the adapter's own base with --model")
        changes[name] = Factors(np.float32(scale) * b.astype(np.float32), a.astype(np.float32).T.copy())
    if not changes:
        raise NotFound(f"{folder} holds no LoRA matrices")
    settings = {"from": str(folder), "sha256": file_hash(folder / "adapter_model.safetensors")}
    return Delta(method="task-vector", model=base.identity, settings=settings, changes=changes)


def scaled(vector: Delta, by: float) -> Delta:
    """A vector times a number; -1 negates it (Ilharco et al., section 3: forgetting a task)."""
    changes: dict[str, Change] = {
        name: Factors(np.asarray(change.left * change.left.dtype.type(by)), change.right) if isinstance(change, Factors) else change * change.dtype.type(by)
        for name, change in vector.changes.items()
    }
    settings = {"scale": by, "of": dict(vector.settings) | {"method": vector.method}}
    return Delta(method="task-vector", model=vector.model, settings=settings, changes=changes, edits=vector.edits if by > 0 else ())


def combine(vectors: Sequence[Delta], method: str = "linear", weights: Sequence[float] | None = None, *, density: float = 0.2, seed: int = 0) -> Delta:
    """Several vectors of one model as one.

    Args:
        method: "linear" (the weighted sum, exact and of low rank where all are), "ties", "dare", "dare-ties" or "magnitude".
        weights: one a vector; 1 if None.
        density: share of the entries that the other methods keep, in (0, 1].
        seed: of what DARE drops.
    Raises:
        ValueError: for a bad method, density, or number of weights.
        Conflict: if the vectors are of different models.
    """
    started = time.perf_counter()
    factors = [1.0] * len(vectors) if weights is None else list(weights)
    if method not in MERGES:
        raise ValueError(f"there is no merge {method!r}; choose one of {', '.join(MERGES)}")
    if not vectors or len(factors) != len(vectors):
        raise ValueError(f"{len(vectors)} vectors have {len(factors)} weights; give one weight to each vector")
    if not 0 < density <= 1:
        raise ValueError(f"density is the share of entries that are kept, above 0 and up to 1, not {density}")
    if len({each.model.weights_hash for each in vectors}) > 1:
        raise Conflict(f"the vectors belong to different models: {', '.join(sorted({str(each.model) for each in vectors}))}; only those of one can be added")
    names = list(dict.fromkeys(name for each in vectors for name in each.changes))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        changes = {name: _merged([v.changes.get(name) for v in vectors], factors, method, density) for name in names}
    settings: dict[str, Any] = {"merge": method, "weights": factors, "of": [dict(each.settings) | {"method": each.method} for each in vectors]}
    if method != "linear":
        settings |= {"density": density} | ({"seed": seed} if method.startswith("dare") else {})
    edits = tuple(edit for each, weight in zip(vectors, factors, strict=True) if weight > 0 for edit in each.edits)
    return Delta(method="task-vector", model=vectors[0].model, settings=settings, changes=changes, edits=edits, seconds=time.perf_counter() - started)


def _merged(changes: Sequence[Change | None], weights: Sequence[float], method: str, density: float) -> Change:
    """One parameter's changes as one; a vector that does not have it counts as zeros."""
    held = [(change, weight) for change, weight in zip(changes, weights, strict=True) if change is not None]
    if method == "linear":
        sides = [(each.left * each.left.dtype.type(weight), each.right) for each, weight in held if isinstance(each, Factors)]
        rank = sum(left.shape[1] for left, _ in sides)
        if len(sides) == len(held) and rank < min(sides[0][0].shape[0], sides[0][1].shape[0]):
            return Factors(np.concatenate([left for left, _ in sides], 1), np.concatenate([right for _, right in sides], 1))
        total: np.ndarray = sum(weight * _dense(each).astype(np.float64) for each, weight in held)  # type: ignore[assignment]
        return total.astype(np.float32)
    shape = _dense(held[0][0]).shape
    tensors = [torch.zeros(shape) if each is None else torch.from_numpy(_dense(each)).float() for each in changes]
    merge = optional("peft.utils.merge_utils", "combining by TIES or DARE")
    arguments: Mapping[str, Any] = {"weights": torch.tensor(weights), "density": density}
    functions = {"ties": merge.ties, "dare": merge.dare_linear, "dare-ties": merge.dare_ties, "magnitude": merge.magnitude_prune}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft warns that a density of 1 prunes nothing
        found: torch.Tensor = functions[method](tensors, **arguments)
    return found.numpy()


def _dense(change: Change) -> np.ndarray:
    return change.dense if isinstance(change, Factors) else change
