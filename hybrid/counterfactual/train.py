"""Train the counterfactual model: `python -m hybrid.counterfactual.train --facts facts.tsv --text prose.txt --out run`.

It starts from pocket's weights, which read already, and learns to read only, with pocket's trainer: the rate warms up and then falls to
the end, checkpoints are safetensors, and a run that is started again goes on where it stopped.
"""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import click
from safetensors.torch import load_file, save_file

from hybrid.counterfactual.corpus import Reading
from hybrid.counterfactual.model import MANIFEST
from hybrid.model import POCKET_FOLDER
from hybrid.pocket.train import Feeder, Settings, run
from stores.errors import NotFound

DOCUMENTS = 60_000


class Reader(Feeder):
    """Makes batches of reading practice."""

    kind = Reading


def begin(start: Path, out: Path, settings: Settings) -> Settings:
    """Make a new run out of an exported model, at step 0; a run that exists already stays as it is.

    Returns:
        The settings of the run: those given, with the model's sizes.
    """
    if (out / "settings.json").exists():
        return Settings(**json.loads((out / "settings.json").read_text(encoding="utf-8")))
    manifest = next((path for path in (start / "pocket.json", start / MANIFEST) if path.exists()), None)
    if manifest is None:
        raise NotFound(f"{start} is no exported model: it has neither pocket.json nor {MANIFEST}")
    about = json.loads(manifest.read_text(encoding="utf-8"))
    sizes = {name: about["settings"][name] for name in ("facts", "vocabulary", "width", "feed_forward", "layers", "heads")}
    settings = replace(settings, **sizes)
    out.mkdir(parents=True, exist_ok=True)
    save_file({f"model.{name}": value.float() for file in about["files"] for name, value in load_file(start / file).items()}, out / "checkpoint.safetensors")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(start / name, out / name)
    (out / "progress.json").write_text(json.dumps({"step": 0}), encoding="utf-8")
    (out / "settings.json").write_text(json.dumps(asdict(settings), indent=1), encoding="utf-8")
    return settings


@click.command()
@click.option("--facts", type=click.Path(exists=True, path_type=Path), required=True, help="Tab-separated triples.")
@click.option("--text", type=click.Path(exists=True, path_type=Path), required=True, help="Plain prose.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the run; resumed if it exists.")
@click.option(
    "--start", type=click.Path(exists=True, path_type=Path), default=POCKET_FOLDER, help="Exported model to start from: pocket, or a counterfactual model."
)
@click.option("--documents", default=DOCUMENTS, show_default=True, help="Documents in all.")
@click.option("--rows", default=64, show_default=True, help="Documents a batch.")
@click.option("--lr", default=1e-3, show_default=True, help="Of Muon, at its height; AdamW takes half of it.")
@click.option("--seed", default=Settings.seed, show_default=True, help="Of the split and of the documents.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--threads", default=1, show_default=True, help="CPU threads of each worker.")
@click.option("--workers", default=1, show_default=True, help="Processes that share each batch.")
@click.option("--compile/--no-compile", "fuse", default=False, help="Fuse kernels with torch.compile (needs a C++ compiler).")
def main(
    facts: Path, text: Path, out: Path, start: Path, documents: int, rows: int, lr: float, seed: int, device: str, threads: int, workers: int, fuse: bool
) -> None:
    """Train the counterfactual model."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    settings = begin(start, out, Settings(rows=rows, lr=lr, adam_lr=lr / 2, fall=0.9, seed=seed))
    run(facts, text, out, settings, documents, device, threads, fuse, workers, Reader)


if __name__ == "__main__":
    main()
