"""Second moments of the rewrite layers' inputs, E[k kT]: what an edit must leave alone (Meng et al. 2022, section 3.1).

Of the last block also the Fisher information of its output, see `hybrid.fisher`.

Streamed over text in bounded memory, several layers in one pass; a pass that was interrupted goes on where it was.
Kept as safetensors under the hash of the weights, the corpus and the sample size.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from hybrid.architecture import Architecture, captured
from hybrid.fisher import fisher_sum
from stores.errors import HybridError, NotFound

if TYPE_CHECKING:
    from hybrid.model import LanguageModel

SHIPPED = Path(__file__).parent / "pocket" / "statistics"


def statistics_folder(weights_hash: str) -> Path:
    """Where a model's statistics are kept: `HYBRID_CACHE`, or the user's cache folder."""
    import platformdirs

    root = os.environ.get("HYBRID_CACHE") or platformdirs.user_cache_dir("hybrid-memory")
    return Path(root) / "statistics" / weights_hash[:32]


@dataclass(frozen=True)
class SecondMoment:
    """E[k kT] of one layer: (d_in, d_in) float32, and the number of tokens behind it; of the last layer perhaps the Fisher information of its block's output
    (d_out, d_out), float32."""

    matrix: Tensor
    tokens: int
    source: str
    fisher: Tensor | None = None


def read_texts(source: str) -> Iterator[str]:
    """Texts of a file (one a line; blank lines are skipped), a folder of .txt files, or a Hugging Face dataset name (its `text` column).

    Raises:
        NotFound: if it is none of these.
    """
    path = Path(source)
    if path.is_dir():
        for each in sorted(path.glob("*.txt")):
            yield from read_texts(str(each))
        return
    if path.is_file():
        with path.open(encoding="utf-8", errors="replace") as lines:
            yield from (line.strip() for line in lines if line.strip())
        return
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise NotFound(f"{source!r} is neither a file nor a folder; to read it as a Hugging Face dataset, pip install datasets") from error
    name, _, part = source.partition(":")
    try:
        rows = load_dataset(name, part or None, split="train", streaming=True)
    except Exception as error:  # the library raises many kinds
        raise NotFound(f"{source!r} is neither a file, a folder nor a dataset that could be read ({type(error).__name__}: {error})") from error
    for row in rows:
        yield str(row["text"])


def corpus_hash(source: str) -> str:
    """A hash of the corpus: of a file's content, or of a dataset's name."""
    path = Path(source)
    files = sorted(path.glob("*.txt")) if path.is_dir() else [path] if path.is_file() else []
    digest = hashlib.sha256(source.encode() if not files else b"")
    for file in files:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def collect(
    model: LanguageModel,
    layers: Sequence[int],
    source: str,
    *,
    samples: int = 100_000,
    length: int = 256,
    tokens_a_batch: int = 4096,
    folder: Path | None = None,
    compact: bool = False,
    components: int = 0,
) -> list[Path]:
    """Compute and store the second moments of several layers in one pass.

    Args:
        layers: blocks whose rewrite inputs are measured.
        source: see `read_texts`.
        samples: texts that are read, at most.
        length: tokens of a text that are read, at most.
        tokens_a_batch: bounds the memory of a pass.
        folder: where the files go; the model's folder in the cache if None.
        compact, components: see `write_moment`.
    Returns:
        One file a layer.
    Raises:
        HybridError: if the source holds no text.
    """
    arch = Architecture(model.model)
    arch.check_layers(sorted(layers))
    folder = folder or statistics_folder(model.identity.weights_hash)
    folder.mkdir(parents=True, exist_ok=True)
    corpus = corpus_hash(source)
    paths = [folder / f"layer-{layer}-{corpus[:12]}-{samples}.safetensors" for layer in layers]
    last = len(arch) - 1
    missing = [(layer, path) for layer, path in zip(layers, paths, strict=True) if not path.exists() or (layer == last and not _has_fisher(path))]
    if not missing:
        return paths
    todo = [layer for layer, _ in missing]
    partial = folder / f"partial-{'-'.join(map(str, todo))}-{corpus[:12]}-{samples}.safetensors"
    sums = {layer: torch.zeros(arch.weight(layer).shape[1], arch.weight(layer).shape[1], dtype=torch.float64) for layer in todo}
    width = arch.weight(0).shape[0]
    fisher = torch.zeros(width, width, dtype=torch.float64) if last in todo else None
    done = tokens = 0
    if partial.exists() and (fisher is None or _has_fisher(partial)):
        kept = load_file(partial)
        sums, fisher = {layer: kept[str(layer)] for layer in todo}, kept.get("fisher")
        done, tokens = int(kept["done"]), int(kept["tokens"])
    room = min(length, model.context)
    texts = islice(read_texts(source), done, samples)
    batches = 0
    with tqdm(desc="statistics", unit="text", initial=done, disable=None) as bar:
        for batch in _batches(model, texts, room, tokens_a_batch):
            tokens += _add(arch, sums, fisher, batch, done)
            done, batches = done + len(batch), batches + 1
            bar.update(len(batch))
            if batches % 200 == 0:
                state = {str(layer): value for layer, value in sums.items()} | ({} if fisher is None else {"fisher": fisher})
                save_file(state | {"done": torch.tensor(done), "tokens": torch.tensor(tokens)}, partial)
    if not tokens:
        raise HybridError(f"{source!r} holds no text to measure")
    for layer, path in missing:
        about = (tokens, model.identity.weights_hash, Path(source).name, compact, components)
        write_moment(path, layer, sums[layer] / tokens, *about, fisher=fisher / tokens if fisher is not None and layer == last else None)
    partial.unlink(missing_ok=True)
    return paths


def write_moment(
    path: Path,
    layer: int,
    matrix: Tensor,
    tokens: int,
    weights_hash: str,
    source: str,
    compact: bool = False,
    components: int = 0,
    fisher: Tensor | None = None,
) -> None:
    """Store one layer's moment, atomically; the symmetric matrix as its lower triangle in float32.

    Args:
        compact: store a triangular factor in float16 instead, at half the size. What is read back is positive semidefinite and within some 1e-3 of the
            moment, relative to its diagonal.
        components: store so many principal components of the correlations instead, a byte an entry, and the variances; what the components leave of
            a variance is taken for its own.
        fisher: of the last block's output, (d_out, d_out).
    """
    rows, columns = torch.tril_indices(len(matrix), len(matrix))
    about = {"layer": str(layer), "tokens": str(tokens), "weights_hash": weights_hash, "source": source, "size": str(len(matrix))}
    if components:
        deviation = matrix.double().diagonal().sqrt().clamp(min=1e-12)
        values, vectors = torch.linalg.eigh(matrix.double() / deviation[:, None] / deviation)
        found = (vectors * values.clamp(min=0).sqrt())[:, -components:]
        scale = found.abs().amax(0).clamp(min=1e-12) / 127
        tensors = {"components": (found / scale).round().to(torch.int8).contiguous(), "scale": scale.float(), "deviation": deviation.float()}
    elif compact:
        values, vectors = torch.linalg.eigh(matrix.double())
        factor = torch.linalg.qr((vectors * values.clamp(min=0).sqrt()).T).R.T[rows, columns]
        scale = factor.abs().max() / 1000  # keeps the small ones above float16's smallest
        tensors = {"factor": (factor / scale).half().contiguous(), "scale": scale.float().reshape(1)}
    else:
        tensors = {"lower": matrix[rows, columns].float().contiguous()}
    if fisher is not None:
        tensors["fisher"] = fisher[torch.tril_indices(len(fisher), len(fisher)).unbind()].float().contiguous()
    save_file(tensors, path.with_suffix(".tmp"), metadata=about)
    path.with_suffix(".tmp").replace(path)


def read_moment(path: Path) -> tuple[SecondMoment, dict[str, str]]:
    """Read one layer's moment, and what is known of it."""
    with safe_open(path, framework="pt") as file:
        about: dict[str, str] = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dictionary
    size = int(about["size"])
    matrix = torch.zeros(size, size, dtype=torch.float64)
    rows, columns = torch.tril_indices(size, size)
    if "components" in tensors:
        found = tensors["components"].double() * tensors["scale"].double()
        correlation = found @ found.T + torch.diag((1 - found.square().sum(1)).clamp(min=1e-3))
        deviation = tensors["deviation"].double()
        matrix = correlation * deviation[:, None] * deviation
    elif "factor" in tensors:
        matrix[rows, columns] = tensors["factor"].double() * tensors["scale"].double()
        matrix = matrix @ matrix.T
    else:
        matrix = _whole(tensors["lower"].double())
    return SecondMoment(matrix.float(), int(about["tokens"]), about["source"], _whole(tensors["fisher"]) if "fisher" in tensors else None), about


