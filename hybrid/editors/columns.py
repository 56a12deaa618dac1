"""What the last block gets and gives where it predicts a token: of a request's target in several contexts, and of what must stay.

Each request, and each group of queries that must stay, is computed for itself, so that its columns do not depend on what goes with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hybrid.architecture import Architecture, captured
from hybrid.consolidation.checks import checks, shared, subjects
from hybrid.editors.kept import TRIED
from hybrid.editors.requests import passage
from hybrid.lexicon import fill, find, relations
from hybrid.prompts import query_text
from stores.records import Fact

if TYPE_CHECKING:
    from hybrid.model import LanguageModel


EACH = 3
"""Wordings in which a fact that must stay is asked, beside the request's prompt; other subjects are asked in others."""


@dataclass(frozen=True)
class Columns:
    """Keys (n, d_in) and states (n, d) of the last block, the tokens (n,) that should follow, which of a target's tokens each is (n,), and how sure the
    model is (n,) of the tokens that it gives itself."""

    keys: Tensor
    states: Tensor
    tokens: Tensor
    places: Tensor
    odds: Tensor

    @classmethod
    def joined(cls, parts: Sequence[Columns]) -> Columns:
        """Parts, one below the other."""
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in ("keys", "states", "tokens", "places", "odds")))

    def __getitem__(self, rows: Tensor) -> Columns:
        return Columns(self.keys[rows], self.states[rows], self.tokens[rows], self.places[rows], self.odds[rows])


