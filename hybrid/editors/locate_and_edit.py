"""What ROME, MEMIT, AlphaEdit and EMMET share: preparing a run, spreading residuals over layers, and giving the model back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hybrid.architecture import Architecture
from hybrid.editors.contexts import context_prefixes
from hybrid.editors.keys import Walk
from hybrid.editors.requests import check, refuse_known
from hybrid.editors.solve import Covariance
from hybrid.editors.values import Values, ValueSettings, optimise_values
from hybrid.statistics import second_moments
from stores.deltas import Delta, Factors
from stores.records import Fact
from stores.values import StoredValue, ValueStore, content_key

if TYPE_CHECKING:
    from hybrid.model import LanguageModel

Solve = Callable[[Tensor, Tensor, Covariance], tuple[Tensor, Tensor]]
"""(residual (d_out, n), keys (d_in, n), covariance) -> factors."""


@contextmanager
def given_back(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Whatever happens inside, these tensors are bit-identical afterwards."""
    kept = [tensor.clone() for tensor in tensors]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, original in zip(tensors, kept, strict=True):
                tensor.copy_(original)


class Run:
    """One editor's run over some requests: checked, with prefixes, statistics and values at hand."""

    def __init__(self, method: str, settings: Any, model: LanguageModel, requests: Sequence[Fact], layers: Sequence[int], prefixes: int):
        self.started = time.perf_counter()
        self.method, self.settings, self.model, self.requests = method, settings, model, list(requests)
        check(self.requests)
        self.arch = Architecture(model.model)
        self.arch.check_layers(layers)
        self.layers = tuple(layers)
        moments = second_moments(model, self.layers)
        self.covariances = {layer: Covariance(moment.matrix.to(self.arch.device)) for layer, moment in moments.items()}
        refuse_known(model, self.requests)
        self.prefixes = context_prefixes(model, prefixes)

    def values(self, at: str, settings: ValueSettings, batch_size: int, cache: ValueStore | None = None) -> Values:
        """Values at the last of the layers; with a cache, only those that it does not hold are computed."""
        if cache is None:
            return self._optimise(self.requests, at, settings, batch_size)
        shared = {field.name: getattr(settings, field.name) for field in fields(ValueSettings)} | {"at": at, "layer": self.layers[-1]}
        base = {"model": self.model.identity.weights_hash, "prefixes": self.prefixes}
        keys = [content_key(**shared, **base, request=[r.subject, r.prompt, r.target_new]) for r in self.requests]
        known = cache.get(keys)
        missing = [n for n, key in enumerate(keys) if key not in known]
        if missing:
            made = self._optimise([self.requests[n] for n in missing], at, settings, batch_size)
            rows = zip(made.targets.numpy(), made.losses.tolist(), made.steps.tolist(), strict=True)
            known |= dict(zip([keys[n] for n in missing], (StoredValue(*row) for row in rows), strict=True))
            cache.put((keys[n], known[keys[n]]) for n in missing)
        found = [known[key] for key in keys]
        return Values(torch.from_numpy(np.stack([v.target for v in found])), torch.tensor([v.loss for v in found]), torch.tensor([v.steps for v in found]))

    def _optimise(self, requests: Sequence[Fact], at: str, settings: ValueSettings, batch_size: int) -> Values:
        return optimise_values(self.model, self.arch, requests, self.prefixes, self.layers[-1], settings, at=at, batch_size=batch_size)

    @torch.no_grad()
    def spread(self, targets: Tensor, solve: Solve) -> dict[str, Factors]:
        """MEMIT's walk: at each layer the share of the remaining residual, with the layers below already changed.

        Args:
            targets: values at the last layer, (n, d).
            solve: one layer's closed form.
        """
        arch, changes = self.arch, {}
        at = "block" if arch.layout.plain else "rewrite"
        walk = Walk(self.model, arch, self.requests, self.prefixes)
        with given_back([arch.weight(layer) for layer in self.layers]):
            for number, layer in enumerate(self.layers):
                keys = walk.keys(layer)
                residual = (targets.to(arch.device) - walk.current(self.layers[-1], at)) / (len(self.layers) - number)
                left, right = solve(residual.T, keys.T, self.covariances[layer])
                weight = arch.weight(layer)
                weight.copy_((weight.double() + left @ right.T).to(weight.dtype))
                changes[arch.weight_name(layer)] = Factors(left.cpu().numpy(), right.cpu().numpy())
        return changes

    def delta(self, changes: Mapping[str, Factors], values: Values) -> Delta:
        """The result, with what each request came to."""
        edits = [
            {"subject": r.subject, "prompt": r.prompt, "target_new": r.target_new, "loss": round(loss, 4), "steps": steps}
            for r, loss, steps in zip(self.requests, values.losses.tolist(), values.steps.tolist(), strict=True)
        ]
        settings = {**_plain(self.settings), "layers": list(self.layers)}
        return Delta(
            method=self.method,
            model=self.model.identity,
            settings=settings,
            changes=dict(changes),
            edits=tuple(edits),
            seconds=time.perf_counter() - self.started,
        )


def _plain(settings: Any) -> dict[str, Any]:
    """A settings dataclass as JSON types, without what does not change the result."""
    plain = {field.name: getattr(settings, field.name) for field in fields(settings) if field.name not in ("cache", "batch_size")}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()}
