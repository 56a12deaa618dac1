"""Readout: the weights of the last block are changed where the target is predicted, as little as it takes that it is said and the rest stays.

MEMIT (Meng et al. 2023) writes to the subject's last token, where a key does not know what is asked. Here the keys are those of the tokens that predict the
target, each of them, as AnyEdit (Jiang et al. 2025, arXiv:2502.05628) edits long targets token by token: they know subject and relation, so other text
feels little of the change. In the last block, what a change does to any prediction is a product of matrices; so nothing but the margins that are wanted
is asked of it, of the target's tokens and of what must stay, and of all changes with them the one is taken that other text feels least, see `margins`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from hybrid.architecture import Architecture
from hybrid.editors.column_cache import ColumnCache, Wanted
from hybrid.editors.columns import Columns, alike, beside, checked, namesakes, of_queries, of_request, taught
from hybrid.editors.kept import TOKENS, answer_key
from hybrid.editors.locate_and_edit import Run
from hybrid.editors.margins import Fit, margins
from hybrid.editors.values import Values
from hybrid.model import Prompt
from hybrid.prompts import query_text
from hybrid.statistics import SecondMoment, read_moment
from stores.deltas import Delta, Factors
from stores.errors import NotFound, UnsupportedModel
from stores.records import Fact
from stores.values import StoredValue, ValueStore

if TYPE_CHECKING:
    from hybrid.model import LanguageModel

SMALL = 1e-7
"""Singular values of a change, relative to the largest, that are left out of its factors."""
STANDS = 1000.0
"""For how many tokens the statistics stand when a change is parted among requests."""
AT_HAND = StoredValue(np.empty(0, dtype=np.float32), 0.0, 0)
"""Stands for a request whose columns are kept: it needs no value, and was checked when they were made."""


@dataclass(frozen=True, kw_only=True)
class Readout:
    """The least change of the last block with which targets are predicted, and the rest stays."""

    layers: tuple[int, ...] = ()
    """The last block; nothing else can be given."""
    weight: float = 5000.0
    """For how many tokens of other text the statistics stand, one nat of which counts as much as a squared hinge of one."""
    margin: float = 0.8
    """By how much a token of the target must score above any other, in nats."""
    keep: float = 0.5
    """The same for what must stay, or half of what it has now if that is less."""
    prefixes: int = 4
    """Generated contexts beside the bare prompt."""
    wordings: int = 6
    """Statements of the lexicon that a target is taught in, beside the prompt; and half as many prompts that imply the relation."""
    questions: int = 4
    """The same for questions, the request's own and the lexicon's."""
    behind: int = 4
    """Statements behind a generated context; and half as many prompts that imply the relation."""
    beside: int = 3
    """Other relations of the subject that must stay as they are."""
    alike: int = 24
    """Other subjects in the request's relation that must stay as they are, beside those that a consolidation checks; none of either if 0."""
    rounds: int = 8
    """Times that it is looked up which tokens are near the wanted margins."""
    steps: int = 10
    """Steps of L-BFGS in each of them."""
    cache: ValueStore | None = None
    """Keeps what the base answers between runs."""

    ladder: ClassVar[tuple[float, ...]] = (1.0,)

    def __post_init__(self) -> None:
        if self.weight <= 0 or min(self.steps, self.rounds) < 1:
            raise ValueError(f"weight must be positive, steps and rounds at least 1: {self}")
        if min(self.margin, self.keep, self.prefixes, self.wordings, self.questions, self.behind, self.beside, self.alike) < 0:
            raise ValueError(f"margin, keep, prefixes, wordings, questions, behind, beside and alike must not be negative: {self}")

    def edit(self, model: LanguageModel, requests: Sequence[Fact]) -> Delta:
        """The least change for all requests together."""
        run = ReadoutRun(self, model, requests, cache=self.cache)
        solved = run.solved()
        steps = torch.full((len(requests),), self.rounds * self.steps)
        return run.delta({run.arch.weight_name(run.layers[0]): solved.factors}, Values(torch.empty(0), solved.short, steps))


