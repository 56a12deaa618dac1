"""A run's checkpoint as the model that ships: `python -m hybrid.counterfactual.export RUN` (float16 shards under 15 MB)."""

from __future__ import annotations

import json
from pathlib import Path

import click

from hybrid.counterfactual.model import FOLDER, MANIFEST
from hybrid.model import LanguageModel
from hybrid.pocket.export import export as export_pocket


def export(run: Path, folder: Path) -> None:
    """Write config, tokenizer, weights and the manifest with their checksum."""
    export_pocket(run, folder)
    about = json.loads((folder / "pocket.json").read_text(encoding="utf-8"))
    (folder / "pocket.json").unlink()
    about = {"weights_hash": LanguageModel(str(folder)).identity.weights_hash, **about}
    (folder / MANIFEST).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


@click.command()
@click.argument("run", type=click.Path(exists=True, path_type=Path))
@click.option("--to", "folder", type=click.Path(path_type=Path), default=FOLDER, help="Folder of the model.")
def main(run: Path, folder: Path) -> None:
    """Export the checkpoint of a training run."""
    export(run, folder)


if __name__ == "__main__":
    main()
