"""Name search finds the fact that is named, and looks at few rows however many share its words."""

from __future__ import annotations

from pathlib import Path

import pytest

from stores import names
from stores.ledger import Change, Ledger
from tests.test_ledger import VECTOR, fact


@pytest.fixture
def crowded(store: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """Forty subjects that share all their words with many others."""
    monkeypatch.setattr(names, "COMMON", 5)
    ledger = Ledger(store / "ledger.db")
    first, second = ("North", "South", "Upper", "Lower"), ("Harbour", "Valley", "Bridge", "Tower", "Field", "Island", "Mill", "Cape", "Ford", "Hill")
    subjects = [f"{a} {b}" for a in first for b in second] + ["Zwolle", "North Sea Harbour"]
    with ledger.transaction():
        ledger.write([Change(fact(n, subject=subject), VECTOR) for n, subject in enumerate(subjects, 1)])
    return ledger


def found(ledger: Ledger, query: str) -> list[str]:
    return [each.subject for each in ledger.by_number(ledger.search_names(query, 8)).values()]


def test_words_that_many_names_have_count_together(crowded: Ledger) -> None:
    assert found(crowded, "What is the capital of South Valley?") == ["South Valley"] or "South Valley" in found(crowded, "capital of South Valley")
    assert found(crowded, "Who runs North Sea Harbour?")[-1:] == ["North Sea Harbour"]
    assert found(crowded, "north") == []  # eleven names have it: it tells nothing alone
    assert found(crowded, "Is it far to ZWOLLE?") == ["Zwolle"]
    assert found(crowded, "?! ...") == []


def test_no_query_ranks_more_rows_than_it_may(crowded: Ledger) -> None:
    ranked: list[str] = []
    crowded.db.conn.set_trace_callback(ranked.append)
    crowded.search_names("north south upper lower harbour valley bridge tower", 8)
    crowded.db.conn.set_trace_callback(None)
    match = next(line for line in ranked if "ORDER BY rank" in line)
    for phrase in match.split("MATCH '")[1].split("' ORDER")[0].split(" OR "):
        rows = crowded.db.execute("SELECT count(*) FROM subject_names WHERE subject_names MATCH ?", [phrase]).fetchone()[0]
        assert 0 < rows <= 5, phrase


def test_few_facts_are_ranked_as_by_bm25(store: Path) -> None:
    ledger = Ledger(store / "ledger.db")
    subjects = ["Lena Böhm", "Lena Hart", "Petra Böhm", "Petra Lena Böhm of Ghent"]
    with ledger.transaction():
        ledger.write([Change(fact(n, subject=subject), VECTOR) for n, subject in enumerate(subjects, 1)])
    plain = ledger.db.execute('SELECT rowid FROM subject_names WHERE subject_names MATCH \'"Lena" OR "Bohm"\' ORDER BY rank').fetchall()
    assert ledger.search_names("Where was Lena Bohm born?", 8) == [row[0] for row in plain]
