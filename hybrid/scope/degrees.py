"""Words of which only one can be meant: "the smallest lake" beside the largest, "how wide" beside the length.

In the authored sentences (`hybrid.scope.authored`) 1 of 26,000 queries that a fact governs has another word of a group than the fact, and 48 of 37,000 that ask
something else about its subject.
"""

from __future__ import annotations

import re

GROUPS = tuple(
    frozenset(group.split())
    for group in (
        "largest smallest second-largest third-largest", "biggest smallest second-biggest", "longest shortest second-longest", "tallest shortest second-tallest",
        "highest lowest second-highest", "deepest shallowest", "oldest youngest second-oldest", "oldest newest", "elder younger", "eldest youngest", "earliest latest",
        "fastest slowest", "hottest coldest", "heaviest lightest", "richest poorest", "best worst", "widest narrowest", "nearest farthest furthest", "busiest quietest",
        "wettest driest", "maximum minimum", "northern southern eastern western", "northernmost southernmost easternmost westernmost", "upper lower", "inner outer",
        "maternal paternal", "imports exports", "arrival departure", "buyer seller", "winner loser",
        "length width depth height weight", "length wide deep heavy", "width long deep heavy", "height wide deep heavy", "weight wide deep long tall", "long wide deep heavy",
    )
)  # fmt: skip
WORD = re.compile(r"[^\W_]+(?:[-'’][^\W_]+)*")


def opposed(query: str, told: str) -> bool:
    """Whether a query and what a fact tells have different words of a group, and none of the same.

    Args:
        query: without the subject's name.
        told: the fact's prompt, without the subject's name.
    """
    said, mine = (set(WORD.findall(text.casefold())) for text in (query, told))
    return any(said & group and mine & group and not said & mine & group for group in GROUPS)
