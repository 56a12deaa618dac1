"""How much a model's predictions feel a change of what its last block gives: the Fisher information of the block's output.

Beside the second moment of the last rewrite layer's input it makes the Kronecker-factored curvature of that layer (K-FAC, Martens and Grosse 2015,
arXiv:1503.05671): a change D costs other text half of tr(D C D^T F) nats a token, to second order.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hybrid.architecture import Architecture

EVERY = 5
"""One state in so many is asked; the matrix is far smaller than a moment of keys."""


def fisher_sum(arch: Architecture, states: Tensor, generator: torch.Generator) -> Tensor:
    """Sum of g g^T over last block outputs (n, d), as (d, d) float64; g is the gradient of log p(token), the token drawn from the model's own prediction.

    Args:
        generator: on the processor, so that every device draws alike.
    """
    asked = states[::EVERY].detach()
    total = torch.zeros(states.shape[1], states.shape[1], dtype=torch.float64)
    for part in torch.split(asked, 1024):
        with torch.enable_grad():
            given = part.clone().requires_grad_()
            said = arch.read(given).log_softmax(-1)
            tokens = torch.multinomial(said.detach().float().cpu().exp(), 1, generator=generator).to(said.device)
            (slope,) = torch.autograd.grad(said.gather(1, tokens).sum(), given)
        total += (slope.double().T @ slope.double()).cpu()
    return total * (len(states) / max(1, len(asked)))
