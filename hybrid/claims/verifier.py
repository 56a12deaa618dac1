"""Whether a fact supports a claim, refutes it, or leaves it open: fact verification (Thorne et al. 2018, arXiv:1803.05355) beside one fact.

The scope classifier's network reads (statement, claim), with a low-rank change of each of its matrices (Hu et al. 2022, arXiv:2106.09685) and a head of three
classes. Only these are stored, a byte a number and a scale a row; they belong to the classifier that they were trained with.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hybrid.embedder import file_hash
from hybrid.scope.scorer import CrossEncoder, ScopeScorer, packed, pooled, tokenize, unpacked
from hybrid.scope.stages import classifier
from stores.errors import Corrupt

WEIGHTS = Path(__file__).parent / "weights"
FILE, MANIFEST = "verifier.safetensors", "manifest.json"
RANK, STRENGTH = 2, 4.0
"""Rank of the change of each matrix, and what it is multiplied by."""


class Verdict(NamedTuple):
    """Probabilities of what a fact makes of a claim; they sum to one."""

    refuted: float
    supported: float
    open: float


class LowRank(nn.Module):
    """A linear layer, frozen, with a low-rank change beside it."""

    def __init__(self, layer: nn.Linear, rank: int = RANK):
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(rank, layer.in_features) * layer.in_features**-0.5)
        self.up = nn.Parameter(torch.zeros(rank, layer.out_features))

    def forward(self, x: Tensor) -> Tensor:
        """(..., d_in) to (..., d_out)."""
        out: Tensor = self.layer(x) + STRENGTH * (x @ self.down.T @ self.up)
        return out


class Network(nn.Module):
    """The cross-encoder with its changes, mean-pooled to three logits: refuted, supported, open."""

    def __init__(self, start: CrossEncoder):
        super().__init__()
        self.body = start.body.requires_grad_(False)
        for block in self.body.encoder.layer:
            own = block.attention.self
            own.query, own.key, own.value = map(LowRank, (own.query, own.key, own.value))
            block.attention.output.dense = LowRank(block.attention.output.dense)
            block.intermediate.dense, block.output.dense = LowRank(block.intermediate.dense), LowRank(block.output.dense)
        self.head = nn.Linear(self.body.config.hidden_size, len(Verdict._fields))

    def forward(self, tokens: dict[str, Tensor]) -> Tensor:
        """Logits (n, 3) of tokenized pairs."""
        logits: Tensor = self.head(pooled(self.body, tokens))
        return logits

    def trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What differs from the classifier, by name."""
        return ((name, each) for name, each in self.named_parameters() if each.requires_grad)


def save(network: Network, folder: Path, about: dict[str, object]) -> None:
    """Write what was trained, and a manifest with its checksum."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    for name, each in network.trained():
        tensors |= packed(name, each.detach())
    save_file(tensors, folder / FILE)
    known = {"file": file_hash(folder / FILE), "classifier": classifier(ScopeScorer()), **about}
    (folder / MANIFEST).write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


class Verifier:
    """Loads the shipped (or another) verifier and judges claims."""

    def __init__(self, folder: Path = WEIGHTS):
        self.folder = folder

    @cached_property
    def network(self) -> tuple[Network, object]:
        """The network and its tokenizer.

        Raises:
            Corrupt: if the weights are not those that the manifest knows, or belong to another classifier.
        """
        about = json.loads((self.folder / MANIFEST).read_text(encoding="utf-8"))
        if about["file"] != file_hash(self.folder / FILE):
            raise Corrupt(f"{self.folder / FILE} does not match its manifest; reinstall hybrid-memory")
        scorer = ScopeScorer()
        if about["classifier"] != classifier(scorer):
            raise Corrupt(f"{self.folder} was trained with another scope classifier; reinstall hybrid-memory, or `python -m hybrid.claims.train`")
        start, tok = scorer.network
        network, state = Network(start), load_file(self.folder / FILE)
        with torch.no_grad():
            for name, each in network.trained():
                each.copy_(unpacked(name, state))
        return network.eval(), tok

    @torch.inference_mode()
    def verdicts(self, statements: Sequence[str], claims: Sequence[str]) -> list[Verdict]:
        """What each statement makes of the claim beside it."""
        if not claims:
            return []
        network, tok = self.network
        return [Verdict(*row) for row in network(tokenize(tok, statements, claims)).float().softmax(-1).tolist()]
