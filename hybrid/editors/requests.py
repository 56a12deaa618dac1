"""Requests as token sequences: where the subject's last token is, where the target begins; and what is refused."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from hybrid.architecture import Architecture
from hybrid.lexicon import find
from hybrid.prompts import query_text
from stores.errors import BadRequest, UnsupportedModel
from stores.records import Fact

if TYPE_CHECKING:
    from hybrid.model import LanguageModel


@dataclass(frozen=True)
class Passage:
    """A tokenized sentence about a subject."""

    ids: tuple[int, ...]
    lookup: int
    """Index of the subject's last token."""
    target: int
    """Index of the target's first token; the number of tokens if there is no target."""

    @property
    def until_lookup(self) -> tuple[int, ...]:
        """The tokens up to the subject's last one, which is all that a key depends on."""
        return self.ids[: self.lookup + 1]

    @property
    def target_ids(self) -> tuple[int, ...]:
        """The target's tokens."""
        return self.ids[self.target :]


def passage(tokenizer: Any, template: str, subject: str, target: str = "", prefix: str = "") -> Passage:
    """Tokenize `prefix` + template (with one `{}`) + target, as one text.

    Positions come from character offsets, so they are right for a leading begin-of-sentence token, for subjects of several
    tokens or that occur twice, and for tokens that carry their leading space. A question goes in question-and-answer form.

    Args:
        tokenizer: a fast transformers tokenizer.
        template: a prompt with `{}` for the subject.
        target: what follows the prompt, a space between; none if empty.
        prefix: text before the prompt.
    Raises:
        UnsupportedModel: if the tokenizer cannot tell offsets.
        BadRequest: if subject or target have no token of their own.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise UnsupportedModel(f"{type(tokenizer).__name__} does not tell character offsets; editors need a fast tokenizer (tokenizer.json)")
    before, found, after = query_text(template).partition("{}")
    if not found:
        raise BadRequest(f"the subject {subject!r} is not in the prompt {template!r}; put {{}} where it belongs")
    cloze = prefix + before + subject + after
    encoded = tokenizer(cloze + (f" {target}" if target else ""), return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    last = len(prefix + before + subject) - 1
    at_subject = [i for i, (start, end) in enumerate(offsets) if start <= last < end]
    at_target = [i for i, (_, end) in enumerate(offsets) if end > len(cloze)]
    if not at_subject or (target and not at_target):
        raise BadRequest(f"{subject!r} or {target!r} vanishes when {cloze!r} is tokenized; use letters that the model's tokenizer knows")
    if at_target:  # special tokens that a tokenizer appends do not belong to the target
        ids = ids[: at_target[-1] + 1]
    return Passage(tuple(ids), at_subject[-1], at_target[0] if at_target else len(ids))


def contexts(request: Fact, prefixes: Sequence[str], questions: int = 0, wordings: int = 0) -> list[tuple[str, str]]:
    """(template, prefix) of all contexts of a request: its prompt behind each prefix, so many of its own questions, so many of the lexicon's statements.

    Where there are fewer questions or statements, the prompt stands in.
    """
    own = [q.replace(request.subject, "{}") for q in request.questions if q.count(request.subject) == 1 and "{" not in q][:questions]
    relation = find(request.relation) if wordings else None
    others = [s for s in relation.statements if s != request.prompt][:wordings] if relation is not None else []
    instead = [request.prompt] * (questions + wordings - len(own) - len(others))
    return [*((request.prompt, prefix) for prefix in prefixes), *((template, "") for template in [*own, *others, *instead])]


def check(requests: Sequence[Fact]) -> None:
    """Refuse what no editor can do.

    Raises:
        BadRequest: naming the request and what is wrong with it.
    """
    if not requests:
        raise BadRequest("there is nothing to edit: the list of requests is empty")
    asked: dict[tuple[str, str], str] = {}
    for number, request in enumerate(requests, start=1):
        name = f"request {number} ({request.subject!r})"
        if not request.subject.strip():
            raise BadRequest(f"{name} has an empty subject")
        if request.prompt.count("{}") != 1:
            raise BadRequest(f"{name}: the prompt {request.prompt!r} must have exactly one {{}}, where the subject belongs")
        if not request.target_new.strip():
            raise BadRequest(f"{name} has an empty target; say what the model should answer")
        before = asked.setdefault((request.subject, request.prompt), request.target_new)
        if before != request.target_new:
            raise BadRequest(f"{name} is asked to be both {before!r} and {request.target_new!r}; keep one of the two")


@torch.inference_mode()
def refuse_known(model: LanguageModel, requests: Iterable[tuple[int, Fact]]) -> None:
    """Refuse targets that the model gives already.

    Args:
        requests: with the numbers that they have for the user.
    Raises:
        BadRequest: naming the first such request.
    """
    from hybrid.model import Prompt

    arch = Architecture(model.model)
    groups: dict[int, list[tuple[int, Fact, Passage]]] = {}
    for number, request in requests:
        ids = passage(model.tokenizer, request.prompt, request.subject, request.target_new)
        groups.setdefault(len(ids.ids), []).append((number, request, ids))
    known = []
    for group in (rows[start : start + 32] for rows in groups.values() for start in range(0, len(rows), 32)):
        hidden = model.model.base_model(input_ids=torch.tensor([ids.ids[:-1] for *_, ids in group], device=arch.device), use_cache=False).last_hidden_state
        for (number, request, ids), states in zip(group, hidden, strict=True):
            if tuple(arch.logits(states[ids.target - 1 :]).argmax(-1).tolist()) == ids.target_ids:
                known.append((number, request))
    for number, request in sorted(known, key=lambda each: each[0]):
        said = model.complete(Prompt(query_text(request.cloze)))
        if said.rstrip(".") == request.target_new.strip().rstrip("."):
            raise BadRequest(f"request {number} ({request.cloze!r}): the model answers {request.target_new!r} already; leave it out")
