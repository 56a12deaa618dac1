"""Verification with the memory off: what a model says to the checks of facts, beside what the base weights said."""

from __future__ import annotations

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
        """Neighbours and attributes that are answered otherwise than by the base."""
        return [query for query in self.checks.kept if self.now[query] != self.before[query]]

    def passed(self, min_phrasings: float) -> bool:
        """Whether the weights may answer for the fact."""
        return self.effective and sum(self.phrasings) >= min_phrasings * len(self.phrasings)

    def failure(self) -> str:
        """Why it did not pass."""
        if not self.effective:
            return f"its prompt is answered {self.said[self.fact.cloze][:60]!r}"
        return f"{sum(self.phrasings)} of {len(self.phrasings)} other phrasings are answered with it"


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

    @property
    def locality(self) -> float:
        """Share of neighbours and attributes with unchanged answers."""
        asked = sum(len(o.checks.kept) for o in self.outcomes)
        return 1 - sum(len(o.changed) for o in self.outcomes) / asked if asked else 1.0

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
        parts = {kind: [(q, o) for o in self.outcomes for q in getattr(o.checks, kind)] for kind in ("neighbours", "attributes")}
        kept = {kind: _share([o.now[q] == o.before[q] for q, o in several]) for kind, several in parts.items()}
        found = {
            "efficacy": _share([o.effective for o in self.outcomes]), "phrasings": _share(phrasings), "neighbours": kept["neighbours"],
            "same_subject": kept["attributes"], "locality": self.locality, "perplexity": self.after.perplexity, "perplexity_base": self.before.perplexity,
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
        base = self.model.identity.weights_hash
        asked = dict.fromkeys(query for checks in several for query in checks.before)
        keys = {query: content_key(kind="answer", model=base, query=query, tokens=self.room()) for query in asked}
        found = self.cache.answers(list(keys.values()))
        self.known |= {query: found[key] for query, key in keys.items() if key in found}
        missing = [query for query, key in keys.items() if key not in found]
        self.note((checks.fact.id, keys[query]) for checks in several for query in checks.before)
        for start in range(0, len(missing), CHUNK):
            part = missing[start : start + CHUNK]
            answers = self.ask(part)
            self.cache.put_answers((keys[query], answer) for query, answer in answers.items())
            self.known |= answers
        return [checks.knowing(self.known) for checks in several]

    def outcomes(self, several: Sequence[Checks], kept: bool = True) -> list[Outcome]:
        """What the model says now; without `kept`, only to the queries whose answer is the target."""
        by_room: dict[int, list[str]] = {}
        for each in several:
            by_room.setdefault(self.room(each.fact.target_new), []).extend(each.asked)
        said = {room: self.ask(queries, room) for room, queries in by_room.items()}
        now = self.ask(query for each in several for query in each.kept) if kept else {}
        return [Outcome(each, said[self.room(each.fact.target_new)], now, self.known, self.model.is_chat) for each in several]

    @cached_property
    def base(self) -> General:
        """`general` of the base weights; the model must hold them when this is first asked for."""
        return self.general()

    def general(self) -> General:
        """Perplexity on the fixed text, fluency, and the probes."""
        probed = self.ask((probe.query for probe in self.probes), 48)
        free = free_texts(self.model, [" ".join(text.split()[:4]) for text in prose()[:FREE_TEXTS]])
        return General(perplexity(self.model, prose()), entropy(free), probed)


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