@dataclass(frozen=True)
class Solved:
    """The change as `factors`; what of it is each request's as `parts`, a column for each token that is not said without it, with `owners` that say whose it
    is; and by how much each request's tokens fall short of their margins, in the mean (n,)."""

    factors: Factors
    parts: Factors
    owners: tuple[int, ...]
    short: Tensor


class ReadoutRun(Run):
    """The editor's run over some requests.

    Args:
        seen: keeps columns by content between runs on the same base; they do not depend on what is edited together.
    """

    def __init__(self, settings: Any, model: LanguageModel, requests: Sequence[Fact], *, cache: ValueStore | None = None, seen: ColumnCache | None = None):
        arch = Architecture(model.model)
        last = len(arch) - 1
        if settings.layers not in ((), (last,)):
            raise ValueError(f"readout edits the last block, {last}, and not layers {list(settings.layers)}; leave out --set layers, or use memit")
        if not arch.layout.plain:
            raise UnsupportedModel(f"{model.name!r} has a norm behind its feed-forward networks, which readout does not know; use memit")
        self.seen = seen or ColumnCache({})
        self._read: SecondMoment | None = None
        super().__init__("readout", settings, model, requests, (last,), at="block", cache=cache)

    @property
    def moment(self) -> SecondMoment:
        """The last block's statistics, read once.

        Raises:
            NotFound: if they are of an earlier version, without the Fisher information.
        """
        if self._read is None:
            self._read = read_moment(self.moments[self.layers[0]])[0]
            if self._read.fisher is None:
                layer, name = self.layers[0], self.model.name
                raise NotFound(
                    f"the statistics of layer {layer} of {name!r} do not say how predictions feel its output; repeat `hybrid stats --model {name} --layers {layer} --text FILE`"
                )
        return self._read

    def _wanted(self, request: Fact) -> Wanted:
        s = self.settings
        forms = taught(request, self.prefixes, s.wordings, s.questions, s.behind)
        make = partial(of_request, self.model, self.arch, request, forms)
        return Wanted(["taught", request.subject, request.target_new, *map(list, forms)], request.id, make)

    def _cached(self) -> tuple[list[str], dict[str, StoredValue]]:
        keys = [self.seen.key(self._wanted(r).what) for r in self.requests]
        return keys, {key: AT_HAND for key in keys if self.seen.has(key)}

    def values(self) -> Values:
        """There are none to optimise; the columns of the requests are computed, and kept."""
        self.columns(self.requests)
        none = torch.zeros(len(self.requests))
        return Values(torch.empty(0), none, none.long())

    def columns(self, requests: Sequence[Fact]) -> list[Columns]:
        """Where each request's target is predicted."""
        return self.seen.gather([self._wanted(r) for r in requests], self.arch.device)

    def kept(self) -> tuple[Columns, Tensor] | None:
        """What must stay: the model's own tokens about other subjects and relations, less what the requests change themselves.

        And how many times each counts (n,), float64: what a consolidation asks of all facts of a relation alike counts once for each of them.
        """
        mine = {(r.subject.casefold(), r.relation.casefold()) for r in self.requests}
        s, wanted = self.settings, []
        groups: dict[tuple[str, ...], tuple[list[tuple[str, str, str]], bool]] = {}
        times: dict[tuple[str, ...], int] = {}
        for request in self.requests:
            several = [(beside(request, s.beside), False)] if s.beside else []
            several += [(alike(request, s.alike), False), (namesakes(request), False), *((group, True) for group in checked(request, mine))] if s.alike else []
            for group, whole in several:
                if queries := tuple(query for *_, query in group):
                    groups.setdefault(queries, (group, whole))
                    whole = groups[queries][1]
                    times[queries] = times.get(queries, 0) + 1 if whole else 1
                    wanted.append(Wanted(["kept", whole, *queries], request.id, partial(self._kept, queries, whole)))
        found = dict(zip([tuple(each.what[2:]) for each in wanted], self.seen.gather(wanted, self.arch.device), strict=True))
        parts = []
        for queries, (group, whole) in groups.items():
            stays = [subject == "" or (subject.casefold(), relation.casefold()) not in mine for subject, relation, _ in group]
            parts.append(found[queries] if whole else found[queries][torch.tensor(stays, device=self.arch.device).nonzero()[:, 0]])
        if not parts:
            return None
        counts = [part.odds.new_full((len(part.odds),), times[queries], dtype=torch.float64) for queries, part in zip(groups, parts, strict=True)]
        return Columns.joined(parts), torch.cat(counts)

    def _kept(self, queries: Sequence[str], whole: bool) -> Columns:
        """Columns of queries that must stay, with their `whole` answers; which a consolidation has asked for already, and kept."""
        answers: list[str] = []
        if whole:
            keys = [answer_key(self.model.identity.weights_hash, query) for query in queries]
            had = {} if self.cache is None else self.cache.answers(keys)
            if all(key in had for key in keys):
                answers = [had[key] for key in keys]
            else:
                answers = self.model.complete_all([Prompt(query_text(query)) for query in queries], TOKENS)
        return of_queries(self.model, self.arch, queries, answers)

    def change(self, weight: float | None = None) -> Tensor:
        """The least change for all requests (d_in, d_out), float64."""
        s, joined, staying, moment = self.settings, Columns.joined(self.columns(self.requests)), self.kept(), self.moment
        wanted, counts = torch.full_like(joined.odds, s.margin), torch.ones_like(joined.odds)
        assert moment.fisher is not None
        if staying is not None:
            kept, times = staying
            sure = ((kept.odds - 0.1) / 0.3).clamp(0, 1)
            joined = Columns.joined([joined, kept])
            wanted, counts = torch.cat([wanted, (margins(self.arch, kept) / 2).clamp_max(s.keep)]), torch.cat([counts, times * sure])
        return Fit(self.arch, joined, wanted, counts, moment.matrix, moment.fisher, weight or s.weight).solved(s.rounds, s.steps)

    @torch.no_grad()
    def solved(self, weight: float | None = None) -> Solved:
        """The change, factored, and each request's part in it.

        Raises:
            HybridError: if the statistics are singular.
        """
        change, several = self.change(weight), self.columns(self.requests)
        left, scale, right = torch.linalg.svd(change.T, full_matrices=False)
        rank = max(1, int((scale > SMALL * scale[0]).sum()))
        factors = Factors((left[:, :rank] * scale[:rank]).cpu().numpy(), right[:rank].T.cpu().numpy())
        joined = Columns.joined(several)
        owner = torch.cat([torch.full_like(each.tokens, n) for n, each in enumerate(several)])
        short = (self.settings.margin - margins(self.arch, joined, change)).clamp_min(0).float()
        lacking = (margins(self.arch, joined) < self.settings.margin).nonzero()[:, 0]  # the others are said as they are
        parts = self._parts(joined.keys[lacking].double(), change)
        means = short.new_zeros(len(several)).index_add(0, owner, short) / owner.bincount(minlength=len(several))
        return Solved(factors, parts, tuple(owner[lacking].tolist()), means.cpu())

    def _parts(self, keys: Tensor, change: Tensor) -> Factors:
        """Of keys (n, d_in) what they are given, as if by MEMIT's least squares: a column each."""
        factor = torch.linalg.cholesky(STANDS * self.moment.matrix.double().to(keys.device) + keys.T @ keys)
        right = torch.cholesky_solve(keys.T, factor)
        return Factors((keys @ change).T.float().cpu().numpy(), right.float().cpu().numpy())
