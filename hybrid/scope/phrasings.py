"""Which relation a query asks for, by its nearest phrasing in the lexicon: `python -m hybrid.scope.phrasings` embeds them.

The subject is taken out of both (a pronoun stands for it), so that only the wording counts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from hybrid.embedder import Embedder
from hybrid.lexicon import Relation, fill, relations
from hybrid.lexicon.ambiguous import ambiguous
from stores.errors import Corrupt

PRONOUN = "it"
FILE = Path(__file__).parent / "phrasings.safetensors"
LIKE = 0.5
"""From which cosine a wording is like another at all."""
SURE, APART = 0.85, 0.1
"""From which cosine with a relation's phrasing, and how much more than with any other's, a wording is taken for that relation's."""


@lru_cache(maxsize=1)
def phrasings() -> list[tuple[str, str]]:
    """(relation id, phrasing about a pronoun) of the whole lexicon, held-out phrasings aside."""
    return [
        (relation.id, text)
        for relation in relations().values()
        for text in (*(fill(t, PRONOUN) for t in (*relation.statements, *relation.questions, *relation.oblique)), f"{PRONOUN} {relation.name}")
    ]


def fingerprint() -> str:
    """Hash of the phrasings, to notice that the lexicon has changed."""
    return hashlib.sha256(json.dumps(phrasings(), ensure_ascii=False).encode()).hexdigest()


class Wording(NamedTuple):
    """What a query's wording is near to (cosines)."""

    own: float = 0.0
    """The fact's relation."""
    rival: float = 0.0
    """Any other."""
    rivals: tuple[str, ...] = ()
    """The nearest others, the nearest first."""


class Phrasings:
    """The embedded lexicon.

    Args:
        hidden: relations that are left out, as if the lexicon did not know them.
    """

    def __init__(self, file: Path = FILE, hidden: Sequence[str] = ()):
        self.file, self.hidden = file, frozenset(hidden)
        self._rivals: dict[str | None, list[int]] = {}

    @cached_property
    def _table(self) -> tuple[NDArray[np.float32], list[str], NDArray[np.intp]]:
        """Vectors (n, d) grouped by relation, the relations, and where each begins."""
        about = json.loads(self.file.with_suffix(".json").read_text(encoding="utf-8"))
        raw = self.file.read_bytes()
        if hashlib.sha256(raw).hexdigest() != about["sha256"] or about["lexicon"] != fingerprint():
            raise Corrupt(f"{self.file} does not belong to this lexicon; reinstall hybrid-memory, or `python -m hybrid.scope.phrasings`")
        ids = np.array([key for key, _ in phrasings()])
        kept = ~np.isin(ids, list(self.hidden))
        names, starts = np.unique(ids[kept], return_index=True)
        order = np.argsort(starts)
        stored = load(raw)
        vectors = stored["vectors"][kept].astype(np.float32) * stored["scales"][kept].astype(np.float32)[:, None]
        return vectors, names[order].tolist(), starts[order]

    def nearest(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Highest cosine of each vector (n, d) with each relation's phrasings, (n, relations)."""
        table, _, starts = self._table
        return np.maximum.reduceat(vectors @ table.T, starts, axis=1)

    def relation(self, vector: NDArray[np.float32], least: float) -> Relation | None:
        """The relation whose phrasing is nearest to one text's vector, (1, d), if the cosine reaches `least`."""
        near = self.nearest(vector)[0]
        return relations()[self._table[1][int(near.argmax())]] if near.max(initial=-1.0) >= least else None

    def surely(self, nearest: NDArray[np.float32]) -> str | None:
        """The relation that a text is worded like, and no other that it cannot be taken for; None if there is a doubt. Of one text's row."""
        if not (found := self.best(nearest, 1)):
            return None
        own, rival = self.own_and_rival(nearest, found[0])
        return found[0] if own >= SURE and own - rival >= APART else None

    def best(self, nearest: NDArray[np.float32], count: int) -> tuple[str, ...]:
        """Of one text's row: the nearest relations, the nearest first, as far as there is any likeness."""
        return tuple(self._table[1][at] for at in np.argsort(-nearest, kind="stable")[:count] if nearest[at] >= LIKE)

    def own_and_rival(self, nearest: NDArray[np.float32], relation: str | None) -> tuple[float, float]:
        """Of one query's row: the cosine with a relation (-1 if unknown), and the highest with one that it cannot be taken for."""
        _, names, _ = self._table
        own = float(nearest[names.index(relation)]) if relation in names else -1.0
        return own, float(nearest[self._others(relation)].max(initial=-1.0))

    def rivals(self, nearest: NDArray[np.float32], relation: str | None, count: int) -> tuple[str, ...]:
        """Of one query's row: the nearest relations that this one cannot be taken for, the nearest first."""
        others = self._others(relation)
        return tuple(self._table[1][others[at]] for at in np.argsort(-nearest[others], kind="stable")[:count])

    def _others(self, relation: str | None) -> list[int]:
        if relation not in self._rivals:
            self._rivals[relation] = [at for at, name in enumerate(self._table[1]) if relation is None or not ambiguous(name, relation)]
        return self._rivals[relation]


@click.command()
def main() -> None:
    """Embed the lexicon's phrasings with the default embedder (a byte a number, and a scale a phrasing)."""
    vectors = Embedder().embed([text for _, text in phrasings()], progress=True)
    scales = (np.abs(vectors).max(axis=1) / 127).astype(np.float16)
    raw = save({"vectors": np.rint(vectors / scales[:, None].astype(np.float32)).clip(-127, 127).astype(np.int8), "scales": scales})
    FILE.write_bytes(raw)
    about = {"sha256": hashlib.sha256(raw).hexdigest(), "lexicon": fingerprint()}
    FILE.with_suffix(".json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    click.echo(f"{FILE}: {len(raw) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
