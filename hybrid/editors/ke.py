"""KnowledgeEditor (De Cao et al. 2021, arXiv:2104.08164): a network reads the request, and scales and shifts its gradient.

The change of a matrix is sigma(eta) * (a * gradient + b), a = softmax(alpha) gamma^T and b = softmax(beta) delta^T (section 3.2), made
from what a bidirectional LSTM says of "old >> new || prompt". As a is of rank one, the gradient's factors are scaled each on their side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hybrid.editors.hypernetwork import HyperEditor, Hypernetwork, Sides

if TYPE_CHECKING:
    from hybrid.model import LanguageModel


class Conditioned(Hypernetwork):
    """The LSTM, and for each matrix a network of one hidden layer. Its loss is the paper's Lagrangian: the multiplier rises while others drift."""

    multiplier: Tensor

    def __init__(self, shapes: Mapping[str, tuple[int, int]], rank: int, width: int, step: float = 0.5, seed: int = 0, margin: float = 0.05):
        super().__init__()
        self.shapes, self.margin = dict(shapes), margin
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.reader = nn.LSTM(width, rank, batch_first=True, bidirectional=True)
            self.heads = nn.ModuleList(
                nn.Sequential(nn.Linear(2 * rank, rank), nn.Tanh(), nn.Linear(rank, 2 * (inputs + outputs) + 1)) for inputs, outputs in shapes.values()
            )
        with torch.no_grad():
            for (inputs, outputs), head in zip(shapes.values(), self.heads, strict=True):
                final: Any = list(head.children())[-1]
                final.weight.mul_(0.1)
                final.bias.zero_()[2 * outputs : 2 * outputs + inputs] = 1.0  # gamma: it begins as gradient descent, more or less
        self.log_rate = nn.Parameter(torch.full((len(shapes),), step).log())
        self.register_buffer("multiplier", torch.ones(()))

    def read(self, model: LanguageModel, conditions: Sequence[str]) -> Tensor:
        """The LSTM's last states of each condition, (rows, 2 rank)."""
        table = model.model.get_input_embeddings().weight.detach()
        rows = [list(model.tokenizer(text, add_special_tokens=False)["input_ids"]) or [0] for text in conditions]
        lengths = torch.tensor([len(row) for row in rows])
        ids = torch.tensor([[*row, *[0] * (int(lengths.max()) - len(row))] for row in rows], device=table.device)
        packed = nn.utils.rnn.pack_padded_sequence(table[ids].float(), lengths, batch_first=True, enforce_sorted=False)
        _, (last, _) = self.reader(packed)
        return torch.cat([last[0], last[1]], -1)

    def changes(self, model: LanguageModel, factors: Sides, conditions: Sequence[str]) -> dict[str, tuple[Tensor, Tensor]]:
        """Each row's scaled gradient and shift, the shift as one more token. See `Hypernetwork`."""
        states = self.read(model, conditions)
        found = {}
        for (name, (inputs, outputs)), head, rate in zip(self.shapes.items(), self.heads, self.log_rate.exp(), strict=True):
            u, delta = factors[name]
            alpha, beta, gamma, shift, eta = head(states).split([outputs, outputs, inputs, inputs, 1], -1)
            # the softmax sums to one: times the number of rows it is one on average, so that a rate means the same for matrices of all sizes
            scale = outputs * alpha.softmax(-1)[:, None]
            size = -rate * eta.sigmoid()[:, None]
            left = torch.cat([delta * scale, beta.softmax(-1)[:, None]], 1) * size
            found[name] = torch.cat([u * gamma[:, None], shift[:, None]], 1), left
        return found

    def objective(self, edit: Tensor, drift: Tensor, weight: float) -> Tensor:
        """Edits' loss under the constraint that others drift by no more than the margin (equation 3); ascends in the multiplier."""
        loss = edit + self.multiplier.clone() * (drift - self.margin)
        if torch.is_grad_enabled():
            with torch.no_grad():
                self.multiplier.add_(weight * (drift.detach() - self.margin)).clamp_(min=0)
        return loss


@dataclass(frozen=True, kw_only=True)
class Ke(HyperEditor):
    """KnowledgeEditor with a network that `hybrid train ke` made for this very model."""

    method = "ke"
