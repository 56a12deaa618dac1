"""Verification with the memory off: what a model says to the checks of facts, beside what the base weights said."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

import torch

from hybrid.consolidation.checks import Checks, Probe, checks_of, prose, says
from hybrid.model import Prompt
from hybrid.prompts import query_text
from policies.consolidation import Limits
from stores.records import Fact
from stores.values import ValueStore, content_key

if TYPE_CHECKING:
    from hybrid.model import LanguageModel

Note = Callable[[Iterable[tuple[str, str]]], None]
"""Takes (fact id, cache key), so that forgetting a fact forgets what was cached for it."""
CHUNK = 512
"""Queries whose answers are kept before the next are asked."""
TOKENS = 512
"""Of the fixed text in a batch, padding included."""
SURE, ENOUGH = 0.9, 20
"""Probability of a greedy answer from which the base weights are sure of it, and how many neighbours there are at least, the likeliest, sure or not."""
FREE_TEXTS, FREE_TOKENS = 12, 30
"""Free texts from which fluency is measured: beginnings of the fixed text, and how many tokens are made of each."""


@dataclass(frozen=True)
class Outcome:
    """What became of one fact's checks: each query with what it was answered before, and after."""

    checks: Checks
    said: Mapping[str, str]
    """Answers to what must be the target."""
    now: Mapping[str, str]
    """Answers to what must be as before."""
    before: Mapping[str, str]
    chat: bool

    @property
    def fact(self) -> Fact:
        """The fact."""
        return self.checks.fact

    @property
    def effective(self) -> bool:
        """Whether its own prompt is answered with the target."""
        return says(self.said[self.fact.cloze], self.fact, chat=self.chat)

    @property
    def phrasings(self) -> list[bool]:
        """The same for its questions and other phrasings."""
        return [says(self.said[query], self.fact, chat=self.chat) for query in self.checks.phrasings]

    @property
    def changed(self) -> list[str]:
        """Attributes of its subject that are answered otherwise than by the base."""
        return [query for query in self.checks.attributes if self.now[query] != self.before[query]]

    def passed(self, limits: Limits) -> bool:
        """Whether the weights may answer for the fact."""
        told = sum(self.phrasings) >= limits.min_phrasings * len(self.phrasings)
        known = len(self.checks.attributes)
        return self.effective and told and known - len(self.changed) >= limits.min_same_subject * known

    def failure(self, limits: Limits) -> str:
        """Why it did not pass."""
        if not self.effective:
            return f"its prompt is answered {self.said[self.fact.cloze][:60]!r}"
        if sum(self.phrasings) < limits.min_phrasings * len(self.phrasings):
            return f"{sum(self.phrasings)} of {len(self.phrasings)} other phrasings are answered with it"
        return f"changes {len(self.changed)} of {len(self.checks.attributes)} answers about its subject, such as {self.changed[0]!r}"


@dataclass(frozen=True)
class General:
    """What does not belong to one fact."""

    perplexity: float
    fluency: float
    probes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Verification:
    """All that was found about one set of weights."""

    outcomes: tuple[Outcome, ...]
    before: General
    after: General
    probes: tuple[Probe, ...] = ()
    neighbours: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Answers before and after, by query."""

    @property
    def flipped(self) -> list[str]:
        """Neighbours that are answered otherwise than by the base."""
        return [query for query, (before, after) in self.neighbours.items() if before != after]

    @property
    def locality(self) -> float:
        """Share of neighbours with unchanged answers."""
        return 1 - len(self.flipped) / len(self.neighbours) if self.neighbours else 1.0

    @property
    def drift(self) -> float:
        """Relative change of perplexity."""
        return self.after.perplexity / self.before.perplexity - 1

    @property
    def fluency(self) -> float:
        """N-gram entropy relative to the base model's."""
        return self.after.fluency / self.before.fluency if self.before.fluency else 1.0

    @property
    def failing_probes(self) -> list[Probe]:
        """Probes that do not hold."""
        return [p for p in self.probes if not p.holds(self.before.probes[p.query], self.after.probes[p.query])]

    def figures(self) -> dict[str, float]:
        """The numbers of the report; shares are fractions."""
        phrasings = [right for o in self.outcomes for right in o.phrasings]
        kept = [o.now[q] == o.before[q] for o in self.outcomes for q in o.checks.attributes]
        found = {
            "efficacy": _share([o.effective for o in self.outcomes]), "phrasings": _share(phrasings), "neighbours": self.locality,
            "same_subject": _share(kept), "locality": self.locality, "perplexity": self.after.perplexity, "perplexity_base": self.before.perplexity,
            "perplexity_drift": self.drift, "fluency": self.fluency, "probes": 1 - len(self.failing_probes) / len(self.probes) if self.probes else 1.0,
        }  # fmt: skip
        return {name: round(value, 6) for name, value in found.items()}


