"""Pocket's shipped statistics: `python -m hybrid.pocket.measure --facts facts.tsv --text prose.txt` (see `hybrid.statistics`).

They are taken over documents of the kind that pocket was trained on, past the end of its training, but with more prose: what an edit
must leave alone is not facts only.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import click

from hybrid.model import POCKET_FOLDER, LanguageModel
from hybrid.pocket.train import Settings, make_corpus
from hybrid.statistics import SHIPPED, collect


@click.command()
@click.option("--facts", type=click.Path(exists=True, path_type=Path), required=True, help="Tab-separated triples.")
@click.option("--text", type=click.Path(exists=True, path_type=Path), required=True, help="Plain prose.")
@click.option("--model", type=click.Path(exists=True, path_type=Path), default=POCKET_FOLDER, help="Folder of the model.")
@click.option("--to", "folder", type=click.Path(path_type=Path), default=SHIPPED, help="Where the statistics go.")
@click.option("--layers", default="0,1,2,5", show_default=True, help="Blocks to measure.")
@click.option("--brief", default="3", show_default=True, help="Blocks whose moments are stored as 256 components, in a sixth of the bytes.")
@click.option("--prose", default=0.3, show_default=True, help="Share of the documents that are prose.")
@click.option("--documents", default=20_000, show_default=True, help="How many to read.")
def main(facts: Path, text: Path, model: Path, folder: Path, layers: str, brief: str, prose: float, documents: int) -> None:
    """Measure pocket's layers, replacing what is there."""
    corpus = make_corpus(facts, text, Settings())
    corpus.mixture = replace(corpus.mixture, prose=prose)
    for old in folder.glob("layer-*.safetensors"):
        old.unlink()
    with tempfile.TemporaryDirectory() as temporary:
        sample = Path(temporary) / "pocket-corpus.txt"
        with sample.open("w", encoding="utf-8") as file:
            for document in corpus.documents(1_000_000, documents, several=False):
                file.write("".join(piece for piece, _ in document).replace("</s>", "").replace("\n", " ") + "\n")
        whole, few = ([int(part) for part in each.split(",") if part] for each in (layers, brief))
        language = LanguageModel(str(model), "cpu", "float32")
        paths = collect(language, whole, str(sample), samples=documents, folder=folder, compact=True)
        for path in paths + collect(language, few, str(sample), samples=documents, folder=folder, components=256):
            path.chmod(0o644)
            click.echo(path)


if __name__ == "__main__":
    main()
