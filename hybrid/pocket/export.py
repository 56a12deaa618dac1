"""A run's checkpoint as the model that ships: `python -m hybrid.pocket.export RUN` (float16 shards under 15 MB)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import click
import torch
from safetensors.torch import load_file, save_file

from hybrid.embedder import file_hash
from hybrid.model import POCKET_FOLDER
from hybrid.pocket.train import Settings, make_model


def export(run: Path, folder: Path) -> None:
    """Write config, tokenizer, weights and the manifest with their checksums."""
    settings = Settings(**json.loads((run / "settings.json").read_text(encoding="utf-8")))
    model = make_model(settings)
    tensors = load_file(run / "checkpoint.safetensors")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[f"model.{name}"])
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.safetensors*"):
        old.unlink()
    model.half().save_pretrained(folder, max_shard_size="9MB")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (run / name).exists():
            shutil.copy(run / name, folder / name)
    files = {file.name: file_hash(file) for file in sorted(folder.glob("*.safetensors"))}
    step = json.loads((run / "progress.json").read_text(encoding="utf-8"))["step"]
    about = {"files": files, "documents": step * settings.rows, "settings": vars(settings)}
    (folder / "pocket.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def reopen(folder: Path, run: Path) -> None:
    """Make a run out of an exported model, so that training can go on; momenta start anew."""
    about = json.loads((folder / "pocket.json").read_text(encoding="utf-8"))
    run.mkdir(parents=True, exist_ok=False)
    tensors = {f"model.{name}": value.float() for file in about["files"] for name, value in load_file(folder / file).items()}
    save_file(tensors, run / "checkpoint.safetensors")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / name, run / name)
    settings = about["settings"]
    (run / "settings.json").write_text(json.dumps(settings, indent=1), encoding="utf-8")
    (run / "progress.json").write_text(json.dumps({"step": about["documents"] // settings["rows"]}), encoding="utf-8")


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--to", "folder", type=click.Path(path_type=Path), default=POCKET_FOLDER, help="Folder of the model.")
@click.option("--reopen", "back", is_flag=True, help="The other way: make RUN from the model, to train on.")
def main(run: Path, folder: Path, back: bool) -> None:
    """Export the checkpoint of a training run, or reopen a run from an exported model."""
    if back:
        reopen(folder, run)
    else:
        export(run, folder)


if __name__ == "__main__":
    main()