class Examiner:
    """Asks a model; what the base weights say is asked once and kept.

    Args:
        cache: keeps the base weights' answers, by content.
        note: told which cached answers belong to which fact.
    """

    def __init__(self, model: LanguageModel, cache: ValueStore, note: Note, probes: Sequence[Probe] = ()):
        self.model, self.cache, self.note, self.probes = model, cache, note, tuple(probes)
        self.known: dict[str, str] = {}

    def room(self, target: str = "") -> int:
        """Tokens of an answer that is compared, or must hold a target; a chat model puts it somewhere in a sentence."""
        if self.model.is_chat:
            return 48
        return max(12, 8 * math.ceil((len(self.model.tokenizer(f" {target}")["input_ids"]) + 2) / 8)) if target else 12

    def ask(self, queries: Iterable[str], tokens: int = 0) -> dict[str, str]:
        """Greedy answers by query, the model alone, as it is."""
        chat, queries = self.model.is_chat, list(dict.fromkeys(queries))
        answers = self.model.complete_all([Prompt(query if chat else query_text(query), chat) for query in queries], tokens or self.room())
        return dict(zip(queries, answers, strict=True))

    def learn_base(self, facts: Sequence[Fact]) -> list[Checks]:
        """The checks of facts that go together, once the base weights have said what they know; the model must hold them."""
        several = checks_of(facts)
        self.known |= self._kept("answer", [(checks.fact, checks.before) for checks in several], self.ask)
        return [checks.knowing(self.known) for checks in several]

    def sure(self, several: Sequence[Checks]) -> list[str]:
        """The neighbours of a set of which the base weights are sure; the model must hold them."""
        mine = {query for checks in several for query in checks.asked}
        around = [(checks.fact, tuple(query for query in checks.neighbours if self.known[query] and query not in mine)) for checks in several]
        odds = self._kept("odds", around, lambda queries: {query: f"{p:.6f}" for query, p in self.odds(queries).items()})
        ranked = sorted(odds, key=lambda query: (-float(odds[query]), query))
        many = sum(float(p) >= SURE for p in odds.values())
        return ranked[: max(many, ENOUGH)]

    def _kept(self, kind: str, asked: Sequence[tuple[Fact, Sequence[str]]], ask: Callable[[list[str]], dict[str, str]]) -> dict[str, str]:
        """What the base weights have to say to the queries of facts, from the cache, or asked now and kept there."""
        base, queries = self.model.identity.weights_hash, list(dict.fromkeys(query for _, several in asked for query in several))
        keys = {query: content_key(kind=kind, model=base, query=query, tokens=self.room()) for query in queries}
        stored = self.cache.answers(list(keys.values()))
        found = {query: stored[key] for query, key in keys.items() if key in stored}
        self.note((fact.id, keys[query]) for fact, several in asked for query in several)
        missing = [query for query in queries if query not in found]
        for start in range(0, len(missing), CHUNK):
            answers = ask(missing[start : start + CHUNK])
            self.cache.put_answers((keys[query], answer) for query, answer in answers.items())
            found |= answers
        return {query: found[query] for query in queries}

    @torch.inference_mode()
    def odds(self, queries: Sequence[str]) -> dict[str, float]:
        """The probability of each query's known answer as a whole, the weights as they are."""
        chat, rows = self.model.is_chat, []
        for query in queries:
            before = self.model.encode(Prompt(query if chat else query_text(query), chat))
            answer = list(self.model.tokenizer(self.known[query] if chat else f" {self.known[query]}", add_special_tokens=False)["input_ids"])
            rows.append((query, before, answer))
        found: dict[str, float] = {}
        rows.sort(key=lambda row: (len(row[1]) + len(row[2]), row[0]))
        for start in range(0, len(rows), 64):
            part = rows[start : start + 64]
            length = max(len(before) + len(answer) for _, before, answer in part)  # padding on the right bears on nothing before it
            ids = torch.tensor([before + answer + [0] * (length - len(before) - len(answer)) for _, before, answer in part], device=self.model.model.device)
            scores = self.model.model(input_ids=ids, use_cache=False).logits.float().log_softmax(-1)
            for (query, before, answer), row in zip(part, scores, strict=True):
                places = torch.arange(len(before) - 1, len(before) + len(answer) - 1, device=row.device)
                found[query] = math.exp(float(row[places, torch.tensor(answer, device=row.device, dtype=torch.long)].sum()))
        return found

    def outcomes(self, several: Sequence[Checks], kept: bool = True) -> list[Outcome]:
        """What the model says now; without `kept`, only to the queries whose answer is the target."""
        by_room: dict[int, list[str]] = {}
        for each in several:
            by_room.setdefault(self.room(each.fact.target_new), []).extend(each.asked)
        said = {room: self.ask(queries, room) for room, queries in by_room.items()}
        now = self.ask(query for each in several for query in each.attributes) if kept else {}
        return [Outcome(each, said[self.room(each.fact.target_new)], now, self.known, self.model.is_chat) for each in several]

    def effective(self, facts: Sequence[Fact]) -> list[bool]:
        """Whether the model says each fact's target to its own prompt now."""
        said = self.ask([fact.cloze for fact in facts], max(self.room(fact.target_new) for fact in facts))
        return [says(said[fact.cloze], fact, chat=self.model.is_chat) for fact in facts]

    @cached_property
    def base(self) -> General:
        """`general` of the base weights, kept but for the probes; the model must hold them when this is first asked for."""
        about = [self.model.identity.weights_hash, self.model.model.device.type, str(self.model.model.dtype), prose(), FREE_TEXTS, FREE_TOKENS]
        key = content_key(kind="general", about=about)
        if key in (stored := self.cache.answers([key])):
            perplexity, fluency = json.loads(stored[key])
            return General(perplexity, fluency, self._probed())
        made = self.general()
        self.cache.put_answers([(key, json.dumps([made.perplexity, made.fluency]))])
        return made

    def general(self) -> General:
        """Perplexity on the fixed text, fluency, and the probes."""
        free = free_texts(self.model, [" ".join(text.split()[:4]) for text in prose()[:FREE_TEXTS]])
        return General(perplexity(self.model, prose()), entropy(free), self._probed())

    def _probed(self) -> dict[str, str]:
        return self.ask((probe.query for probe in self.probes), 48)


