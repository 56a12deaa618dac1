"""The hash of weights as they are in memory: name, type, shape and every bit of every tensor."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor


def tensor_hash(tensor: Tensor) -> str:
    """SHA-256 over type, shape and bits, wherever the tensor lives."""
    held = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{held.dtype} {tuple(held.shape)} ".encode())
    digest.update(held.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def tensor_hashes(model: Any, names: Iterable[str] | None = None) -> dict[str, str]:
    """Hashes of a module's parameters by name, all or some; shared tensors once."""
    wanted = None if names is None else set(names)
    return {name: tensor_hash(parameter) for name, parameter in model.named_parameters() if wanted is None or name in wanted}


def combined(hashes: Mapping[str, str]) -> str:
    """One hash over all tensors."""
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()
