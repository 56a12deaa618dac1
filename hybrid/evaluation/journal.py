"""The folder of a run: what was asked for, and one line for every finished record, so that an interrupted run can go on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stores.errors import Conflict

PLAN = "plan.json"


class Journal:
    """JSON lines that are appended record by record; a line that a crash tore is dropped."""

    def __init__(self, path: Path, chunk: int):
        self.path = path
        lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
        whole = len(lines) - len(lines) % chunk  # what ran together is repeated together, so that answers are the same to the bit
        self.rows: list[dict[str, Any]] = [json.loads(line) for line in lines[:whole]]
        if path.exists():
            path.write_text("".join(f"{line}\n" for line in lines[:whole]), encoding="utf-8")

    def append(self, rows: Sequence[dict[str, Any]]) -> None:
        """Add finished records."""
        with self.path.open("a", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        self.rows += rows


def open_folder(folder: Path, plan: Mapping[str, Any], resume: bool) -> bool:
    """Prepare the folder of a run; returns whether there was an earlier run that this one replaces.

    Raises:
        Conflict: if it holds something else, or if what is to go on was another run; the message names what differs.
    """
    path = folder / PLAN
    made = json.loads(json.dumps(plan))
    if resume and path.exists():
        old = json.loads(path.read_text(encoding="utf-8"))
        for name in sorted({*old, *made}):
            if old.get(name) != made.get(name):
                raise Conflict(
                    f"the run in {folder} had {name} {old.get(name)!r}, this one has {made.get(name)!r}; repeat the earlier command, or start anew without --resume"
                )
        return False
    earlier = path.exists()
    if folder.exists() and any(folder.iterdir()) and not earlier:
        raise Conflict(f"{folder} holds files that are no run of `hybrid eval`; choose another folder with --run")
    if earlier:
        for item in folder.iterdir():
            shutil.rmtree(item) if item.is_dir() and not item.is_symlink() else item.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(made, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return earlier