@torch.inference_mode()
def perplexity(model: LanguageModel, texts: Sequence[str]) -> float:
    """exp of the mean negative log likelihood a token, each text for itself."""
    rows = sorted((row for row in (list(model.tokenizer(text)["input_ids"])[: model.context] for text in texts) if len(row) > 1), key=len)
    total, tokens = 0.0, 0
    while rows:
        part = [rows.pop()]
        while rows and (len(part) + 1) * len(part[0]) <= TOKENS:
            part.append(rows.pop())
        ids = torch.tensor([row + [0] * (len(part[0]) - len(row)) for row in part], device=model.model.device)
        real = torch.tensor([[1] * len(row) + [0] * (len(part[0]) - len(row)) for row in part], device=model.model.device)
        scores = model.model(input_ids=ids[:, :-1], attention_mask=real[:, :-1], use_cache=False).logits.float()
        each = torch.nn.functional.cross_entropy(scores.transpose(1, 2), ids[:, 1:], reduction="none").double()
        total, tokens = total + float((each * real[:, 1:]).sum()), tokens + int(real[:, 1:].sum())
    return math.exp(total / tokens)


@torch.inference_mode()
def free_texts(model: LanguageModel, prompts: Sequence[str], tokens: int = FREE_TOKENS) -> list[list[int]]:
    """Greedy continuations as token ids, without any stop; prompts of one length run together."""
    groups: dict[int, list[list[int]]] = {}
    for prompt in prompts:
        ids = list(model.tokenizer(prompt)["input_ids"])[: model.context - tokens]
        groups.setdefault(len(ids), []).append(ids)
    found: list[list[int]] = []
    for rows in groups.values():
        given, cache, new = torch.tensor(rows, device=model.model.device), None, []
        for _ in range(tokens):
            out = model.model(input_ids=given, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache, given = out.past_key_values, out.logits[:, -1].argmax(-1)[:, None]
            new.append(given)
        found += torch.cat(new, 1).tolist()
    return found


def entropy(texts: Iterable[Sequence[int]]) -> float:
    """Fluency as in the ROME paper: entropy in bits of bigrams and trigrams, weighted 2/3 and 4/3, their mean; of tokens, averaged over texts."""
    scores = []
    for ids in texts:
        two, three = Counter(pairwise(ids)), Counter(zip(ids, ids[1:], ids[2:], strict=False))
        scores.append((2 / 3 * _bits(two.values()) + 4 / 3 * _bits(three.values())) / 2)
    return sum(scores) / len(scores) if scores else 0.0


def _bits(counts: Iterable[int]) -> float:
    counts = list(counts)
    total = sum(counts)
    return -sum(c / total * math.log2(c / total) for c in counts)


def _share(rights: Sequence[bool]) -> float:
    return sum(rights) / len(rights) if rights else 1.0