def _has_fisher(path: Path) -> bool:
    """Whether a file holds the Fisher information, which those of earlier versions do not."""
    with safe_open(path, framework="pt") as file:
        return "fisher" in file.keys()  # noqa: SIM118 - it is no dictionary


def _whole(lower: Tensor) -> Tensor:
    """A symmetric matrix from its lower triangle (n (n + 1) / 2,)."""
    size = math.isqrt(2 * len(lower))
    matrix = lower.new_zeros(size, size)
    matrix[torch.tril_indices(size, size).unbind()] = lower
    return matrix + matrix.T - torch.diag(matrix.diagonal())


def find_moments(model: LanguageModel, layers: Sequence[int]) -> dict[int, Path]:
    """The layers' stored moments: of each the file with most tokens, the user's or the shipped one.

    Raises:
        NotFound: naming the command that makes those that are missing.
    """
    wanted = model.identity.weights_hash
    found: dict[int, tuple[int, Path]] = {}
    for folder in (statistics_folder(wanted), SHIPPED):
        for path in sorted(folder.glob("layer-*.safetensors")):
            with safe_open(path, framework="pt") as file:
                about = file.metadata()
            layer, tokens = int(about["layer"]), int(about["tokens"])
            if about["weights_hash"] == wanted and layer in layers and tokens > found.get(layer, (-1, path))[0]:
                found[layer] = tokens, path
    missing = ",".join(str(layer) for layer in layers if layer not in found)
    if missing:
        raise NotFound(
            f"no statistics of layers {missing} of {model.name!r}; make them with `hybrid stats --model {model.name} --layers {missing} --text FILE`"
        )
    return {layer: path for layer, (_, path) in found.items()}


