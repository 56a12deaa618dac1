"""What fine-tuning's loss has beside the targets', so that the model stays as it is elsewhere: divergence on text, elastic weight consolidation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hybrid.editors.contexts import BEGINNINGS
from hybrid.editors.fine_tune import Forward, Trained, padded
from stores.errors import FormatError

if TYPE_CHECKING:
    from hybrid.model import LanguageModel

TEXT_ROWS, TEXT_TOKENS = 8, 64
"""Lines of unrelated text in one step's KL term, and how much of each is read."""
OWN_TOKENS = 32
"""Length of a text that the model writes."""


def divergence(model: LanguageModel, forward: Forward, rows: Sequence[Sequence[int]], weight: float) -> Callable[[], Tensor]:
    """weight * KL(original || now) a token, on the next few rows each time."""
    groups = [rows[i : i + TEXT_ROWS] for i in range(0, len(rows), TEXT_ROWS)]
    turn = iter(range(1 << 62))

    def term() -> Tensor:
        group = groups[next(turn) % len(groups)]
        longest = max(map(len, group))
        ids, mask = padded(group, longest), padded([[1] * len(row) for row in group], longest)
        inputs: dict[str, Any] = {"input_ids": ids.to(model.model.device), "attention_mask": mask.to(model.model.device), "use_cache": False}
        real = inputs["attention_mask"].bool()
        with torch.no_grad():
            before = model.model(**inputs).logits[real].float().log_softmax(-1)
        now = forward(**inputs).logits[real].float().log_softmax(-1)
        each: Tensor = (before.exp() * (before - now)).sum(-1)
        return weight * each.mean()

    return term


def text_rows(model: LanguageModel, path: Path, most: int = 4096) -> list[list[int]]:
    """Tokens of the text's first lines, each cut to `TEXT_TOKENS`.

    Raises:
        FormatError: if there is no text in the file.
    """
    from hybrid.model import Prompt

    with path.open(encoding="utf-8") as lines:
        found = [model.encode(Prompt(line.strip()))[:TEXT_TOKENS] for line in islice((line for line in lines if line.strip()), most)]
    rows = [row for row in found if row]
    if not rows:
        raise FormatError(f"{path} holds no text; the KL term needs some lines of it")
    return rows


@torch.no_grad()
def own_text(model: LanguageModel, count: int, seed: int = 0) -> list[tuple[int, Tensor]]:
    """Texts sampled from the model (temperature 1) after common words, without end tokens.

    Returns:
        For each beginning its length in tokens, and the rows (n, length) that go on from it; `count` rows in all.
    """
    generator, end = torch.Generator().manual_seed(seed), model.tokenizer.eos_token_id
    found = []
    for number, word in enumerate(BEGINNINGS[:count]):
        start = list(model.tokenizer(word)["input_ids"])
        rows = torch.tensor([start] * len(range(number, count, len(BEGINNINGS))), device=model.model.device)
        fed, cache = rows, None
        for _ in range(min(OWN_TOKENS, model.context - len(start))):
            out = model.model(input_ids=fed, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache, scores = out.past_key_values, out.logits[:, -1].float().cpu()
            if end is not None:
                scores[:, end] = -torch.inf
            fed = torch.multinomial(scores.softmax(-1), 1, generator=generator).to(rows.device)
            rows = torch.cat([rows, fed], 1)
        found.append((len(start), rows))
    return found


def fisher(trained: Trained, texts: Sequence[tuple[int, Tensor]]) -> list[Tensor]:
    """The diagonal of the Fisher information a token, in the shapes of the trained parameters.

    The tokens are the model's own, so the expected square of a text's gradient is the sum of its tokens' information.
    """
    sums, tokens = [torch.zeros_like(parameter) for parameter in trained.parameters], 0
    for start, rows in texts:
        for row in rows:
            scores = trained.forward(input_ids=row[None, :-1], use_cache=False).logits[0, start - 1 :].float().log_softmax(-1)
            likelihood = scores.gather(-1, row[start:, None]).sum()
            for total, gradient in zip(sums, torch.autograd.grad(likelihood, trained.parameters), strict=True):
                total += gradient**2
            tokens += len(row) - start
    return [total / tokens for total in sums]


def elastic(trained: Trained, texts: Sequence[tuple[int, Tensor]], weight: float) -> Callable[[], Tensor]:
    """weight / 2 * sum F (change)^2, F measured now, at no change."""
    information = fisher(trained, texts)
    return lambda: weight / 2 * torch.stack([(f * parameter**2).sum() for f, parameter in zip(information, trained.parameters, strict=True)]).sum()
