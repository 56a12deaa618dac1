"""Which path through the facts explains a question over several of them, and whether it does so well enough to be taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import ge

Cues = Mapping[str, float]
"""How strongly each word (stem) speaks for one hop, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Word:
    """A word of the question that may speak for a relation."""

    stem: str
    weight: float
    """How much it tells about which relation is meant, 0 to 1."""
    place: int
    """Words between it and the entity that the chain begins at; negative before it."""
    parts: tuple[str, ...] = ()
    """The words of a name of several ("head office"), which say less one by one."""

    def speaks(self, cues: Cues) -> float:
        """How strongly it speaks for a hop, 0 to 1."""
        whole = cues.get(self.stem, 0.0)
        return max(whole, 0.5 * sum(cues.get(part, 0.0) for part in self.parts) / len(self.parts)) if self.parts else whole


@dataclass(frozen=True, slots=True)
class Explanation:
    """How much of a question the hops of a path account for."""

    coverage: float
    """Weight of the words that speak for some hop, of all words' weight."""
    shares: tuple[float, ...]
    """Weight of the words that speak for each hop."""
    disorder: float
    """Share of pairs of words, on one side of the entity, whose hops stand in the wrong order: an inner hop is nearer to the entity."""


@dataclass(frozen=True, kw_only=True)
class ChainPolicy:
    """What a path costs, and from when it counts.

    A hop that no word speaks for may stand between others ("the sport of X" goes through the position that X plays); a chain needs two hops that
    words do speak for, its last one among them, and has to explain clearly more of the question than any single fact.
    """

    evident: float = 0.25
    """Weight from which words speak for a hop."""
    coverage: float = 0.55
    coverage_asked: float = 0.7
    """What a path must explain if the model is asked for one of its hops."""
    gain: float = 0.15
    """How much more of the question than a single hop a chain must explain."""
    silent: float = 0.12
    """Cost of a hop that no word speaks for; at most one in a chain."""
    asked: float = 0.1
    """Cost of a hop that memory does not hold, so that the model is asked."""
    evident_asked: float = 0.5
    """Weight from which words speak for such a hop."""
    length: float = 0.05
    disorder: float = 0.15
    most: int = 5
    """Hops of a chain."""
    beam: int = 64
    """Paths that are followed further."""

    def score(self, words: Sequence[Word], hops: Sequence[Cues], asked: int = 0) -> float:
        """How well a path explains the question; `asked` of its hops are left to the model."""
        found = explain(words, hops)
        silent = sum(max(0.0, 1 - share / self.evident) for share in found.shares)
        return found.coverage - self.silent * silent - self.asked * asked - self.length * len(hops) - self.disorder * found.disorder

    def takes(self, words: Sequence[Word], hops: Sequence[Cues], held: Sequence[bool], single: float) -> bool:
        """Whether a path is a chain that the question asks for; memory has the hops that are `held`; `single` is the coverage of the best single hop."""
        if len(hops) < 2:
            return False
        found = explain(words, hops)
        evident = [share >= self.evident for share in found.shares]
        if not all(held) and not self._sure(found, held):
            return False
        return evident[-1] and sum(evident) >= max(2, len(hops) - 1) and found.coverage >= max(self.coverage, single + self.gain)

    def _sure(self, found: Explanation, held: Sequence[bool]) -> bool:
        """Whether a path that asks the model leaves no doubt: words speak for every hop, in order, and for nearly all of the question."""
        least = [self.evident if known else self.evident_asked for known in held]
        return found.disorder == 0 and found.coverage >= self.coverage_asked and all(map(ge, found.shares, least))


def explain(words: Sequence[Word], hops: Sequence[Cues]) -> Explanation:
    """Give each word to the hop that it speaks for most; of equals, to the one that has less, the inner one first."""
    shares, total, covered = [0.0] * len(hops), 0.0, 0.0
    given: list[tuple[int, int]] = []
    for word in sorted(words, key=lambda each: abs(each.place)):
        total += word.weight
        strength, _, at = max(((word.speaks(cues), -shares[n], -n) for n, cues in enumerate(hops)), default=(0.0, 0.0, 0))
        if strength > 0:
            covered += word.weight * strength
            shares[-at] += word.weight * strength
            given.append((word.place, -at))
    pairs = [(a, b) for n, (p, a) in enumerate(given) for q, b in given[n + 1 :] if p * q > 0]
    wrong = sum(a > b for a, b in pairs)
    return Explanation(covered / total if total else 0.0, tuple(shares), wrong / max(1, len(pairs)))
