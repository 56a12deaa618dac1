"""What an adapter must leave alone while it learns: the project's own prose, and what the requests ask, about other subjects."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice, zip_longest
from typing import TYPE_CHECKING

from hybrid.consolidation.checks import prose, subjects
from hybrid.editors.requests import contexts
from hybrid.lexicon import find
from hybrid.prompts import query_text
from stores.records import Fact

if TYPE_CHECKING:
    from hybrid.model import LanguageModel

LINES, PROMPTS, LONGEST = 40, 400, 64


def texts(model: LanguageModel, requests: Sequence[Fact], questions: int = 0, wordings: int = 0) -> list[tuple[int, ...]]:
    """Token rows: lines of prose, and the requests' lessons with the project's own subjects of like kind, dealt out evenly; each cut to `LONGEST`."""
    named = {request.subject.casefold() for request in requests}
    asked = []
    for request in requests:
        relation, kinds = find(request.relation), subjects()
        near = kinds[relation.subject_type] if relation else [each for several in kinds.values() for each in several[:2]]
        forms = [form for form, _ in dict.fromkeys(contexts(request, ("",), questions, wordings))]
        asked.append([form.replace("{}", subject) for subject in near if subject.casefold() not in named for form in forms])
    dealt = dict.fromkeys(text for row in zip_longest(*asked) for text in row if text is not None)
    given = [*prose()[:LINES], *(query_text(text) for text in islice(dealt, PROMPTS))]
    rows = [tuple(model.tokenizer(text)["input_ids"][:LONGEST]) for text in given]
    return [row for row in rows if row]
