"""Consolidation on a schedule: an entry of the user's crontab, or a systemd timer of the user; shown before it is written."""

from __future__ import annotations

import hashlib
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stores.errors import HybridError, NotFound

MINUTES = 60


@dataclass(frozen=True)
class Schedule:
    """Daily `at` (HH:MM), or `every` so many minutes."""

    at: str | None = None
    every: int | None = None

    @classmethod
    def read(cls, at: str | None, every: str | None) -> Schedule:
        """A schedule as typed; daily at 03:00 if nothing is.

        Raises:
            ValueError: saying what to write.
        """
        if at is not None and every is not None:
            raise ValueError("--at and --every exclude each other; give one of them")
        if every is None:
            match = re.fullmatch(r"([01]?\d|2[0-3]):([0-5]\d)", at or "03:00")
            if match is None:
                raise ValueError(f"--at is {at!r}; write a time of day such as 03:00")
            return cls(at=f"{int(match[1]):02d}:{match[2]}")
        match = re.fullmatch(r"(\d+)([mhd])", every)
        minutes = int(match[1]) * {"m": 1, "h": 60, "d": 1440}[match[2]] if match else 0
        even = minutes and (60 % minutes == 0 or (minutes % 60 == 0 and 1440 % minutes == 0))
        if not even:
            raise ValueError(f"--every is {every!r}; write minutes that divide an hour or hours that divide a day, such as 15m, 6h or 1d")
        return cls(every=minutes)

    @property
    def cron(self) -> str:
        """The five fields of a crontab."""
        if self.at is not None:
            hour, minute = self.at.split(":")
            return f"{int(minute)} {int(hour)} * * *"
        assert self.every is not None
        if self.every < MINUTES:
            return f"*/{self.every} * * * *"
        return "0 0 * * *" if self.every == 24 * MINUTES else f"0 */{self.every // MINUTES} * * *"

    @property
    def calendar(self) -> str:
        """The same for systemd's OnCalendar."""
        if self.at is not None:
            return f"*-*-* {self.at}:00"
        assert self.every is not None
        if self.every < MINUTES:
            return f"*:0/{self.every}"
        return "*-*-* 00:00:00" if self.every == 24 * MINUTES else f"*-*-* 0/{self.every // MINUTES}:00:00"


def command(store: Path) -> list[str]:
    """What is run: this program, this store, absolute."""
    found = shutil.which("hybrid", path=str(Path(sys.executable).parent)) or shutil.which("hybrid")
    program = [str(Path(found).absolute())] if found else [sys.executable, "-m", "cli"]
    return [*program, "consolidate", "--store", str(store.absolute())]


def name(store: Path) -> str:
    """The schedule's name: one a store."""
    return f"hybrid-{hashlib.sha256(str(store.absolute()).encode()).hexdigest()[:10]}"


def crontab_line(store: Path, schedule: Schedule) -> str:
    """The entry; its comment is how it is found again. Percent signs mean line ends to cron, so they are escaped."""
    line = f"{shlex.join(command(store))} >> {shlex.quote(str(store.absolute() / 'consolidate.log'))} 2>&1"
    return f"{schedule.cron} {line.replace('%', chr(92) + '%')} # {name(store)}"


def systemd_units(store: Path, schedule: Schedule) -> dict[str, str]:
    """The unit files by name. Systemd has its own quoting, in which a percent sign and a dollar sign stand doubled."""
    words = " ".join('"' + word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$") + '"' for word in command(store))
    return {
        f"{name(store)}.service": f"[Unit]\nDescription=Consolidate the facts of {str(store.absolute()).replace('%', '%%')}\n\n[Service]\nType=oneshot\nExecStart={words}\n",
        f"{name(store)}.timer": f"[Unit]\nDescription=When hybrid consolidates\n\n[Timer]\nOnCalendar={schedule.calendar}\nPersistent=true\n\n[Install]\nWantedBy=timers.target\n",
    }


def kind() -> str:
    """What this machine has: "crontab" or "systemd".

    Raises:
        NotFound: if neither, with what to do instead.
    """
    for program, found in (("crontab", "crontab"), ("systemctl", "systemd")):
        if shutil.which(program):
            return found
    raise NotFound("there is neither crontab nor systemctl here; run `hybrid consolidate --watch` beside your program instead")


def shown(store: Path, schedule: Schedule, how: str) -> str:
    """What would be written, for a person."""
    if how == "crontab":
        return crontab_line(store, schedule) + "\n"
    return "\n".join(f"# {unit_folder() / unit}\n{text}" for unit, text in systemd_units(store, schedule).items())


def install(store: Path, schedule: Schedule, how: str) -> None:
    """Write the entry in place of the store's earlier one."""
    if how == "crontab":
        _write_crontab([*_others(store), crontab_line(store, schedule)])
        return
    unit_folder().mkdir(parents=True, exist_ok=True)
    for unit, text in systemd_units(store, schedule).items():
        (unit_folder() / unit).write_text(text, encoding="utf-8")
    _run(["systemctl", "--user", "daemon-reload"])
    _run(["systemctl", "--user", "enable", "--now", f"{name(store)}.timer"])


def installed(store: Path) -> list[str]:
    """What is written for the store: its crontab line, or its timer's file."""
    found = [line for line in _crontab() if line.endswith(f"# {name(store)}")] if shutil.which("crontab") else []
    timer = unit_folder() / f"{name(store)}.timer"
    return [*found, *([str(timer)] if timer.exists() else [])]


def remove(store: Path) -> list[str]:
    """Take the store's entries out; returns what they were.

    Raises:
        NotFound: if there are none.
    """
    found = installed(store)
    if not found:
        raise NotFound(f"nothing is scheduled for {store}; `hybrid cron install` does that")
    if shutil.which("crontab") and len(_others(store)) != len(_crontab()):
        _write_crontab(_others(store))
    if (unit_folder() / f"{name(store)}.timer").exists():
        _run(["systemctl", "--user", "disable", "--now", f"{name(store)}.timer"])
        for unit in (f"{name(store)}.timer", f"{name(store)}.service"):
            (unit_folder() / unit).unlink(missing_ok=True)
    return found


def unit_folder() -> Path:
    """Where the user's units lie."""
    return Path.home() / ".config" / "systemd" / "user"


def _crontab() -> list[str]:
    """The user's crontab; none is an empty one."""
    done = subprocess.run(["crontab", "-l"], capture_output=True, text=True, check=False)
    if done.returncode and "no crontab" not in done.stderr.lower():
        raise HybridError(f"crontab -l failed: {done.stderr.strip() or done.returncode}; nothing was changed")
    return done.stdout.splitlines()


def _others(store: Path) -> list[str]:
    return [line for line in _crontab() if not line.endswith(f"# {name(store)}")]


def _write_crontab(lines: Sequence[str]) -> None:
    _run(["crontab", "-"], given="".join(f"{line}\n" for line in lines))


def _run(words: list[str], given: str | None = None) -> None:
    """Run a program.

    Raises:
        HybridError: with what it said, if it failed.
    """
    done = subprocess.run(words, input=given, capture_output=True, text=True, check=False)
    if done.returncode:
        raise HybridError(
            f"{shlex.join(words)} failed: {(done.stderr or done.stdout).strip()}; print the entry with `hybrid cron install --print` and add it by hand"
        )
