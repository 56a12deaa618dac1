"""Facts with queries written one by one: what each governs, what comes close to it and is something else, and the same asked of others.

The lexicon's wordings are templates, and what they ask beside a fact is any other relation. These are sentences, of many more relations, and
what they ask beside a fact is what people mistake for it: the composer beside the librettist, whom he succeeded beside who succeeded him.
None of them is about a relation that is kept for scoring (`hybrid.scope.train`).
"""

from __future__ import annotations

import json
import random
import re
import textwrap
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import click

from hybrid.scope.ordinary import FILE
from hybrid.scope.pairs import Pair, PairMaker

FOLDER = Path(__file__).parent / "authored"
APART = 8
"""Of so many facts, one is not trained on; what evidence adds up to is fitted to these."""

OFTEN = 5
"""Of so many authored facts' sentences at least a word is taken; in fewer it may be a name without its capital."""
WORD = re.compile(r"[^\W\d_]{2,}")


@dataclass(frozen=True)
class Example:
    """A fact, and queries about it and beside it."""

    subject: str
    statement: str
    """A prompt that names the subject; the target follows."""
    target: str
    ask: tuple[str, ...]
    """Queries that the fact governs."""
    other: tuple[str, ...]
    """Queries that name the subject and ask for something else."""
    near: tuple[str, ...]
    """The same asked of other subjects."""

    @property
    def apart(self) -> bool:
        """Whether it is kept from training."""
        return zlib.crc32(self.subject.casefold().encode()) % APART == 0


@lru_cache(maxsize=1)
def examples() -> tuple[Example, ...]:
    """All that were written."""
    names = {field.name for field in fields(Example)}
    rows = [json.loads(line) for file in sorted(FOLDER.glob("*.jsonl")) for line in file.read_text(encoding="utf-8").splitlines()]
    return tuple(_example({key: tuple(value) if isinstance(value, list) else value for key, value in row.items() if key in names}) for row in rows)


def _example(row: dict[str, Any]) -> Example:
    return Example(**row)


class Author:
    """Draws pairs for training from the examples that are not kept apart.

    Args:
        maker: draws the other pairs, and dresses queries.
        share: of the pairs, how many are authored.
    """

    def __init__(self, maker: PairMaker, share: float = 0.6, chosen: Sequence[Example] | None = None):
        self.maker, self.share = maker, share
        self.chosen = [each for each in examples() if not each.apart] if chosen is None else list(chosen)
        self.subjects = [each.subject for each in self.chosen]

    def draw(self, rng: random.Random) -> Pair:
        """A pair, authored or of the lexicon."""
        return self.authored(rng) if rng.random() < self.share else self.maker.draw(rng)

    def authored(self, rng: random.Random) -> Pair:
        """A pair of an example; sometimes with another name in both texts, so that it is not the name by which it is known."""
        example = rng.choice(self.chosen)
        prompts = [example.statement, *example.ask]
        stated = prompts[0] if rng.random() < 0.55 else rng.choice(prompts)
        kind, form = rng.choices(("in_scope", "same_subject", "neighborhood", "distractor"), (40, 43, 12, 5))[0], rng.random()
        if kind == "in_scope":
            query = rng.choice([prompt for prompt in prompts if prompt != stated])
        elif kind == "same_subject" and form < 0.25:  # the other way round
            stated, query = rng.choice(example.other), rng.choice(prompts)
        elif kind == "same_subject" and form < 0.4:  # two of the others, which ask for different things, too
            stated, query = rng.sample(example.other, 2)
        else:
            query = rng.choice(example.near if kind == "neighborhood" or (kind == "distractor" and rng.random() < 0.4) else example.other)
        target = example.target if stated in prompts or rng.random() < 0.3 else rng.choice(self.chosen).target
        statement = f"{stated} {target}"
        if rng.random() < 0.3:
            statement, query = _renamed(example.subject, rng.choice(self.subjects), statement, query)
        query = f"{statement}. {query}" if kind == "distractor" else self.maker.dress(rng, query)
        return Pair(statement, query, kind == "in_scope", kind)


def _renamed(name: str, other: str, statement: str, query: str) -> tuple[str, str]:
    """Both texts with another name, if both have the name word for word."""
    pattern = re.compile(rf"(?<!\w){re.escape(name)}(?!\w)", re.IGNORECASE)
    if not (pattern.search(statement) and pattern.search(query)):
        return statement, query
    one, two = (pattern.sub(lambda _: other, text) for text in (statement, query))
    return one, two


def ordinary() -> list[str]:
    """Words that the sentences have in small letters, in order; sentences without any capital tell nothing of them."""
    facts: Counter[str] = Counter()
    for each in examples():
        said = (text for text in (each.statement, *each.ask, *each.other, *each.near) if not text.islower())
        facts.update({word for text in said for word in WORD.findall(text) if word.islower()})
    return sorted(word for word, count in facts.items() if count >= OFTEN)


@click.command()
def main() -> None:
    """Write the ordinary words of the sentences."""
    found = ordinary()
    FILE.write_text(textwrap.fill(" ".join(found), 160) + "\n", encoding="utf-8")
    click.echo(f"{FILE}: {len(found)} words")


if __name__ == "__main__":
    main()
