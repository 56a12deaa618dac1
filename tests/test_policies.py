"""Decisions: conflict, scope, calibration."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.conflict import NEWEST, Outcome
from policies.scope import ScopePolicy
from stores.records import Hit
from tests.test_ledger import fact

NOW = "2026-06-01T00:00:00+00:00"


def test_conflict() -> None:
    decide = NEWEST.decide
    assert decide(fact(1), None) is Outcome.ADD
    assert decide(fact(1, id="another"), fact(1)) is Outcome.NOTHING
    assert decide(fact(1, target_new="x"), fact(1)) is Outcome.SUPERSEDE
    assert decide(fact(1, source="https://example.org"), fact(1)) is Outcome.SUPERSEDE


def hits(*scores: float) -> list[Hit]:
    return [Hit(fact(n), 0.5, score) for n, score in enumerate(scores, start=1)]


def test_none_one_or_several_govern() -> None:
    policy = ScopePolicy(threshold=0.5, margin=0.2, most=2)
    assert policy.govern(hits(0.1, 0.4), NOW) == []
    assert [h.score for h in policy.govern(hits(0.6, 0.9), NOW)] == [0.9]
    assert [h.score for h in policy.govern(hits(0.8, 0.9, 0.85), NOW)] == [0.9, 0.85]


def test_the_less_is_known_of_a_fact_the_more_it_takes() -> None:
    policy = ScopePolicy()
    told = {"named": 1.0, "variant": 0.0, "before": 0.0, "shared": 1.0, "known": 1.0, "guessed": 0.0}
    assert policy.bar({}) == policy.bar(told) == policy.threshold
    assert policy.bar(told | {"guessed": 1.0}) == policy.bar(told | {"named": 0.0, "variant": 1.0, "known": 0.0}) == policy.unfamiliar < policy.threshold
    partly = told | {"named": 0.0, "shared": 0.6, "known": 0.0}
    assert policy.bar(partly) == policy.bar(partly | {"shared": 0.0, "before": 1.0}) == policy.threshold
    assert policy.bar(partly | {"shared": 0.0}) == policy.bar(partly | {"shared": 0.5}) == policy.unnamed > policy.threshold
    low = Hit(fact(1), 0.5, (policy.unfamiliar + policy.threshold) / 2, told)
    assert policy.govern([low], NOW) == [] and policy.govern([Hit(low.fact, 0.5, low.score, told | {"known": 0.0})], NOW)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.01, 0.3))
def test_routing_is_monotone_in_the_score(scores: list[float], raise_by: float) -> None:
    policy = ScopePolicy()
    before = policy.govern(hits(*scores), NOW)
    best = max(range(len(scores)), key=lambda i: (scores[i], -i))
    higher = [min(1.0, s + raise_by) if i == best else s for i, s in enumerate(scores)]
    after = policy.govern(hits(*higher), NOW)
    assert not before or after, "a higher score must not silence a fact"


def test_time_and_namespace() -> None:
    policy = ScopePolicy()
    late = Hit(fact(1, valid_from="2027-01-01T00:00:00+00:00"), 0.9, 0.9)
    ended = Hit(fact(2, valid_to=NOW), 0.9, 0.9)
    other = Hit(fact(3, namespace="other"), 0.9, 0.9)
    assert policy.govern([late, ended], NOW) == []
    assert policy.govern([late], "2027-01-01T00:00:00+00:00") == [late]
    assert policy.govern([other], NOW, ["default"]) == []
    assert policy.govern([other], NOW) == [other]


def test_bad_policy_is_refused() -> None:
    with pytest.raises(ValueError, match="threshold"):
        ScopePolicy(threshold=1.5)
