"""A run's checkpoint as the model that ships: `python -m hybrid.pocket.export RUN` (float16 shards under 15 MB)."""

from __future__ import annotations

import json
import shutil
import zlib
from pathlib import Path

import click
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

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


def reopen(folder: Path, run: Path, feed_forward: int | None = None) -> None:
    """Make a run out of an exported model, so that training can go on; momenta start anew.

    Args:
        feed_forward: widen the feed-forward layers to so many neurons. The model's outputs stay what they were (Chen et al. 2016,
            arXiv:1511.05641): a new neuron reads at random, like its neighbours in scale, and writes nothing yet.
    Raises:
        ValueError: if the model is wider already.
    """
    about = json.loads((folder / "pocket.json").read_text(encoding="utf-8"))
    run.mkdir(parents=True, exist_ok=False)
    tensors = {f"model.{name}": value.float() for file in about["files"] for name, value in load_file(folder / file).items()}
    settings = about["settings"]
    if feed_forward is not None:
        more = feed_forward - settings["feed_forward"]
        if more < 0:
            raise ValueError(f"the model has {settings['feed_forward']} neurons a layer already; give as many or more, not {feed_forward}")
        tensors = {name: _widened(name, value, more) for name, value in tensors.items()}
        settings = settings | {"feed_forward": feed_forward}
    save_file(tensors, run / "checkpoint.safetensors")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / name, run / name)
    (run / "settings.json").write_text(json.dumps(settings, indent=1), encoding="utf-8")
    (run / "progress.json").write_text(json.dumps({"step": about["documents"] // settings["rows"]}), encoding="utf-8")


def _widened(name: str, value: Tensor, more: int) -> Tensor:
    """A parameter with `more` neurons, if it belongs to a feed-forward layer."""
    if name.endswith(("gate_proj.weight", "up_proj.weight")):
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        return torch.cat([value, torch.randn(more, value.shape[1], generator=generator) * value.std()])
    if name.endswith("down_proj.weight"):
        return torch.cat([value, torch.zeros(value.shape[0], more)], dim=1)
    return value


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--to", "folder", type=click.Path(path_type=Path), default=POCKET_FOLDER, help="Folder of the model.")
@click.option("--reopen", "back", is_flag=True, help="The other way: make RUN from the model, to train on.")
@click.option("--feed-forward", type=int, help="With --reopen: widen the feed-forward layers to so many neurons.")
def main(run: Path, folder: Path, back: bool, feed_forward: int | None) -> None:
    """Export the checkpoint of a training run, or reopen a run from an exported model."""
    if back:
        reopen(folder, run, feed_forward)
    else:
        export(run, folder)


if __name__ == "__main__":
    main()
