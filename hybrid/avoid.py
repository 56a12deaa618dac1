"""Greedy text in which forbidden strings never occur: on the way into one, decoding goes back and takes the next best token."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence

import torch

from hybrid.model import LanguageModel, Prompt, Scorer, _choose, _end_tokens, _natural_stop

RETRIES = 64
"""Tokens that may be taken back before the answer is given up."""
ALIKE = 0.7
"""Share of letters from which a word is a misspelling of what was forbidden; asked only of the words tried instead of it."""
GAP = re.compile(r"\s+")
ELIDED = re.compile(r"[\u00ad\u200b-\u200f\u2060\ufeff]")
"""Characters that nobody sees."""


def plain(text: str) -> str:
    """Text as it is compared: lower case, without accents, single spaces."""
    apart = unicodedata.normalize("NFKD", ELIDED.sub("", text))
    return GAP.sub(" ", "".join(c for c in apart if not unicodedata.combining(c)).casefold())


def holds(text: str, phrases: Sequence[str]) -> bool:
    """Whether one of the phrases occurs in the text, whatever the case, accents and spaces; also within a word."""
    said = plain(text)
    return any(plain(phrase).strip() in said for phrase in phrases)


def place(text: str, phrases: Sequence[str], near: bool = False) -> int | None:
    """Where the word begins with which one of the phrases does; with `near`, also what is spelt much like one."""
    words = [found.start() for found in re.finditer(r"\S+", text)]
    if holds(text, phrases):
        return max((start for start in words if holds(text[start:], phrases)), default=0)
    if near:
        for phrase in map(plain, phrases):
            length = len(phrase.split())
            for at in range(len(words) - length + 1):
                end = words[at + length] if at + length < len(words) else len(text)
                if difflib.SequenceMatcher(None, plain(text[words[at] : end]).strip(" .,;:!?"), phrase).ratio() >= ALIKE:
                    return words[at]
    return None


@torch.inference_mode()
def complete(model: LanguageModel, prompt: Prompt, forbidden: Sequence[str], max_new_tokens: int = 48) -> str | None:
    """What `LanguageModel.complete` says where that holds nothing forbidden, else its next best words.

    The token with which the word of a forbidden string began is ruled out at its place, and decoding goes on from there; a
    string is forbidden as `holds` compares, and from then on misspellings of it are, too. None if `RETRIES` were not enough, or nothing is left to say.

    Raises:
        HybridError: if the prompt leaves no room in the model's context.
    """
    prompts, room = model.inputs(prompt, max_new_tokens)
    ends, new, tries = _end_tokens(model.model, model.tokenizer), list[int](), 0
    banned: dict[tuple[int, ...], list[int]] = defaultdict(list)
    """By what was said before."""
    scorers = [model.scorer(each) for each in prompts]
    done = False
    while not done:
        scores = [scorer.next() for scorer in scorers]
        if ruled_out := banned[tuple(new)]:
            scores[0] = scores[0].index_fill(0, torch.tensor(ruled_out, device=scores[0].device), -torch.inf)
        token = _choose(scores, prompt.contrast)
        if token in ends:
            break
        new.append(token)
        text, done = _natural_stop(_decode(model, new), prompt.chat)
        word = place(text, forbidden, near=tries > 0)
        if word is None:
            done = done or len(new) == room
            for scorer in scorers:
                scorer.take(token)
            continue
        done, tries = False, tries + 1
        if tries > RETRIES:
            return None
        start = max(at for at in range(len(new)) if at == 0 or len(_decode(model, new[:at])) <= word)
        banned[tuple(new[:start])].append(new[start])
        new = new[:start]
        scorers = [_again(model, each, new) for each in prompts]
    said = _natural_stop(_decode(model, new), prompt.chat)[0].strip()
    return said if said or not tries else None


def _again(model: LanguageModel, ids: list[int], new: Sequence[int]) -> Scorer:
    """A scorer that has read a prompt and taken tokens one by one, as it does the first time."""
    scorer = model.scorer(ids)
    for token in new:
        scorer.next()
        scorer.take(token)
    return scorer


def _decode(model: LanguageModel, tokens: Sequence[int]) -> str:
    text: str = model.tokenizer.decode(list(tokens), skip_special_tokens=True)
    return text
