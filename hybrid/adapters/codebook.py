"""Keys with radii: which of them a state falls to. GRACE's codebook, and the neighbourhoods by which MELO finds a block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SAME = 1e-4
"""Share of a key's norm within which two keys are one."""


def nearest(states: Tensor, keys: Tensor, radii: Tensor) -> Tensor:
    """The nearest key (n,) of each state (n, d), or -1 where it lies outside that key's radius (Euclidean)."""
    if not len(keys):
        return torch.full((len(states),), -1, device=states.device)
    distance, index = torch.cdist(states, keys, compute_mode="donot_use_mm_for_euclid_dist").min(1)
    return torch.where(distance <= radii[index], index, -1)


@dataclass
class Codebook:
    """Keys (n, d), deferral radii (n,) and labels, always of one length (Hartvigsen et al. 2023, section 3)."""

    keys: Tensor
    radii: Tensor
    labels: list[str]

    @classmethod
    def empty(cls, width: int, like: Tensor) -> Codebook:
        """No keys."""
        return cls(like.new_zeros(0, width), like.new_zeros(0), [])

    def __len__(self) -> int:
        return len(self.labels)

    def learn(self, key: Tensor, label: str, radius: float) -> tuple[int, bool]:
        """Make room for a key (d,): a new entry, or a nearby one that is grown, split, or (the same key, another label) given over.

        Args:
            radius: the initial deferral radius.
        Returns:
            The entry, and whether its value must be learnt.
        """
        if len(self):
            distance, index = (each.item() for each in (self.keys - key).norm(dim=1).min(0))
            near = int(index)
            if distance <= SAME * float(key.norm()):  # the official code would leave two keys in one place, of which the old one wins
                known = self.labels[near] == label
                self.labels[near] = label
                return near, not known
            if distance <= radius + float(self.radii[near]):
                if self.labels[near] == label:
                    self.radii[near] = max(float(self.radii[near]), distance)
                    return near, False
                self.radii[near] = min(float(self.radii[near]), distance / 2 * (1 - 1e-5))
                radius = min(radius, distance / 2)
        self.keys = torch.cat([self.keys, key[None]])
        self.radii = torch.cat([self.radii, self.radii.new_tensor([radius])])
        self.labels.append(label)
        return len(self) - 1, True

    @classmethod
    def of(cls, keys: Tensor, radii: Tensor, labels: Sequence[str]) -> Codebook:
        """A codebook that was saved; its tensors are copied."""
        return cls(keys.clone(), radii.clone(), list(labels))
