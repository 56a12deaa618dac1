"""What the methods make that add parameters and touch no weight: tensors that are attached to a model, in safetensors with a manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stores import folders
from stores.records import Identity

TENSORS = "adapter.safetensors"


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """Added parameters of one model.

    `tensors` and `extra` (JSON) are the method's own; `edits` says what was asked and what became of it, one object a request.
    """

    method: str
    model: Identity
    settings: Mapping[str, Any]
    tensors: Mapping[str, np.ndarray]
    edits: tuple[Mapping[str, Any], ...] = ()
    seconds: float = 0.0
    extra: Mapping[str, Any] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write tensors and manifest.

        Raises:
            FileExistsError: if the folder holds something already.
        """
        about = {
            "method": self.method, "model": asdict(self.model), "settings": dict(self.settings), "edits": [dict(edit) for edit in self.edits],
            "seconds": round(self.seconds, 3), "extra": dict(self.extra),
        }  # fmt: skip
        folders.write(folder, TENSORS, self.tensors, about)

    @classmethod
    def load(cls, folder: Path) -> Adapter:
        """Read an adapter back.

        Raises:
            NotFound: if the folder holds none.
            Corrupt: if the tensors are not those that the manifest knows.
        """
        tensors, about = folders.read(folder, TENSORS, "adapter", f"hybrid edit --method grace FILE --out {folder}")
        return cls(
            method=about["method"], model=Identity(**about["model"]), settings=about["settings"], tensors=tensors,
            edits=tuple(about["edits"]), seconds=about["seconds"], extra=about["extra"],
        )  # fmt: skip


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter, and not a delta."""
    return (folder / TENSORS).exists()
