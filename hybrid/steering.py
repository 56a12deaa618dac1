"""Activation steering: a direction in the residual stream, added to one block's output while the model answers.

What a direction is, how it is kept, and how it is applied (Turner et al. 2023, arXiv:2308.10248); `hybrid.directions` makes one.
Weights are not touched.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from hybrid.architecture import Architecture, changed_output
from hybrid.model import LanguageModel
from stores.errors import Conflict, Corrupt, NotFound
from stores.records import Identity


@dataclass(frozen=True, kw_only=True)
class Steering:
    """A vector (d,) float32 for one block's output, and how it was chosen."""

    vector: Tensor
    layer: int
    strength: float
    method: str
    onward: bool
    """Whether new tokens are steered, too, or the end of the prompt alone. A direction between prompts says what to answer; once the
    answer has begun it would begin it again. One between completions is made of their tokens and goes with them."""
    model: Identity
    about: dict[str, Any]
    """Counts of examples, held-out score before and after, perplexity drift on other text."""

    def save(self, folder: Path) -> str:
        """Write vector and manifest; returns the vector's SHA-256, which the ledger keeps.

        Raises:
            Conflict: if there is one already.
        """
        if (folder / "manifest.json").exists():
            raise Conflict(f"{folder} holds a steering vector already; `hybrid steer remove {folder.name}` first, or choose another --name")
        folder.mkdir(parents=True, exist_ok=True)
        raw = save({"vector": self.vector.contiguous()})
        (folder / "vector.safetensors").write_bytes(raw)
        manifest = {name: getattr(self, name) for name in ("layer", "strength", "method", "onward", "about")} | {"model": asdict(self.model)}
        manifest["sha256"] = hashlib.sha256(raw).hexdigest()
        partial = folder / "manifest.json.partial"
        partial.write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        partial.replace(folder / "manifest.json")
        return str(manifest["sha256"])

    @classmethod
    def load(cls, folder: Path, sha256: str) -> Steering:
        """Read a vector whose hash the ledger knows.

        Raises:
            NotFound, Corrupt: if the files are gone, or are others.
        """
        again = f"`hybrid steer remove {folder.name}`, then make it again"
        try:
            raw, manifest = (folder / "vector.safetensors").read_bytes(), json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise NotFound(f"{folder} holds no steering vector any more ({error}); {again}") from error
        except ValueError as error:
            raise Corrupt(f"{folder / 'manifest.json'} is not JSON ({error}); {again}") from error
        if not hashlib.sha256(raw).hexdigest() == sha256 == manifest.get("sha256"):
            raise Corrupt(f"the steering vector in {folder} is not the one that the ledger knows; {again}")
        about = {name: manifest[name] for name in ("layer", "strength", "method", "onward", "about")}
        return cls(vector=load(raw)["vector"], model=Identity(**manifest["model"]), **about)

    def held_to(self, model: LanguageModel, name: str) -> Steering:
        """Itself, if it belongs to the model.

        Raises:
            Conflict: if not.
        """
        if self.model.weights_hash != model.identity.weights_hash:
            raise Conflict(f"the steering vector {name!r} was made for {self.model}, and this model is {model.identity}; `hybrid steer detach {name}`")
        return self


@contextmanager
def steered(model: LanguageModel, layer: int, change: Tensor, start: Tensor | None = None, onward: bool = True) -> Iterator[None]:
    """Add a vector (d,) to a block's output from a place on, while the context lasts; afterwards the model is what it was, to the bit.

    Args:
        start: first changed place of each row (n,); by default the last place of what is read at once, which is the end of the
            prompt and then each new token.
        onward: also where one token alone is read, as new ones are; without it the end of the prompt is changed and no more.
    """
    block = Architecture(model.model).part(layer, "block")

    def add(hidden: Tensor) -> Tensor:
        if not onward and hidden.shape[1] == 1:
            return hidden
        places = torch.arange(hidden.shape[1], device=hidden.device)
        first = torch.full((hidden.shape[0],), hidden.shape[1] - 1) if start is None else start
        mask = places[None] >= first.to(hidden.device)[:, None]
        return torch.where(mask[..., None], hidden + change.to(hidden), hidden)

    with changed_output(block, add):
        yield
