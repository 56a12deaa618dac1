"""Generations: numbered, immutable folders of low-rank factors, and the one that is live. Generation 0 is the base.

A folder is written beside, flushed, renamed into place, and only then entered into the ledger, with the hash of its
manifest, in the transaction that makes it live. Killed before that, the old generation is live and the folder is nobody's.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from stores import events
from stores.deltas import Factors
from stores.errors import Conflict, Corrupt, NotFound
from stores.events import now
from stores.ledger import Ledger
from stores.records import Identity

MANIFEST, WEIGHTS = "manifest.json", "factors.safetensors"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a generation is: everything but the factors."""

    id: int
    model: Identity
    base_hash: str
    """Over all tensors of the base weights as loaded."""
    weights_hash: str
    """Over all tensors of the resulting weights."""
    tensors: Mapping[str, str]
    """The hash of each changed tensor."""
    facts: tuple[Mapping[str, Any], ...]
    """`id` of each fact in solving order, and whether it `passed` its check."""
    method: str
    settings: Mapping[str, Any]
    verification: Mapping[str, Any]
    created_at: str
    author: str
    files: Mapping[str, str]
    """SHA-256 of every other file of the folder."""

    @property
    def fact_ids(self) -> list[str]:
        """Ids in solving order."""
        return [fact["id"] for fact in self.facts]


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A generation that is about to be written; see `Manifest` for the fields."""

    model: Identity
    base_hash: str
    weights_hash: str
    tensors: Mapping[str, str]
    facts: tuple[Mapping[str, Any], ...]
    method: str
    settings: Mapping[str, Any]
    verification: Mapping[str, Any]
    changes: Mapping[str, Factors]
    extra: Mapping[str, bytes]
    """Other files to keep with it, such as the report. They are no part of what the manifest vouches for: a fact that is forgotten leaves them."""


class Generations:
    """The generations of a store."""

    def __init__(self, ledger: Ledger, folder: Path):
        self.ledger, self.db, self.folder = ledger, ledger.db, folder

    def path(self, number: int) -> Path:
        """Where a generation lies."""
        return self.folder / f"{number:06d}"

    # -- reading -----------------------------------------------------------------------------

    def live(self) -> int:
        """The number of the live generation; 0 is the base."""
        row = self.db.execute("SELECT number FROM generations WHERE live = 1").fetchone()
        return int(row[0]) if row else 0

    def numbers(self) -> list[int]:
        """Generations whose folders are kept, ascending, without the base."""
        return [row[0] for row in self.db.execute("SELECT number FROM generations WHERE kept = 1 AND number > 0 ORDER BY number")]

    def rows(self) -> list[dict[str, Any]]:
        """One line each, of pruned ones too: number, weights_hash, at, author, facts, kept, live."""
        found = self.db.execute(
            "SELECT number, weights_hash, at, actor, (SELECT count(*) FROM generation_facts WHERE generation = number), kept, live FROM generations ORDER BY number"
        )
        names = ("id", "weights_hash", "created_at", "author", "facts", "kept", "live")
        return [dict(zip(names, row, strict=True)) | {"kept": bool(row[5]), "live": bool(row[6])} for row in found]

    def base_hash(self) -> str | None:
        """The hash of the base weights, once there has been a generation."""
        row = self.db.execute("SELECT weights_hash FROM generations WHERE number = 0").fetchone()
        return str(row[0]) if row else None

    def in_weights(self, fact_ids: Iterable[str]) -> set[str]:
        """Those of the facts that the live generation holds and that passed their check in it."""
        ids = list(fact_ids)
        marks = ",".join("?" * len(ids))
        found = self.db.execute(
            f"SELECT fact_id FROM generation_facts JOIN generations ON number = generation WHERE live = 1 AND passed = 1 AND fact_id IN ({marks})", ids
        )
        return {row[0] for row in found}

    def in_live(self) -> set[str]:
        """All facts that the live generation answers for."""
        rows = self.db.execute("SELECT fact_id FROM generation_facts JOIN generations ON number = generation WHERE live = 1 AND passed = 1")
        return {row[0] for row in rows}

    def members(self) -> set[str]:
        """All facts that the live generation was solved for, those included that it does not say and memory answers for."""
        return {row[0] for row in self.db.execute("SELECT fact_id FROM generation_facts JOIN generations ON number = generation WHERE live = 1")}

    def holding(self, fact_ids: Iterable[str]) -> list[int]:
        """Kept generations that hold any of these facts."""
        ids = list(fact_ids)
        marks = ",".join("?" * len(ids))
        found = self.db.execute(
            f"SELECT DISTINCT number FROM generation_facts JOIN generations ON number = generation WHERE kept = 1 AND fact_id IN ({marks}) ORDER BY number", ids
        )
        return [row[0] for row in found]

    def manifest(self, number: int) -> Manifest:
        """A generation's manifest.

        Raises:
            NotFound: if there is no such generation, or it was pruned.
            Corrupt: if it is not the one that the ledger knows.
        """
        row = self.db.execute("SELECT manifest, kept FROM generations WHERE number = ?", [number]).fetchone()
        if row is None or number == 0:
            raise NotFound(f"there is no generation {number} to read; `hybrid generations list` shows those that there are (0 is the base and has no files)")
        if not row[1]:
            raise NotFound(f"generation {number} was pruned; `hybrid generations list` shows those that are kept")
        mend = f"remove nothing by hand; `hybrid generations rollback 0`, then `hybrid consolidate --force`, makes generation {number}'s successor"
        try:
            data = (self.path(number) / MANIFEST).read_bytes()
        except FileNotFoundError as error:
            raise Corrupt(f"{self.path(number) / MANIFEST} is missing; {mend}") from error
        if hashlib.sha256(data).hexdigest() != row[0]:
            raise Corrupt(f"{self.path(number) / MANIFEST} is not the manifest that the ledger knows; {mend}")
        about = json.loads(data)
        return Manifest(**about | {"model": Identity(**about["model"]), "facts": tuple(about["facts"])})

    def load(self, number: int) -> tuple[Manifest, dict[str, Factors]]:
        """A generation's manifest and factors, by parameter; every file is checked against its hash.

        Raises:
            NotFound, Corrupt: see `manifest`; Corrupt if another file has changed.
        """
        manifest = self.manifest(number)
        for name, digest in manifest.files.items():
            path = self.path(number) / name
            if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
                raise Corrupt(
                    f"{path} does not match its manifest; `hybrid generations rollback 0`, then `hybrid consolidate --force`, makes generation {number}'s successor"
                )
        tensors = load_file(self.path(number) / WEIGHTS)
        return manifest, {name: Factors(tensors[f"{name}:left"], tensors[f"{name}:right"]) for name in manifest.tensors}

    # -- writing -----------------------------------------------------------------------------

    def publish(self, draft: Draft) -> int:
        """Write a generation and make it live; returns its number. The caller holds the consolidation lock.

        Raises:
            Conflict: if one of its facts has gone out of force in the meantime; the old generation stays live.
        """
        self.sweep()
        number = int(self.db.execute("SELECT coalesce(max(number), 0) FROM generations").fetchone()[0]) + 1
        digest = self._write(number, draft)
        with self.ledger.transaction():
            gone = [
                fact["id"] for fact in draft.facts if not self.db.execute("SELECT 1 FROM facts WHERE id = ? AND status = 'active'", [fact["id"]]).fetchone()
            ]
            if gone:
                raise Conflict(f"fact {gone[0]} was changed or forgotten while it was consolidated; run `hybrid consolidate` again")
            self._enter(0, draft.base_hash, draft.base_hash, None)
            self._enter(number, draft.weights_hash, draft.base_hash, digest)
            self.db.conn.executemany("INSERT INTO generation_facts VALUES (?, ?, ?)", [(number, fact["id"], bool(fact["passed"])) for fact in draft.facts])
            self._point_at(number)
            events.append(self.db, self.ledger.actor, "generation", None, {"number": number, "weights": draft.weights_hash, "facts": len(draft.facts)})
        return number

    def go_live(self, number: int, why: str = "rollback") -> None:
        """Make another generation live, in one transaction; 0 is the base.

        Raises:
            NotFound, Corrupt: see `load`.
        """
        if number:
            self.load(number)
        with self.ledger.transaction():
            self._point_at(number)
            events.append(self.db, self.ledger.actor, why, None, {"number": number})

    def demote(self, fact_id: str) -> None:
        """The live generation does not answer for a fact any more; memory does."""
        with self.ledger.transaction():
            self.db.execute(
                "UPDATE generation_facts SET passed = 0 WHERE fact_id = ? AND generation = (SELECT number FROM generations WHERE live = 1)", [fact_id]
            )
            events.append(self.db, self.ledger.actor, "demote", fact_id, {"generation": self.live()})

    def prune(self, numbers: Iterable[int]) -> list[int]:
        """Delete generations for good, but for the live one; returns those that are gone. Their numbers are never used again."""
        gone = [number for number in numbers if number in self.numbers() and number != self.live()]
        with self.ledger.transaction():
            for number in gone:
                self.db.execute("UPDATE generations SET kept = 0, manifest = NULL WHERE number = ?", [number])
                self.db.execute("DELETE FROM generation_facts WHERE generation = ?", [number])
                events.append(self.db, self.ledger.actor, "prune", None, {"number": number})
        self.sweep()
        return gone

    def sweep(self) -> None:
        """Delete folders that the ledger does not know: of killed runs, and of generations that were pruned."""
        known = {self.path(number).name for number in self.numbers()}
        for path in self.folder.iterdir() if self.folder.exists() else ():
            if path.name not in known and (path.name.isdigit() or path.name.startswith("partial-")):
                shutil.rmtree(path)

    def note_export(self, number: int, form: str, path: Path) -> None:
        """Remember where a copy went."""
        with self.ledger.transaction():
            self.db.execute("INSERT INTO exports (generation, format, path, at) VALUES (?, ?, ?, ?)", [number, form, str(path.resolve()), now()])
            events.append(self.db, self.ledger.actor, "export", None, {"number": number, "format": form})

    def exports(self, numbers: Iterable[int]) -> list[str]:
        """Where copies of generations went, those that are still there."""
        found = [row[0] for number in numbers for row in self.db.execute("SELECT path FROM exports WHERE generation = ?", [number])]
        return [path for path in dict.fromkeys(found) if Path(path).exists()]

    def _point_at(self, number: int) -> None:
        self.db.execute("UPDATE generations SET live = 0 WHERE live = 1")
        self.db.execute("UPDATE generations SET live = 1 WHERE number = ?", [number])

    def _enter(self, number: int, weights_hash: str, base_hash: str, manifest: str | None) -> None:
        self.db.execute(
            "INSERT INTO generations (number, weights_hash, base_hash, manifest, at, actor) VALUES (?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (number) DO UPDATE SET weights_hash = excluded.weights_hash, base_hash = excluded.base_hash",
            [number, weights_hash, base_hash, manifest, now(), self.ledger.actor],
        )

    def _write(self, number: int, draft: Draft) -> str:
        """The folder, on disk for good; returns the manifest's hash."""
        partial = self.folder / f"partial-{number:06d}"
        partial.mkdir(parents=True)
        sides = {f"{name}:{side}": np.ascontiguousarray(getattr(f, side)) for name, f in sorted(draft.changes.items()) for side in ("left", "right")}
        save_file(sides, partial / WEIGHTS)
        files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(partial.iterdir())}
        for name, data in draft.extra.items():
            (partial / name).write_bytes(data)
        fields = {name: getattr(draft, name) for name in ("base_hash", "weights_hash", "tensors", "facts", "method", "settings", "verification")}
        manifest = Manifest(id=number, model=draft.model, created_at=now(), author=self.ledger.actor, files=files, **fields)
        about = asdict(manifest)
        data = (json.dumps(about, indent=1, ensure_ascii=False) + "\n").encode()
        (partial / MANIFEST).write_bytes(data)
        for path in partial.iterdir():
            path.chmod(0o444)
            _flush(path)
        _flush(partial)
        partial.rename(self.path(number))
        _flush(self.folder)
        return hashlib.sha256(data).hexdigest()


def _flush(path: Path) -> None:
    """Onto the disk; folders too, where the system can."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:  # folders on Windows
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
