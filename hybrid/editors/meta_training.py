"""Training of the meta-learned editors' networks: `hybrid train mend`, `hybrid train ke`.

The loss is made of the edited model's surprise at the target in other words, and of how far its predictions for other facts are from
the unedited model's (Mitchell et al. 2022, equations 4 and 5; De Cao et al. 2021, equation 3). Edits are single; those of a batch are tried side by side, each on rows of its own.
A run that is started again goes on where it stopped, step for step.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from hybrid.architecture import Architecture, frozen
from hybrid.editors.examples import Example, Examples
from hybrid.editors.fine_tune import Batch, losses_of, target_scores
from hybrid.editors.gradients import changed_by, feed_forward_modules, token_gradients
from hybrid.editors.hypernetwork import build
from hybrid.editors.hypernetwork_files import compacted, save
from stores.errors import Conflict, HybridError
from stores.records import Fact

if TYPE_CHECKING:
    from hybrid.model import LanguageModel

log = logging.getLogger(__name__)
CHECKPOINT = "checkpoint.safetensors"
SAMPLES = 16
"""Batches from which means and deviations are taken."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """What a run depends on; a checkpoint of another one is refused."""

    layers: tuple[int, ...] = ()
    """Blocks whose feed-forward matrices are edited; the last three if empty."""
    rank: int = 128
    """Of the transforms' layers."""
    batch_size: int = 16
    """Edits a step."""
    lr: float = 1e-3
    """Adam's highest learning rate; it falls to zero over the last half."""
    rate_lr: float = 1e-2
    """The same for the logarithms of the edits' own learning rates."""
    first_rate: float | None = None
    """What the edits' own learning rates begin with; if None 1e-4 for MEND, whose gradients are normalised, and 0.5 for KE."""
    edit_weight: float = 0.1
    """MEND's c_e, the weight of the edits' loss beside locality's; KE's rate of ascent in the multiplier."""
    seed: int = 0

    def __post_init__(self) -> None:
        positive = (self.rank, self.batch_size, self.lr, self.rate_lr, self.edit_weight, 1.0 if self.first_rate is None else self.first_rate)
        if not all(math.isfinite(value) and value > 0 for value in positive):
            raise ValueError(f"rank, batch_size, learning rates and edit_weight must be positive: {self}")


