"""A folder that holds tensors and a manifest: the manifest is written last, and knows the tensors' sha256."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from stores.errors import Corrupt, NotFound

MANIFEST = "manifest.json"


def write(folder: Path, name: str, tensors: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
    """Write tensors to `folder / name`, then the manifest.

    Raises:
        FileExistsError: if the folder has a manifest already.
    """
    if (folder / MANIFEST).exists():
        raise FileExistsError(f"{folder} has a {MANIFEST} already; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: np.ascontiguousarray(tensor) for key, tensor in tensors.items()}, folder / name)
    known = {**about, "sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest()}
    partial = folder / f"{MANIFEST}.partial"
    partial.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(folder / MANIFEST)


def read(folder: Path, name: str, what: str, mend: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Tensors and manifest of a folder.

    Args:
        what: what the folder should hold, such as "delta".
        mend: the command that makes one.
    Raises:
        NotFound: if there is none.
        Corrupt: if the tensors are not those that the manifest knows.
    """
    if not (folder / MANIFEST).exists():
        raise NotFound(f"{folder} holds no {what}; make one with `{mend}`")
    try:
        about = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except ValueError as error:
        raise Corrupt(f"{folder / MANIFEST} is not JSON ({error}); make the {what} again") from error
    if not (folder / name).exists():
        other = sorted(path.name for path in folder.glob("*.safetensors"))
        held = f"; what it holds is {other[0]}" if other else ""
        raise Corrupt(f"{folder / name} is missing{held}; make the {what} again")
    if hashlib.sha256((folder / name).read_bytes()).hexdigest() != about["sha256"]:
        raise Corrupt(f"{folder / name} does not match its manifest; make the {what} again")
    return load_file(folder / name), about
