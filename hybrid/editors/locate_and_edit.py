"""What ROME, MEMIT, AlphaEdit and EMMET share: preparing a run, spreading residuals over layers, and giving the model back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hybrid.architecture import Architecture
from hybrid.editors.contexts import context_prefixes
from hybrid.editors.kept import known_about
from hybrid.editors.keys import Walk
from hybrid.editors.requests import check, contexts, refuse_known
from hybrid.editors.solve import Covariance
from hybrid.editors.values import Values, ValueSettings, optimise_values
from hybrid.statistics import find_moments, read_moment
from stores.deltas import Delta, Factors
from stores.records import Fact
from stores.values import StoredValue, ValueStore, content_key

if TYPE_CHECKING:
    from hybrid.model import LanguageModel

KEPT_TOGETHER = 100
"""Values that are optimised and stored at once, so that an interruption does not lose many."""
SMALL = 8_000_000
"""Bytes of a file of statistics up to which they are kept in memory between runs: some 2,000 dimensions."""
KEPT_COVARIANCES = 8
Solve = Callable[[Tensor, Tensor, Covariance], tuple[Tensor, Tensor]]
"""(residual (d_out, n), keys (d_in, n), covariance) -> factors."""


def _covariance(path: Path, device: str) -> Covariance:
    return Covariance(read_moment(path)[0].matrix.to(device))


@lru_cache(maxsize=KEPT_COVARIANCES)
def _kept_covariance(path: Path, changed: int, device: str) -> Covariance:
    """With its Cholesky factor and eigenvectors, once they are made; `changed` tells versions of a file apart."""
    return _covariance(path, device)


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

    def __init__(
        self, method: str, settings: Any, model: LanguageModel, requests: Sequence[Fact], layers: Sequence[int], *, at: str, cache: ValueStore | None = None
    ):
        self.started = time.perf_counter()
        self.method, self.settings, self.model, self.requests, self.at, self.cache = method, settings, model, list(requests), at, cache
        check(self.requests)
        self.arch = Architecture(model.model)
        self.arch.check_layers(layers)
        self.layers = tuple(layers)
        self.moments = find_moments(model, self.layers)
        self.prefixes = context_prefixes(model, settings.prefixes)
        self.keys, self.known = self._cached() if cache is not None else ([], {})
        refuse_known(model, [(n, r) for n, r in enumerate(self.requests, start=1) if not self.keys or self.keys[n - 1] not in self.known])

    def covariance(self, layer: int) -> Covariance:
        """A layer's statistics; small ones are kept for the next run, large ones, which do not fit into memory together, are read anew."""
        path, device = self.moments[layer], str(self.arch.device)
        about = path.stat()
        return _kept_covariance(path, about.st_mtime_ns, device) if about.st_size <= SMALL else _covariance(path, device)

    def _cached(self) -> tuple[list[str], dict[str, StoredValue]]:
        """Each request's key, and the values that the cache holds."""
        assert self.cache is not None
        shared = {field.name: getattr(self.settings, field.name) for field in fields(ValueSettings)} | {"at": self.at, "layer": self.layers[-1]}
        if not shared["keep"]:  # values that were kept before there was this setting stay valid
            del shared["keep"]
        base = {"model": self.model.identity.weights_hash, "prefixes": self.prefixes}
        keys = [
            content_key(
                **shared,
                **base,
                request=[r.subject, r.target_new, *contexts(r, [""], self.settings.questions, self.settings.wordings)],
                **({"relation": r.relation} if self.settings.keep else {}),
            )
            for r in self.requests
        ]
        return keys, self.cache.get(keys)

    def values(self) -> Values:
        """Values at the last of the layers; with a cache, only those that it does not hold are computed, and kept some by some."""
        if self.cache is None:
            return self.optimise(self.requests)
        missing = [n for n, key in enumerate(self.keys) if key not in self.known]
        for start in range(0, len(missing), KEPT_TOGETHER):
            part = missing[start : start + KEPT_TOGETHER]
            made = self.optimise([self.requests[n] for n in part])
            rows = zip(made.targets.numpy(), made.losses.tolist(), made.steps.tolist(), strict=True)
            self.known |= dict(zip([self.keys[n] for n in part], (StoredValue(*row) for row in rows), strict=True))
            self.cache.put((self.keys[n], self.known[self.keys[n]]) for n in part)
        found = [self.known[key] for key in self.keys]
        return Values(torch.from_numpy(np.stack([v.target for v in found])), torch.tensor([v.loss for v in found]), torch.tensor([v.steps for v in found]))

    def optimise(self, requests: Sequence[Fact]) -> Values:
        """Values of some requests, with the weights as they are."""
        size = getattr(self.settings, "batch_size", 0)
        kept = known_about(self.model, requests, self.settings.keep) if self.settings.keep else ()
        return optimise_values(self.model, self.arch, requests, self.prefixes, self.layers[-1], self.settings, at=self.at, batch_size=size, kept=kept)

    def walk(self) -> Walk:
        """A walk up the model over the requests; where only one layer is rewritten, it serves for several solves of the same requests."""
        return Walk(self.model, self.arch, self.requests, self.prefixes, self.settings.questions, self.settings.wordings)

    @torch.no_grad()
    def spread(self, targets: Tensor, solve: Solve, walk: Walk | None = None) -> dict[str, Factors]:
        """MEMIT's walk: at each layer the share of the remaining residual, with the layers below already changed.

        Args:
            targets: values at the last layer, (n, d).
            solve: one layer's closed form.
            walk: see `walk`; a new one if None.
        """
        arch, changes = self.arch, {}
        at = "block" if arch.layout.plain else "rewrite"
        walk = walk or self.walk()
        with given_back([arch.weight(layer) for layer in self.layers]):
            for number, layer in enumerate(self.layers):
                keys = walk.keys(layer)
                residual = (targets.to(arch.device) - walk.current(self.layers[-1], at)) / (len(self.layers) - number)
                left, right = solve(residual.T, keys.T, self.covariance(layer))
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