def taught(request: Fact, prefixes: Sequence[str], wordings: int, questions: int, behind: int) -> list[tuple[str, str]]:
    """(template, prefix) in which a target is taught: the prompt behind each prefix, the request's own questions, the lexicon's statements, questions and
    prompts that imply the relation, half as many of these as of statements; and `behind` a prefix so many statements, and half as many that imply it."""
    relation = find(request.relation)
    own = [q.replace(request.subject, "{}") for q in request.questions if q.count(request.subject) == 1 and "{" not in q]
    forms, after = [*own[:questions]], list[str]()
    if relation is not None:
        forms += [*[s for s in relation.statements if s != request.prompt][:wordings], *relation.questions[:questions], *relation.oblique[: wordings // 2]]
        after = [*relation.statements[::-2][:behind], *relation.oblique[: behind // 2]]
    longer, turn = prefixes[1:], hashlib.sha256(request.subject.encode()).digest()[0]
    behind_text = [(form, longer[(turn + n) % len(longer)]) for n, form in enumerate(after)] if longer else []
    return list(dict.fromkeys([*((request.prompt, prefix) for prefix in prefixes), *((form, "") for form in forms), *behind_text]))


def alike(request: Fact, most: int) -> list[tuple[str, str, str]]:
    """(subject, relation, query): the request's relation asked of other subjects, every other one of the project's list."""
    relation, kinds = find(request.relation), subjects()
    names = kinds[relation.subject_type][::2] if relation else [each for several in kinds.values() for each in several[:2]][::2]
    forms = [request.prompt, *([*relation.statements, *relation.questions] if relation else [])]
    each = [
        (name, form)
        for n, name in enumerate(names[:most])
        for form in dict.fromkeys((request.prompt, *(forms[(EACH * n + k) % len(forms)] for k in range(EACH))))
    ]
    return [(name, request.relation, fill(form, name)) for name, form in each if name.casefold() != request.subject.casefold()]


def beside(request: Fact, most: int) -> list[tuple[str, str, str]]:
    """(subject, relation, query): other relations of the request's subject, beyond those that checks ask about."""
    relation = find(request.relation)
    if relation is None:
        return []
    others = [each for each in relations().values() if each.subject_type == relation.subject_type and each.id != relation.id]
    others.sort(key=lambda each: hashlib.sha256(f"{request.subject}|{relation.id}|{each.id}".encode()).digest())
    forms = [(each, form) for each in others[TRIED : TRIED + most] for form in (each.statements[0], each.questions[0])]
    return [(request.subject, each.name, fill(form, request.subject)) for each, form in forms]


def checked(request: Fact, changing: Collection[tuple[str, str]]) -> tuple[list[tuple[str, str, str]], list[tuple[str, str, str]]]:
    """(subject, relation, query): what a consolidation asks to see that nothing else has changed, for this request, and for all of its relation alike.

    `changing`: (subject, relation), casefolded, of the requests.
    """
    found, alike = checks(request, changing), dict.fromkeys(shared(request, changing))
    own = [query for query in (*found.neighbours, *(query for pair in found.rivals for query in pair)) if query not in alike]
    return [("", "", query) for query in own], [("", "", query) for query in alike]


def namesakes(request: Fact) -> list[tuple[str, str, str]]:
    """(subject, relation, query): the request's relation asked of what its subject's name begins with: "Toyota" for "Toyota Stout", unless that is an alias."""
    words, relation = request.subject.split(), find(request.relation)
    aliases = {alias.casefold() for alias in request.aliases}
    names = [name for name in dict.fromkeys((words[0], " ".join(words[:-1]))) if len(words) > 1 and name.casefold() not in aliases]
    forms = dict.fromkeys((request.prompt, *((relation.statements[0], relation.questions[0]) if relation else ())))
    return [(name, request.relation, fill(form, name)) for name in names for form in forms]


def of_request(model: LanguageModel, arch: Architecture, request: Fact, forms: Iterable[tuple[str, str]]) -> Columns:
    """Columns of a request: in each context, each of the target's tokens, and what ends it there (or else "Porto" may go on as "Porto-Novo")."""
    rows = [passage(model.tokenizer, form, request.subject, request.target_new, prefix) for form, prefix in forms]
    wanted = [(n, row.target - 1 + k, token, k) for n, row in enumerate(rows) for k, token in enumerate((*row.target_ids, -1))]
    return _collected(arch, [row.ids for row in rows], wanted, _ends(model.tokenizer))


def _ends(tokenizer: Any) -> list[int]:
    """Tokens that end an answer."""
    ends = [tokenizer(f"a{end}", add_special_tokens=False)["input_ids"][-1] for end in (".", "\n")]
    return ends if tokenizer.eos_token_id is None else [*ends, tokenizer.eos_token_id]


def of_queries(model: LanguageModel, arch: Architecture, queries: Sequence[str], answers: Sequence[str] = ()) -> Columns:
    """Columns at the ends of queries, and at each token of their answers if those are given; the tokens are those that the model gives there."""
    several = zip(queries, answers or [""] * len(queries), strict=True)
    rows = [tuple(model.tokenizer(query_text(query))["input_ids"]) for query in queries]
    whole = [tuple(model.tokenizer(f"{query_text(query)} {answer}".rstrip())["input_ids"]) for query, answer in several]
    return _collected(arch, whole, [(n, place, -1, 0) for n, row in enumerate(rows) for place in range(len(row) - 1, max(len(row), len(whole[n])))])


@torch.no_grad()
def _collected(arch: Architecture, rows: Sequence[tuple[int, ...]], wanted: Sequence[tuple[int, int, int, int]], among: Sequence[int] = ()) -> Columns:
    """One pass over padded rows; `wanted`: (row, position, token or -1 for the likeliest, `among` some if there are any, place)."""
    longest, last = max(map(len, rows)), len(arch) - 1
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=arch.device)
    with captured({"keys": arch.rewrite(last)}, inputs=True) as given, captured({"states": arch.blocks[last]}) as made:
        final = arch.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    row, position, token, place = (torch.tensor(each, device=arch.device) for each in zip(*wanted, strict=True))
    scores = arch.logits(final[row, position])
    likeliest = scores.softmax(-1).max(-1)
    best = likeliest.indices if not among else torch.tensor(among, device=arch.device)[scores[:, list(among)].argmax(-1)]
    tokens = torch.where(token < 0, best, token)
    keys, states = given["keys"][row, position].to(arch.precise), made["states"][row, position].to(arch.precise)
    return Columns(keys, states, tokens, place, likeliest.values)
