"""Weights as a pure function of base weights, set of facts and settings: cached values, one solve, exact factors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hybrid.architecture import Architecture, captured, oriented
from hybrid.editing import revert
from hybrid.editors import editor_class
from hybrid.editors.column_cache import ColumnCache
from hybrid.editors.keys import Walk
from hybrid.editors.locate_and_edit import Run
from hybrid.editors.published import configured, default_layers, settings_for
from hybrid.editors.readout import ReadoutRun
from hybrid.embedder import file_hash
from hybrid.fingerprint import combined, tensor_hashes
from hybrid.model import Prompt
from hybrid.prompts import query_text
from hybrid.statistics import find_moments
from stores.deltas import Factors
from stores.errors import BadRequest, HybridError
from stores.factors import exact
from stores.records import Fact
from stores.values import ValueStore

if TYPE_CHECKING:
    from hybrid.model import LanguageModel

METHODS = ("memit", "alphaedit", "emmet", "readout")
"""Editors that solve all facts in one batch from cached values."""
LADDER = (8.0, 4.0, 2.0, 1.0)
"""Multiples of the covariance weight: values do not depend on it, so a set is solved with each, and keeps the heaviest that serves it."""
KEPT = 4
"""Solutions that are at hand, should the same be asked for again."""
CHUNK = 32
"""Facts whose values are kept before the next are optimised: what an interrupted run loses."""


@dataclass(frozen=True)
class Solution:
    """Factors by parameter, for facts in this order; and `parts`, what facts add to them, with `owners` that say whose each of their columns is.

    `costs`: how much each fact moves what the rewrite layers give to other text, the root of tr(D C D^T) of its part D of the change, over all layers
    (of readout tr(D C D^T F), F being the Fisher information of the output).
    """

    facts: tuple[Fact, ...]
    changes: Mapping[str, Factors]
    parts: Mapping[str, Factors]
    owners: tuple[int, ...]
    costs: tuple[float, ...]
    weight: float | None


class Solver:
    """One editor with its settings, on the base weights. The model must hold them whenever a method but `hashes` is called.

    Args:
        given: settings that override the published ones for the model.
        threads: of the solve, part of the settings: another number may round otherwise.
        lightest: the covariance weight at which the ladder begins, if it is not the editor's; no ladder if `given` has a weight and this is None.
        note: told (fact id, key) of what is kept beside values, so that forgetting a fact forgets it.
    Raises:
        HybridError: if the method does not solve in one batch.
    """

    def __init__(
        self,
        model: LanguageModel,
        method: str,
        given: Mapping[str, Any],
        cache: ValueStore,
        threads: int,
        lightest: float | None = None,
        note: Callable[[Iterable[tuple[str, str]]], None] | None = None,
    ):
        if method not in METHODS:
            raise HybridError(f"{method!r} cannot consolidate; choose one of {', '.join(METHODS)}, which solve all facts in one batch")
        self.model, self.method, self.cache, self.threads = model, method, cache, threads
        kind = editor_class(method)
        usual = {} if method == "readout" else settings_for("consolidation", model)
        usual = {name: value for name, value in usual.items() if name in {field.name for field in fields(kind)}}
        self.editor: Any = configured(kind, method, model, {**usual, **given, "cache": cache})
        self._last: tuple[list[str], Run, Walk] | None = None
        base = {"model": model.identity.weights_hash, "device": model.model.device.type, "dtype": str(model.model.dtype)}
        self.seen = ColumnCache(base, cache, note)
        self._solved: dict[tuple[tuple[str, ...], float | None], Solution] = {}
        published = getattr(self.editor, "weight", None)
        self.lightest: float | None = lightest or (None if "weight" in given else published)

    @property
    def weights(self) -> list[float | None]:
        """Covariance weights to choose from, the heaviest first: what is heavier changes less. One, if the weight is given or the method has none."""
        return [self.lightest * factor for factor in getattr(self.editor, "ladder", LADDER)] if self.lightest else [getattr(self.editor, "weight", None)]

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All that the choice of facts depends on beside base and facts, as JSON types; the weights of a solution: with its own `weight`."""
        named = {name: value for name, value in vars(self.editor).items() if name not in ("cache", "batch_size")}
        named["layers"] = list(self.layers)
        if self.lightest:
            named |= {"weight": self.lightest, "lightest": self.lightest}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in named.items()} | {
            "threads": self.threads, "device": self.model.model.device.type, "dtype": str(self.model.model.dtype).removeprefix("torch."),
            "statistics": {str(layer): file_hash(path) for layer, path in find_moments(self.model, self.layers).items()},
        }  # fmt: skip

    def settings_at(self, weight: float | None) -> dict[str, Any]:
        """The settings of a solution with a weight of the ladder."""
        return self.settings if weight is None else {**self.settings, "weight": weight}

    def made_alike(self, settings: Mapping[str, Any]) -> bool:
        """Whether a generation's settings are these, whatever weight of the ladder it has."""
        weight = settings.get("weight")
        return weight in self.weights and dict(settings) == self.settings_at(weight)

    @property
    def layers(self) -> tuple[int, ...]:
        """The rewrite layers."""
        if self.method == "readout":
            return (self.model.model.config.num_hidden_layers - 1,)
        chosen: tuple[int, ...] = self.editor.layers or default_layers(self.model.model.config.num_hidden_layers, 5)
        return chosen

    @cached_property
    def base_hashes(self) -> dict[str, str]:
        """The hash of each tensor of the base weights."""
        return tensor_hashes(self.model.model)

    @property
    def base_hash(self) -> str:
        """The hash of the base weights."""
        return combined(self.base_hashes)

    def _run(self, facts: Sequence[Fact]) -> Run:
        if self.method == "readout":
            return ReadoutRun(self.editor, self.model, facts, cache=self.cache, seen=self.seen)
        return Run(self.method, self.editor, self.model, facts, self.layers, at="block", cache=self.cache)

    def usable(self, facts: Sequence[Fact]) -> tuple[list[Fact], dict[str, str]]:
        """The facts that the editor takes, and of the others the reason by id."""
        try:
            self._run(facts)
            return list(facts), {}
        except BadRequest as error:
            if len(facts) == 1:
                return [], {facts[0].id: str(error).partition(": ")[2] or str(error)}
        halves = [self.usable(part) for part in (facts[: len(facts) // 2], facts[len(facts) // 2 :])]
        return [fact for taken, _ in halves for fact in taken], {**halves[0][1], **halves[1][1]}

    def fill_values(self, facts: Sequence[Fact]) -> tuple[dict[str, str], dict[str, str]]:
        """Compute and keep the values that are missing, so many facts at a time.

        Returns:
            The cache key of each fact by id, and of facts that have no value the reason.
        """
        taken, refused = self.usable(facts) if facts else ([], {})
        if not taken:
            return {}, refused
        run = self._run(taken)
        missing = [fact for fact, key in zip(taken, run.keys, strict=True) if key not in run.known]
        for start in range(0, len(missing), CHUNK):
            refused |= self._fill(missing[start : start + CHUNK])
        return dict(zip([fact.id for fact in taken], run.keys, strict=True)), refused

    def _fill(self, facts: Sequence[Fact]) -> dict[str, str]:
        """Values of some facts; if one of them diverges, each is tried for itself."""
        try:
            self._run(facts).values()
        except HybridError as error:
            if len(facts) == 1:
                return {facts[0].id: str(error)}
            return {name: why for fact in facts for name, why in self._fill([fact]).items()}
        return {}

    def solve(self, facts: Sequence[Fact], weight: float | None = None) -> Solution:
        """The weights' change for facts whose values are kept; deterministic for their order.

        Args:
            weight: of the ladder; the lightest if None.
        """
        asked = (tuple(fact.id for fact in facts), weight)
        if asked not in self._solved:
            self._solved = {**dict(list(self._solved.items())[1 - KEPT :]), asked: self._solve(facts, weight)}
        return self._solved[asked]

    def _solve(self, facts: Sequence[Fact], weight: float | None) -> Solution:
        arch = Architecture(self.model.model)
        with _threads(self.threads):
            if self.method == "readout":
                run = self._run(facts)
                assert isinstance(run, ReadoutRun)
                solved, name = run.solved(weight), arch.weight_name(self.layers[0])
                changes, parts, owners = {name: solved.factors}, {name: solved.parts}, solved.owners
                energy = _energies(solved.parts, owners, len(facts), run.moment.matrix.double(), run.moment.fisher)
            else:
                editor = self.editor if weight is None else replace(self.editor, weight=weight)
                run, walk = self._walked(facts)
                changes, owners = run.spread(run.values().targets, editor.solve, walk), tuple(range(len(facts)))
                parts = changes
                each = [_energies(parts[arch.weight_name(layer)], owners, len(facts), run.covariance(layer).matrix) for layer in self.layers]
                energy = torch.stack(each).sum(0)
        costs = energy.clamp_min(0).sqrt().tolist()
        return Solution(tuple(facts), {name: exact(factors) for name, factors in changes.items()}, parts, owners, tuple(costs), weight)

    def _walked(self, facts: Sequence[Fact]) -> tuple[Run, Walk]:
        """A run with its walk; those of the last facts are used again, if below the rewrite layer nothing changes between two solves."""
        ids = [fact.id for fact in facts]
        if len(self.layers) > 1 or self._last is None or self._last[0] != ids:
            run = self._run(facts)
            self._last = ids, run, run.walk()
        return self._last[1:]

    @torch.inference_mode()
    def shares(self, solution: Solution, queries: Sequence[str]) -> list[list[float]]:
        """Of each query how much each fact moves it: the norm of its part of the change, at the query's keys in the base weights, at their largest."""
        arch, owners = Architecture(self.model.model), torch.tensor(solution.owners)
        parts = {layer: solution.parts[arch.weight_name(layer)] for layer in self.layers}
        found = []
        for query in queries:
            ids = self.model.encode(Prompt(query if self.model.is_chat else query_text(query), self.model.is_chat))
            with captured({str(layer): arch.rewrite(layer) for layer in self.layers}, inputs=True) as seen:
                self.model.model(input_ids=torch.tensor([ids], device=arch.device), logits_to_keep=1)
            total = torch.zeros(len(solution.facts), dtype=torch.float64)
            for layer, factors in parts.items():
                along = seen[str(layer)][0].double().cpu() @ torch.from_numpy(factors.right).double()  # (positions, columns)
                left = torch.from_numpy(factors.left).double().T
                moved = [left.new_zeros(len(total), left.shape[1]).index_add(0, owners, each[:, None] * left).norm(dim=1) for each in along]
                total += torch.stack(moved).amax(0).square()
            found.append(total.sqrt().tolist())
        return found

    def hashes(self, changes: Mapping[str, Factors]) -> tuple[str, dict[str, str]]:
        """Of weights to which these changes have been added: the hash over all tensors, and those of the changed ones."""
        changed = tensor_hashes(self.model.model, changes)
        return combined({**self.base_hashes, **changed}), changed


def _energies(parts: Factors, owners: Sequence[int], facts: int, moment: Tensor, fisher: Tensor | None = None) -> Tensor:
    """tr(D C D^T F) of each fact's part D of a change, (facts,); F is the identity if None."""
    left, right = (torch.from_numpy(np.asarray(side, dtype=np.float64)) for side in (parts.left, parts.right))
    felt, there = left if fisher is None else fisher.double() @ left, moment.cpu().double() @ right
    fact = torch.tensor(owners)
    own = [(fact == n).nonzero()[:, 0] for n in range(facts)]
    return torch.stack([((left[:, n].T @ felt[:, n]) * (right[:, n].T @ there[:, n])).sum() for n in own])


@torch.no_grad()
def add(model: LanguageModel, changes: Mapping[str, Factors]) -> dict[str, Tensor]:
    """Add exact factors to the weights; returns the tensors that were there, which is all the memory that it keeps.

    The product is exact and each sum is rounded once, so the bits are the same on every machine, see `stores.factors`.
    """
    originals: dict[str, Tensor] = {}
    try:
        for name, factors in changes.items():
            module: Any = model.model.get_submodule(name.rpartition(".")[0])
            originals[name] = module.weight.data.clone()
            weight = oriented(module)
            left, right = (torch.from_numpy(side).to(weight.device).double() for side in (factors.left, factors.right))
            for start in range(0, len(weight), 1024):  # so that no second copy of a large matrix is made
                rows = slice(start, start + 1024)
                weight[rows] = (weight[rows].double() + left[rows] @ right.T).to(weight.dtype)
    except BaseException:
        revert(model, originals)
        raise
    return originals


@contextmanager
def added(model: LanguageModel, changes: Mapping[str, Factors]) -> Iterator[None]:
    """The model with exact factors added, while the context lasts."""
    originals = add(model, changes)
    try:
        yield
    finally:
        revert(model, originals)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Torch with a number of threads, while the context lasts."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
