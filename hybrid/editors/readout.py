"""Readout: MEMIT's least squares where the target is predicted, in the last block, weighed anew until it is said and the rest stays.

MEMIT (Meng et al. 2023) writes to the subject's last token, where a key does not know what is asked. Here the keys are those of the tokens that predict the
target, each of them, as AnyEdit (Jiang et al. 2025, arXiv:2502.05628) edits long targets token by token: they know subject and relation, so other text
feels little of the change. In the last block a value needs no pass through the model, and what a change does to any key is a product of matrices. So
the least squares are solved several times: a column whose token is not the likeliest by some margin gains weight, one with ample margin loses some, and
the same holds for what must stay (AdaBoost's idea, Freund and Schapire 1997). The weights are continuous in the margins, so rounding stays rounding.
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
from hybrid.editors.solve import Covariance
from hybrid.editors.values import Values
from hybrid.model import Prompt
from hybrid.prompts import query_text
from stores.deltas import Delta, Factors
from stores.errors import HybridError, UnsupportedModel
from stores.records import Fact
from stores.values import StoredValue, ValueStore, content_key

if TYPE_CHECKING:
    from hybrid.model import LanguageModel

MEMORY = 1_000_000_000
"""Bytes that the scores of some columns may take."""


@dataclass(frozen=True, kw_only=True)
class Readout:
    """Least squares at the tokens that predict the target, in the last block."""

    layers: tuple[int, ...] = ()
    """The last block; nothing else can be given."""
    weight: float = 40000.0
    """How many average old keys the statistics count for (MEMIT's lambda)."""
    steps: int = 30
    """Adam steps of a value; there is one for each of the target's tokens."""
    lr: float = 0.02
    """Learning rate, as a share of the state's norm."""
    decay: float = 0.2
    """Weight of |value|^2 / |state|^2."""
    enough: float = 0.95
    """Probability of a token beyond which a value gains nothing."""
    prefixes: int = 2
    """Generated contexts beside the bare prompt."""
    wordings: int = 6
    """Statements of the lexicon that a target is taught in, beside the prompt; and half as many prompts that imply the relation."""
    questions: int = 4
    """The same for questions, the request's own and the lexicon's."""
    beside: int = 3
    """Other relations of the subject that must stay as they are."""
    alike: int = 24
    """Other subjects in the request's relation that must stay as they are, beside those that a consolidation checks; none of either if 0."""
    rounds: int = 10
    """Solves, each with the weights that the one before gives to the columns."""
    cache: ValueStore | None = None
    """Keeps values by content between runs."""

    ladder: ClassVar[tuple[float, ...]] = (1.0,)

    def __post_init__(self) -> None:
        if min(self.weight, self.lr) <= 0 or min(self.steps, self.rounds) < 1 or not 0 < self.enough < 1:
            raise ValueError(f"weight and lr must be positive, steps and rounds at least 1, enough between 0 and 1: {self}")
        if min(self.decay, self.prefixes, self.wordings, self.questions, self.beside, self.alike) < 0:
            raise ValueError(f"decay, prefixes, wordings, questions, beside and alike must not be negative: {self}")

    def edit(self, model: LanguageModel, requests: Sequence[Fact]) -> Delta:
        """Values for all requests, then the solves."""
        run = ReadoutRun(self, model, requests, cache=self.cache)
        left, right, _ = run.solved()
        return run.delta({run.arch.weight_name(run.layers[0]): Factors(left.cpu().numpy(), right.cpu().numpy())}, run.values())


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
        self._read: Covariance | None = None
        super().__init__("readout", settings, model, requests, (last,), at="block", cache=cache)

    def covariance(self, layer: int) -> Covariance:
        """The last block's statistics, read once."""
        if self._read is None:
            self._read = super().covariance(layer)
        return self._read

    def _forms(self, request: Fact) -> list[tuple[str, str]]:
        return taught(request, self.prefixes, self.settings.wordings, self.settings.questions)

    def _cached(self) -> tuple[list[str], dict[str, StoredValue]]:
        assert self.cache is not None
        shared = {name: getattr(self.settings, name) for name in ("steps", "lr", "decay", "enough")}
        base = {"editor": "readout", "model": self.model.identity.weights_hash}
        keys = [content_key(**base, **shared, request=[r.subject, r.target_new, *map(list, self._forms(r))]) for r in self.requests]
        return keys, self.cache.get(keys)

    def stored(self) -> list[StoredValue]:
        """Each request's value, the target's tokens one after the other; those that no cache holds are computed."""
        keys = self.keys or [str(n) for n in range(len(self.requests))]
        if missing := [n for n, key in enumerate(keys) if key not in self.known]:
            made = dict(zip([keys[n] for n in missing], self.optimised([self.requests[n] for n in missing]), strict=True))
            self.known |= made
            if self.cache is not None:
                self.cache.put(made.items())
        return [self.known[key] for key in keys]

    def values(self) -> Values:
        """How each request's value came out; the values themselves, which are as many as a target has tokens, are `stored`."""
        found = self.stored()
        return Values(torch.empty(0), torch.tensor([v.loss for v in found]), torch.tensor([v.steps for v in found]))

    def columns(self, requests: Sequence[Fact]) -> list[Columns]:
        """Where each request's target is predicted."""
        wanted = []
        for r in requests:
            forms = self._forms(r)
            make = partial(of_request, self.model, self.arch, r, forms)
            wanted.append(Wanted(["taught", r.subject, r.target_new, *map(list, forms)], r.id, make))
        return self.seen.gather(wanted, self.arch.device)

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

    def scores(self, states: Tensor) -> Tensor:
        """Scores (n, vocabulary) of the last block's outputs (n, d)."""
        norm = self.model.model.get_submodule(self.arch.layout.norm)
        return self.arch.logits(norm(states.to(self.arch.head.weight.dtype)))

    def optimised(self, requests: Sequence[Fact]) -> list[StoredValue]:
        """Values of some requests, as many at once as memory allows."""
        found: list[StoredValue] = []
        room = MEMORY // (16 * self.arch.head.weight.shape[0])
        parts: list[list[Columns]] = [[]]
        for columns in self.columns(requests):
            if parts[-1] and sum(len(each.tokens) for each in (*parts[-1], columns)) > room:
                parts.append([])
            parts[-1].append(columns)
        for part in parts:
            found += self._optimised(part)
        return found

    def _optimised(self, several: Sequence[Columns]) -> list[StoredValue]:
        """Adam on the mean loss of each fact's tokens over its contexts."""
        s, joined = self.settings, Columns.joined(several)
        fact = torch.cat([torch.full_like(c.places, n) for n, c in enumerate(several)])
        share = torch.cat([torch.full_like(c.odds, 1 / len(c.places)) for c in several])
        norm = torch.stack([c.states[0].norm() for c in several])
        value = torch.zeros(len(several), int(joined.places.max()) + 1, joined.states.shape[1], dtype=self.arch.precise, device=self.arch.device)
        value.requires_grad_()
        optimizer, losses = torch.optim.Adam([value], lr=s.lr), norm
        with torch.enable_grad():
            for _ in range(s.steps):
                states = joined.states + norm[fact, None] * value[fact, joined.places]
                said = self.scores(states).log_softmax(-1).gather(1, joined.tokens[:, None])[:, 0]
                each = torch.zeros_like(norm).index_add(0, fact, -said.clamp_max(float(np.log(s.enough))) * share)
                losses = each.detach()
                optimizer.zero_grad()
                (each.sum() + s.decay * value.square().sum()).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        value = (norm[:, None, None] * value).detach().cpu()
        if not torch.isfinite(value).all():
            raise HybridError("values diverged; use a smaller --set lr=...")
        many = [int(c.places.max()) + 1 for c in several]
        return [StoredValue(value[n, :m].flatten().float().numpy(), float(losses[n]), s.steps) for n, m in enumerate(many)]

    @torch.no_grad()
    def solved(self, weight: float | None = None) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        """The change as factors (d_out, g) and (d_in, g), float64, and the request to which each of the g columns belongs: one for each token of its target.

        Raises:
            HybridError: if the system is singular.
        """
        several = self.columns(self.requests)
        width = several[0].states.shape[1]
        values = [torch.from_numpy(v.target.copy()).view(-1, width) for v in self.stored()]
        owners = tuple(n for n, value in enumerate(values) for _ in value)
        starts = np.cumsum([0, *map(len, values)])
        group = torch.cat([c.places + int(start) for c, start in zip(several, starts, strict=False)])
        left = torch.cat(values).double().to(self.arch.device).T
        right = self._weighed(Columns.joined(several), group, left, self.kept(), self.covariance(self.layers[0]), weight or self.settings.weight)
        return left, right, owners

    def _weighed(self, taught: Columns, group: Tensor, left: Tensor, staying: tuple[Columns, Tensor] | None, covariance: Covariance, weight: float) -> Tensor:
        """Solve, see what is said and what has changed, weigh anew; the right factor (d_in, g) of the last solve."""
        keys, own = taught.keys.double(), torch.ones(len(group), dtype=torch.float64, device=group.device)
        kept, times = (None, own[:0]) if staying is None else staying
        others = keys[:0] if kept is None else kept.keys.double()
        stay = own.new_ones(len(others))
        if kept is not None:
            needed = (0.5 * self._margins(kept, others, None)).clamp_max(0.5)
            sure = ((kept.odds.double() - 0.1) / 0.3).clamp(0, 1)
        for number in range(self.settings.rounds):
            pulled = keys * own[:, None]
            factor, failed = torch.linalg.cholesky_ex(weight * covariance.matrix + keys.T @ pulled + others.T @ (others * (times * stay)[:, None]))
            if int(failed):
                raise HybridError("the normal equations are singular: the statistics come from too few tokens; repeat `hybrid stats` with more text")
            right = torch.cholesky_solve(keys.new_zeros(len(factor), left.shape[1]).index_add(1, group, pulled.T), factor)
            if number == self.settings.rounds - 1:
                break
            change = right @ left.T
            own = _reweighed(own, self._margins(taught, keys, change), 0.8)
            if kept is not None:
                stay = _reweighed(stay, self._margins(kept, others, change), needed, sure)
        return right

    def _margins(self, columns: Columns, keys: Tensor, change: Tensor | None) -> Tensor:
        """By how much each column's token is likelier than any other (n,), float64, with a change (d_in, d_out) of the weights."""
        found, room = [], max(1, MEMORY // (8 * self.arch.head.weight.shape[0]))
        for start in range(0, len(keys), room):
            part = slice(start, start + room)
            states = columns.states[part].double() if change is None else columns.states[part].double() + keys[part] @ change
            scores = self.scores(states)
            own = scores.gather(1, columns.tokens[part, None])
            scores.scatter_(1, columns.tokens[part, None], -torch.inf)
            found.append((own[:, 0] - scores.max(-1).values).double())
        return torch.cat(found)


def _reweighed(weights: Tensor, margins: Tensor, wanted: float | Tensor, share: Tensor | float = 1.0) -> Tensor:
    """Up to three times the weight where the margin is short of what is wanted, down to 0.7 of it where there is plenty; continuous in the margins."""
    up, down = share * (wanted - margins).clamp(0, 1), 0.3 * ((margins - 3) / 4).clamp(0, 1)
    return (weights * 3 ** (up - down)).clamp(1e-2, 1e3)
