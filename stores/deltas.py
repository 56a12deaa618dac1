"""What an editor makes: changes to weights, as factors or dense, in safetensors with a manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stores import folders
from stores.records import Identity

WEIGHTS = "delta.safetensors"


@dataclass(frozen=True)
class Factors:
    """A low-rank change: left (d_out, rank) @ right (d_in, rank).T."""

    left: np.ndarray
    right: np.ndarray

    @property
    def dense(self) -> np.ndarray:
        """The change as (d_out, d_in)."""
        product: np.ndarray = self.left @ self.right.T
        return product


@dataclass(frozen=True, kw_only=True)
class Delta:
    """Changes to the weights of one model.

    `changes` maps a parameter's name to `Factors`, or to a dense array; both are oriented (d_out, d_in), also for
    modules that store the transpose. `edits` says what was asked and what became of it, one object a request.
    """

    method: str
    model: Identity
    settings: Mapping[str, Any]
    changes: Mapping[str, Factors | np.ndarray]
    edits: tuple[Mapping[str, Any], ...] = ()
    seconds: float = 0.0
    extra: Mapping[str, Any] = field(default_factory=dict)

    def dense(self, name: str) -> np.ndarray:
        """One parameter's change as (d_out, d_in)."""
        change = self.changes[name]
        return change.dense if isinstance(change, Factors) else change

    def save(self, folder: Path) -> None:
        """Write weights and manifest; the manifest comes last and knows the weights' sha256.

        Raises:
            FileExistsError: if the folder holds a delta already.
        """
        tensors: dict[str, np.ndarray] = {}
        for name, change in self.changes.items():
            if isinstance(change, Factors):
                tensors |= {f"{name}:left": change.left, f"{name}:right": change.right}
            else:
                tensors[f"{name}:dense"] = change
        about = {
            "method": self.method,
            "model": {"name": self.model.name, "revision": self.model.revision, "weights_hash": self.model.weights_hash},
            "settings": dict(self.settings),
            "parameters": sorted(self.changes),
            "edits": [dict(edit) for edit in self.edits],
            "seconds": round(self.seconds, 3),
            "extra": dict(self.extra),
        }
        folders.write(folder, WEIGHTS, tensors, about)

    @classmethod
    def load(cls, folder: Path) -> Delta:
        """Read a delta back.

        Raises:
            NotFound: if the folder holds none.
            Corrupt: if the weights are not those that the manifest knows.
        """
        tensors, about = folders.read(folder, WEIGHTS, "delta", f"hybrid edit --method memit FILE --out {folder}")
        changes: dict[str, Factors | np.ndarray] = {}
        for name in about["parameters"]:
            dense = tensors.get(f"{name}:dense")
            changes[name] = Factors(tensors[f"{name}:left"], tensors[f"{name}:right"]) if dense is None else dense
        return cls(
            method=about["method"], model=Identity(**about["model"]), settings=about["settings"], changes=changes,
            edits=tuple(about["edits"]), seconds=about["seconds"], extra=about["extra"],
        )  # fmt: skip
