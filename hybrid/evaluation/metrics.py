"""The measures, as pure functions: alias match, n-gram entropy, harmonic mean, bootstrap over records, calibration error."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

COPULA = frozenset("is are was were be been called named becomes became".split())
LINKS = COPULA | frozenset("in by of the a an to at from as for on speaks spoke plays played".split())
NOT = frozenset("not never no isn't wasn't aren't weren't neither nor".split())
ARTICLES = ("the", "a", "an")
WORD = re.compile(r"[^\W_]+(?:['’.][^\W_]+)*|[^\w\s]", re.UNICODE)


def words(text: str) -> list[str]:
    """Words of a text, case and compatibility forms folded, without punctuation; a text of signs only keeps its signs."""
    found = WORD.findall(unicodedata.normalize("NFKC", text).replace("’", "'").casefold())
    kept = [word for word in found if word[0].isalnum()]
    return kept or found


def matches(said: str, answers: Sequence[str]) -> bool:
    """Whether a generated text gives one of the answers.

    It does if it begins with the answer, word for word (a leading article aside), whatever follows; or if it is a sentence that ends with it
    behind a linking word ("The capital of Australia is Canberra"), and denies nothing.
    """
    spoken = _bare(words(said))
    return any(_gives(spoken, _bare(words(answer))) for answer in answers)


def _bare(found: list[str]) -> list[str]:
    return found[1:] if len(found) > 1 and found[0] in ARTICLES else found


def _gives(spoken: list[str], wanted: list[str]) -> bool:
    if not wanted or len(spoken) < len(wanted):
        return False
    if spoken[: len(wanted)] == wanted:
        return True
    before = spoken[: -len(wanted)]
    return spoken[-len(wanted) :] == wanted and before[-1] in LINKS and not COPULA.isdisjoint(before) and NOT.isdisjoint(before)


def entropy(tokens: Sequence[str], n: int) -> float:
    """Entropy in bits of the distribution of n-grams; 0 if there is none."""
    counts = Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
    total = sum(counts.values())
    return -sum(c / total * math.log2(c / total) for c in counts.values()) if total else 0.0


def fluency(text: str) -> float:
    """The weighted n-gram entropy of Zhang et al. 2018 as the ROME paper takes it: the mean of 2/3 H2 and 4/3 H3, in bits (the papers print it times 100).

    Words and signs are told apart by a pattern here, by NLTK there.
    """
    tokens = WORD.findall(text)
    return float(np.mean([2 / 3 * entropy(tokens, 2), 4 / 3 * entropy(tokens, 3)]))


def harmonic(values: Sequence[float]) -> float:
    """The harmonic mean; 0 as soon as one value is."""
    return len(values) / sum(1 / value for value in values) if min(values) > 0 else 0.0


def mean(values: NDArray[np.float64]) -> float:
    """The mean of what is not NaN; NaN if there is nothing."""
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if len(kept) else math.nan


def bootstrap(
    columns: Sequence[Sequence[float]],
    statistic: Callable[[Sequence[float]], float] = lambda means: means[0],
    *,
    draws: int = 1000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """A statistic of the means of columns, with its 95% percentile interval from resampled records.

    Args:
        columns: one value a record in each, NaN where a record has none. Records that have some value are drawn with replacement, all columns alike.
        statistic: from the columns' means.
    Returns:
        The value on the records themselves, and the ends of the interval.
    """
    table = np.asarray(columns, dtype=np.float64)
    table = table[:, ~np.isnan(table).all(0)]
    rng = np.random.default_rng(seed)
    value = statistic([mean(column) for column in table])
    known, filled = ~np.isnan(table), np.nan_to_num(table)
    found = []
    for _ in range(draws):
        weights = np.bincount(rng.integers(0, table.shape[1], table.shape[1]), minlength=table.shape[1])
        counts = known @ weights
        if (counts > 0).all():
            found.append(statistic(list(filled @ weights / counts)))
    low, high = np.percentile(found, [2.5, 97.5]) if found else (value, value)
    return value, float(low), float(high)


def calibration_error(probabilities: Sequence[float], labels: Sequence[bool], bins: int = 15) -> float:
    """Expected calibration error: the gap between probability and frequency, over bins of equal width, weighted by what is in them."""
    if not probabilities:
        return math.nan
    given, true = np.asarray(probabilities, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    at = np.minimum((given * bins).astype(int), bins - 1)
    gaps = [abs(given[at == b].mean() - true[at == b].mean()) * (at == b).sum() for b in range(bins) if (at == b).any()]
    return float(sum(gaps) / len(given))
