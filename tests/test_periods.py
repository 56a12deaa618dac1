"""Validity in time: which fact holds when, and what a query with a date asks about."""

from __future__ import annotations

from pathlib import Path

import pytest

from hybrid.asked_moment import asked_moment, undated
from hybrid.memory import HybridMemory
from policies.conflict import Outcome, met
from stores.errors import Conflict, FormatError
from tests.test_ledger import fact


@pytest.mark.parametrize(
    ("query", "moment"),
    [
        ("Who led it in 2019?", "2019-07-01"),
        ("Who led it in March 2019?", "2019-03-15"),
        ("Who led it on 5 May 2020?", "2020-05-05"),
        ("Who led it on May 5th, 2020?", "2020-05-05"),
        ("As of 2021-02-03, who leads it?", "2021-02-03"),
        ("In 1999 it was red. What was it in 2001?", "2001-07-01"),
        ("Who led it on 2021-02-30?", None),
        ("Who wrote 1984?", None),
        ("Who won the 2019 cup?", None),
        ("Who leads it?", None),
    ],
)
def test_dates_of_queries(query: str, moment: str | None) -> None:
    found = asked_moment(query)
    assert (found and found[:10]) == moment


@pytest.mark.parametrize(
    ("query", "bare"),
    [
        ("Who led it in 2012?", "Who led it?"),
        ("In March 2019, the head of it was", "The head of it was"),
        ("who led it on 5 May 2020, and why", "who led it, and why"),
        ("Who led it on 2021-02-30?", "Who led it on 2021-02-30?"),
        ("Who won the race in 1999?", "Who won the race in 1999?"),
        ("Who wrote 1984?", "Who wrote 1984?"),
    ],
)
def test_a_query_without_its_dates(query: str, bare: str) -> None:
    assert undated(query, "The race in 1999 was won by Ana Lund") == bare


def test_periods_that_do_not_overlap_stand_beside_each_other() -> None:
    early, late = fact(1, valid_to="2015-01-01"), fact(1, id="b", valid_from="2015-01-01", target_new="other")
    assert not early.overlaps(late) and not late.overlaps(early) and met(late, [early]) is None
    assert met(fact(1, id="c", valid_from="2014-06-01", valid_to="2014-07-01"), [early, late]) == early
    assert met(late, [early, late]) == late
    with pytest.raises(Conflict, match="2 periods"):
        met(fact(1, id="d", target_new="third"), [early, late])


def test_a_query_gets_the_fact_valid_then(causal_folder: Path, store: Path) -> None:
    with HybridMemory(store, model=str(causal_folder), author="t") as memory:
        first = memory.add_fact("Norvania head of state", "Kim Moe", valid_from="2010-01-01", valid_to="2018-01-01")
        second = memory.add_fact("Norvania head of state", "Eva Holt", valid_from="2018-01-01", valid_to="2023-01-01")
        assert second.outcome is Outcome.ADD and second.superseded is None
        asked = {2012: ["Kim Moe"], 2019: ["Eva Holt"], 2025: [], 2005: []}
        for year, wanted in asked.items():
            decision = memory.route(f"Who was the head of state of Norvania in {year}?")
            assert [hit.fact.target_new for hit in decision.governing] == wanted, year
        assert memory.route("Who is the head of state of Norvania?").route == "base", "both have expired"
        third = memory.add_fact("Norvania head of state", "Ida Berg", valid_from="2018-01-01", valid_to="2023-01-01")
        assert third.superseded == second.fact
        assert [f.target_new for f in memory.ledger.history(third.fact)] == ["Eva Holt", "Ida Berg"], "another period is another history"
        with pytest.raises(Conflict, match="--valid-from"):
            memory.add_fact("Norvania head of state", "Ola Dahl")
        assert len(memory.forget(third.fact.id)) == 2
        assert [f.id for f in memory.ledger.facts()] == [first.fact.id], "forgetting one period leaves the other"
        memory.add_fact("Norvania head of state", "Per Lie", valid_from="2023-01-01")
        assert [h.fact.target_new for h in memory.route("Who is the head of state of Norvania?").governing] == ["Per Lie"]
        assert memory.ledger.verify() > 0


def test_chains_go_through_what_held_then(causal_folder: Path, store: Path) -> None:
    with HybridMemory(store, model=str(causal_folder), author="t") as memory:
        memory.add_fact("Norvania head of state", "Kim Moe", valid_to="2018-01-01")
        memory.add_fact("Norvania head of state", "Eva Holt", valid_from="2018-01-01")
        memory.add_fact("{} is married to", "Ola Berg", subject="Kim Moe")
        memory.add_fact("{} is married to", "Jon Dahl", subject="Eva Holt")
        assert memory.ask("Who was married to the head of state of Norvania in 2012?").text == "Ola Berg"
        assert memory.ask("Who is married to the head of state of Norvania?").text == "Jon Dahl"


def test_bad_dates_are_refused(causal_folder: Path, store: Path) -> None:
    with HybridMemory(store, model=str(causal_folder), author="t") as memory:
        with pytest.raises(FormatError, match="2026-03-01"):
            memory.add_fact("Norvania capital", "Ostmark", valid_from="last year")
        with pytest.raises(FormatError, match="before it begins"):
            memory.add_fact("Norvania capital", "Ostmark", valid_from="2020-01-01", valid_to="2019-01-01")
        assert memory.ledger.facts() == []