def second_moments(model: LanguageModel, layers: Sequence[int]) -> dict[int, SecondMoment]:
    """The layers' stored moments, see `find_moments`."""
    return {layer: read_moment(path)[0] for layer, path in find_moments(model, layers).items()}


def describe(weights_hash: str) -> list[dict[str, object]]:
    """What is stored for a model, for `hybrid stats` without a text."""
    rows: list[dict[str, object]] = []
    for folder in (statistics_folder(weights_hash), SHIPPED):
        for path in sorted(folder.glob("layer-*.safetensors")):
            with safe_open(path, framework="pt") as file:
                about = file.metadata()
            if about["weights_hash"] == weights_hash:
                rows.append({"layer": int(about["layer"]), "tokens": int(about["tokens"]), "source": about["source"], "file": str(path)})
    return sorted(rows, key=lambda row: json.dumps(row["layer"]))


def _batches(model: LanguageModel, texts: Iterable[str], length: int, tokens: int) -> Iterator[list[list[int]]]:
    """Tokenized texts, cut to a length, in groups whose padded size stays within a number of tokens."""
    group: list[list[int]] = []
    for text in texts:
        ids = list(model.tokenizer(text, truncation=True, max_length=length)["input_ids"])
        if group and max(len(ids), *map(len, group)) * (len(group) + 1) > tokens:
            yield group
            group = []
        group.append(ids)
    if group:
        yield group


@torch.no_grad()
def _add(arch: Architecture, sums: dict[int, Tensor], fisher: Tensor | None, batch: list[list[int]], seed: int) -> int:
    longest = max(1, *map(len, batch))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in batch], device=arch.device)
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in batch], device=arch.device)
    layers = {str(layer): arch.rewrite(layer) for layer in sums}
    with arch.only(0, max(sums)), captured(layers, inputs=True) as keys, captured({"last": arch.blocks[-1]}) as made:
        arch.model.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
    for layer in sums:
        flat = keys[str(layer)][mask.bool()].float()
        sums[layer] += (flat.T @ flat).double().cpu()
    if fisher is not None:
        fisher += fisher_sum(arch, made["last"][mask.bool()], torch.Generator().manual_seed(seed))
    return int(mask.sum())
