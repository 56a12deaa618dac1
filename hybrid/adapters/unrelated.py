"""What an adapter must leave alone while it learns: the project's own prose, and the requests' prompts about other subjects."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING

from hybrid.consolidation.checks import checks_of, prose
from hybrid.prompts import query_text
from stores.records import Fact

if TYPE_CHECKING:
    from hybrid.model import LanguageModel

LINES, PROMPTS, LONGEST = 40, 300, 64


def texts(model: LanguageModel, requests: Sequence[Fact]) -> list[tuple[int, ...]]:
    """Token rows: lines of prose, and neighbours of the requests, each cut to `LONGEST`."""
    asked = dict.fromkeys(query for each in checks_of(requests) for query in each.neighbours)
    given = [*prose()[:LINES], *(query_text(query) for query in islice(asked, PROMPTS))]
    rows = [tuple(model.tokenizer(text)["input_ids"][:LONGEST]) for text in given]
    return [row for row in rows if row]
