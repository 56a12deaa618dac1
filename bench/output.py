"""Where the benchmarks' results go."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click


def write(out: Path | None, result: dict[str, Any], *, echo: bool = True) -> None:
    """A result as JSON to a file, if one is named, and to standard output."""
    written = json.dumps(result, indent=1)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(written + "\n", encoding="utf-8")
    if echo:
        click.echo(written)
