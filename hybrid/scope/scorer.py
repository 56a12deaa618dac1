"""The cross-encoder that scores (statement, query): MiniLM's own weights, fine-tuned, and one linear head.

Only what differs from the embedder is stored: a byte a number, and a scale a row, so the network is the packaged MiniLM plus
a delta whose checksum the manifest knows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hybrid.embedder import file_hash, minilm_folder
from hybrid.loading import quiet
from hybrid.scope.judge import FILE, Judge
from stores.errors import Corrupt

WEIGHTS = Path(__file__).parent / "weights"
SCALE = ".scale"
"""Behind a parameter's name: what its rows of bytes are multiplied by."""
LONGEST = 128
"""Tokens of a pair that are read; the query's end is what counts, so queries are cut at the front."""


class CrossEncoder(nn.Module):
    """MiniLM over both texts at once, mean-pooled to one logit."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import AutoModel

        with quiet():
            self.body: Any = AutoModel.from_pretrained(minilm_folder(), attn_implementation="sdpa")
        self.body.pooler = None  # means are pooled instead
        self.head = nn.Linear(self.body.config.hidden_size, 1)
        self.body.embeddings.requires_grad_(False)

    def forward(self, tokens: dict[str, Tensor]) -> Tensor:
        """Logits (n,) of tokenized pairs."""
        logits: Tensor = self.head(pooled(self.body, tokens)).squeeze(-1)
        return logits


def pooled(body: Any, tokens: dict[str, Tensor]) -> Tensor:
    """The mean state (n, d) of the tokens of each pair."""
    hidden: Tensor = body(**tokens).last_hidden_state
    mask = tokens["attention_mask"].unsqueeze(-1).to(hidden.dtype)
    return (hidden * mask).sum(1) / mask.sum(1)


def tokenizer() -> Any:
    """MiniLM's tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(minilm_folder())


def tokenize(tok: Any, statements: Sequence[str], queries: Sequence[str]) -> dict[str, Tensor]:
    """Pairs as the network reads them; a long query loses its beginning, not its end."""
    short = [" ".join(query.split()[-60:]) for query in queries]
    encoded = tok(list(statements), short, truncation="longest_first", max_length=LONGEST, padding=True, return_tensors="pt")
    return dict(encoded)


def save(model: CrossEncoder, folder: Path, about: dict[str, Any], shard_bytes: int = 14_000_000) -> None:
    """Write how the trained parameters differ from MiniLM's, in shards, and a manifest with their checksums."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.safetensors"):
        old.unlink()
    start = dict(CrossEncoder().named_parameters())
    trained: dict[str, Tensor] = {}
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            trained |= packed(key, parameter.detach() - (0 if key.startswith("head.") else start[key].detach()))
    shards: list[dict[str, Tensor]] = [{}]
    for key, value in trained.items():
        if sum(v.nbytes for v in shards[-1].values()) + value.nbytes > shard_bytes:
            shards.append({})
        shards[-1][key] = value
    files = {}
    for number, shard in enumerate(shards, start=1):
        name = f"scope-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, folder / name)
        files[name] = file_hash(folder / name)
    (folder / "manifest.json").write_text(json.dumps({"files": files, **about}, indent=1) + "\n")


def packed(key: str, change: Tensor) -> dict[str, Tensor]:
    """A change as bytes with a scale a row; in float16 where it is a vector, or the head's."""
    if change.ndim < 2 or key.startswith("head."):
        return {key: change.half().contiguous()}
    scale = (change.abs().amax(1, keepdim=True) / 127).half().clamp_min(torch.finfo(torch.float16).tiny)
    return {key: (change / scale.float()).round().clamp(-127, 127).to(torch.int8).contiguous(), key + SCALE: scale}


def unpacked(key: str, state: Mapping[str, Tensor]) -> Tensor:
    """What `packed` wrote."""
    return state[key].float() * state.get(key + SCALE, torch.ones(1)).float()


class ScopeScorer:
    """Loads the shipped (or another) classifier and scores pairs."""

    def __init__(self, folder: Path = WEIGHTS):
        self.folder = folder
        self.pairs = 0
        """Read so far."""

    @cached_property
    def about(self) -> dict[str, Any]:
        """The manifest: files, calibration, how it was trained."""
        manifest: dict[str, Any] = json.loads((self.folder / "manifest.json").read_text(encoding="utf-8"))
        return manifest

    @cached_property
    def network(self) -> tuple[CrossEncoder, Any]:
        """The cross-encoder and its tokenizer.

        Raises:
            Corrupt: if the weights are not those that the manifest knows.
        """
        model = CrossEncoder()
        state: dict[str, Tensor] = {}
        for name, expected in self.about["files"].items():
            if file_hash(self.folder / name) != expected:
                raise Corrupt(f"{self.folder / name} does not match its manifest; reinstall hybrid-memory")
            state |= load_file(self.folder / name)
        trained = {key: each for key, each in model.named_parameters() if each.requires_grad}
        if missing := set(trained) - set(state):
            raise Corrupt(f"{self.folder} lacks {len(missing)} parameters of the scope classifier; reinstall hybrid-memory")
        whole = not any(key.endswith(SCALE) for key in state)  # how earlier versions stored what a user had trained
        with torch.no_grad():
            for key, value in trained.items():
                change = unpacked(key, state)
                value.copy_(change if whole or key.startswith("head.") else value + change)
        return model.eval(), tokenizer()

    @cached_property
    def judge(self) -> Judge | None:
        """What adds the evidence up; None if the manifest knows of none.

        Raises:
            Corrupt: if it is not the one that the manifest knows.
        """
        expected = self.about.get("judge")
        if expected is None:
            return None
        if file_hash(self.folder / FILE) != expected:
            raise Corrupt(f"{self.folder / FILE} does not match its manifest; reinstall hybrid-memory")
        return Judge.load(self.folder)

    @torch.inference_mode()
    def logits(self, statements: Sequence[str], queries: Sequence[str], batch: int = 64) -> list[float]:
        """One logit a pair: how strongly the statement governs the query."""
        model, tok = self.network
        self.pairs += len(queries)
        order = sorted(range(len(queries)), key=lambda i: len(statements[i]) + len(queries[i]))
        found = [0.0] * len(queries)
        for at in range(0, len(order), batch):
            rows = order[at : at + batch]
            scores = model(tokenize(tok, [statements[i] for i in rows], [queries[i] for i in rows]))
            for row, score in zip(rows, scores.tolist(), strict=True):
                found[row] = score
        return found