class Trainer:
    """A hypernetwork in training on one model."""

    def __init__(self, method: str, model: LanguageModel, settings: Training):
        self.method, self.model, self.settings, self.arch = method, model, settings, Architecture(model.model)
        self.layers = settings.layers or tuple(range(max(0, len(self.arch) - 3), len(self.arch)))
        self.arch.check_layers(self.layers)
        self.modules = feed_forward_modules(self.arch, self.layers)
        self.network = build(
            method, model, self.layers, settings.rank, seed=settings.seed, **({} if settings.first_rate is None else {"step": settings.first_rate})
        )
        rates = [parameter for name, parameter in self.network.named_parameters() if name.endswith("log_rate")]
        rest = [parameter for name, parameter in self.network.named_parameters() if not name.endswith("log_rate")]
        self.optimizer = torch.optim.Adam([{"params": rest, "top": settings.lr}, {"params": rates, "top": settings.rate_lr}])

    def batch(self, examples: Examples, name: str) -> list[Example]:
        """The examples of a step, always the same."""
        rng = random.Random(f"{self.method}/{self.settings.seed}/{name}")
        return [examples.draw(rng) for _ in range(self.settings.batch_size)]

    def normalise(self, examples: Examples) -> None:
        """Means and deviations of the factors, from edits of the training set."""
        batches = (self.batch(examples, f"sample {number}") for number in range(SAMPLES))
        self.network.normalise([token_gradients(self.arch, self.modules, self._of([e.edit for e in batch]))[0] for batch in batches])

    def losses(self, examples: Sequence[Example]) -> tuple[Tensor, Tensor, Tensor]:
        """Each edit's loss on the other words (n,), KL on what must stay (n,), and whether all target tokens are now the likeliest (n,)."""
        factors, _ = token_gradients(self.arch, self.modules, self._of([example.edit for example in examples]))
        changes = self.network.changes(self.model, factors, [example.condition for example in examples])
        rows = self._of([each for example in examples for each in (example.rephrased, example.stays)])
        with frozen(self.arch.model):
            with torch.no_grad():
                before = target_scores(self.arch.model, rows)
            with changed_by(self.modules, changes):
                now = target_scores(self.arch.model, rows)
        edit = losses_of(now, rows)
        drift = ((before.exp() * (before - now)).sum(-1) * rows.share).sum(1)
        right = ((now.argmax(-1) == rows.target) | (rows.share == 0)).all(1)
        return edit[::2], drift[1::2], right[::2]

    def step(self, examples: Sequence[Example], share: float) -> tuple[float, float]:
        """One step of Adam; mean edit loss and drift.

        Raises:
            HybridError: if training diverges.
        """
        edit, drift, _ = self.losses(examples)
        loss = self.network.objective(edit.mean(), drift.mean(), self.settings.edit_weight)
        if not bool(torch.isfinite(loss)):
            raise HybridError("training diverged; use a smaller --lr or --first-rate, and another --out")
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = group["top"] * share
        self.optimizer.step()
        return float(edit.detach().mean()), float(drift.detach().mean())

    @torch.no_grad()
    def measure(self, examples: Examples, batches: int = 6) -> dict[str, float]:
        """What edits of held-out facts come to, by teacher forcing."""
        found = [self.losses(self.batch(examples, f"held out {number}")) for number in range(batches)]
        edit, drift, right = (torch.cat(parts).float().mean().item() for parts in zip(*found, strict=True))
        return {"edit_loss": round(edit, 4), "drift": round(drift, 4), "rephrased": round(right, 4)}

    def _of(self, passages: Sequence[Any]) -> Batch:
        return Batch.of(passages, self.arch.device)

    # -- checkpoints -------------------------------------------------------------------------------

    def key(self, facts: Sequence[Fact]) -> str:
        """What a checkpoint must have been made with."""
        import hashlib

        content = "\n".join("\t".join((f.subject, f.relation, f.prompt, f.target_new)) for f in facts)
        return hashlib.sha256(f"{self.method}\n{self.model.identity.weights_hash}\n{self.settings}\n{content}".encode()).hexdigest()

    def keep(self, folder: Path, step: int, key: str) -> None:
        """Write everything that the next step depends on, replacing the last atomically."""
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{name}": torch.as_tensor(value) for name, value in state.items()}
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f"{CHECKPOINT}.partial"
        save_file({name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}, partial, metadata={"step": str(step), "key": key})
        partial.replace(folder / CHECKPOINT)

    def resume(self, folder: Path, key: str) -> int:
        """The number of steps that are done, 0 if there is no checkpoint.

        Raises:
            Conflict: if the checkpoint is of another run.
        """
        path = folder / CHECKPOINT
        if not path.exists():
            return 0
        with safe_open(path, framework="pt") as file:
            about = file.metadata()
        if about["key"] != key:
            raise Conflict(f"{path} is of a run with another model, other facts or settings; repeat those, or choose another --out (or remove it)")
        tensors = load_file(path)
        self.network.load_state_dict({name[8:]: tensor for name, tensor in tensors.items() if name.startswith("network.")})
        saved = self.optimizer.state_dict()
        for name, tensor in tensors.items():
            if name.startswith("adam."):
                _, index, field = name.split(".")
                saved["state"].setdefault(int(index), {})[field] = tensor
        self.optimizer.load_state_dict(saved)
        return int(about["step"])


def train(
    method: str, model: LanguageModel, facts: Sequence[Fact], out: Path, steps: int, settings: Training, *, every: float = 60.0, compact: bool = False
) -> dict[str, Any]:
    """Train a network of "mend" or "ke" for a model and write it to a folder.

    Args:
        facts: what the model says and should go on saying; edits are made of them.
        steps: in all, those of an earlier call included.
        every: seconds between checkpoints.
        compact: write large matrices in float16; what is measured is the network that was written.
    Returns:
        The manifest, with what edits of held-out facts came to.
    Raises:
        FormatError: if the facts do not serve.
        Conflict: if the folder has a checkpoint of another run.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")
    trainer = Trainer(method, model, settings)
    examples, held_out = Examples(model, facts), Examples(model, facts, held_out=True)
    key = trainer.key(facts)
    done = trainer.resume(out, key)
    if not done:
        trainer.normalise(examples)
    kept = time.monotonic()
    with tqdm(total=steps, initial=min(done, steps), desc=method, unit="step", disable=None) as bar:
        while done < steps:
            edit, drift = trainer.step(trainer.batch(examples, str(done)), min(1.0, (done + 1) / 50, 2 * (steps - done) / steps))
            done += 1
            bar.update()
            bar.set_postfix(edit=f"{edit:.3f}", drift=f"{drift:.4f}")
            if done % 100 == 0:
                log.info("step %d of %d: %s", done, steps, trainer.measure(held_out))
            if time.monotonic() - kept > every or done == steps:
                trainer.keep(out, done, key)
                kept = time.monotonic()
    tensors = trainer.network.state_dict()
    if compact:
        tensors = compacted(tensors)
        trainer.network.load_state_dict(tensors)
    about = {"steps": done, "layers": list(trainer.layers), "facts": len(facts), "held_out": trainer.measure(held_out)}
    about |= {name: value for name, value in asdict(settings).items() if name != "layers"}
    save(out, method, model, tensors, about)
    return about
