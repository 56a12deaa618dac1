"""The ledger: round-trips, supersession, the chained log, forgetting."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stores.errors import Conflict, Corrupt, NotFound
from stores.ledger import Change, Ledger, superseding
from stores.records import Fact, Identity

VECTOR = b"\0" * 16


def fact(number: int = 1, **fields: object) -> Fact:
    values: dict[str, object] = {
        "id": f"01ARZ3NDEKTSV4RRFFQ69G{number:04d}",
        "subject": f"Place{number}",
        "relation": "capital",
        "prompt": "The capital of {} is",
        "target_new": f"Town{number}",
        "created_at": "2026-01-01T00:00:00+00:00",
    }
    return Fact(**(values | fields))  # type: ignore[arg-type]


def add(ledger: Ledger, new: Fact) -> Fact:
    with ledger.transaction():
        old = ledger.active(new.key)
        made = superseding(new, old)
        ledger.write([Change(made, VECTOR, old)])
    return made


@pytest.fixture
def ledger(store: Path) -> Ledger:
    return Ledger(store / "ledger.db", actor="tester")


words = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), min_size=1, max_size=30)


@settings(max_examples=60, deadline=None)
@given(subject=words, target=words, questions=st.lists(words, max_size=3), source=st.none() | words)
def test_any_text_round_trips(tmp_path_factory: pytest.TempPathFactory, subject: str, target: str, questions: list[str], source: str | None) -> None:
    ledger = Ledger(tmp_path_factory.mktemp("any") / "ledger.db")
    stored = add(ledger, fact(subject=subject, target_new=target, questions=tuple(questions), source=source))
    assert ledger.get(stored.id) == stored
    assert Fact.from_dict(stored.to_dict()) == stored
    assert ledger.verify() == 1
    ledger.close()


def test_supersession_keeps_history(ledger: Ledger) -> None:
    first = add(ledger, fact(1))
    second = add(ledger, fact(2, subject="PLACE1", target_new="Other"))
    assert second.supersedes == first.id and second.revision == 2
    assert [f.target_new for f in ledger.history(second)] == ["Town1", "Other"]
    assert ledger.facts() == [second]
    assert ledger.active(first.key) == second
    assert [e.action for e in ledger.events()] == ["add", "supersede"]


def test_namespaces_do_not_supersede_each_other(ledger: Ledger) -> None:
    add(ledger, fact(1))
    add(ledger, fact(2, subject="Place1", namespace="staging"))
    assert len(ledger.facts()) == 2
    assert [f.namespace for f in ledger.facts(namespace="staging")] == ["staging"]


def test_a_failed_transaction_leaves_nothing(ledger: Ledger) -> None:
    with pytest.raises(RuntimeError), ledger.transaction():
        ledger.write([Change(fact(1), VECTOR)])
        raise RuntimeError("stop")
    assert ledger.facts() == [] and ledger.revision() == 0 and ledger.numbers() == []


def test_ids_may_be_shortened(ledger: Ledger) -> None:
    one, _ = add(ledger, fact(1)), add(ledger, fact(2))
    assert ledger.get(one.id[-4:]) == one
    with pytest.raises(Conflict, match="2 facts"):
        ledger.get("01ARZ3")
    with pytest.raises(NotFound, match="hybrid facts list"):
        ledger.get("nothing")


def test_tampering_shows(ledger: Ledger) -> None:
    stored = add(ledger, fact(1))
    add(ledger, fact(2))
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        ledger.db.execute("DELETE FROM events WHERE seq = 1")
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        ledger.db.execute("UPDATE events SET actor = 'x'")
    assert ledger.verify() == 2
    ledger.db.execute("UPDATE facts SET target_new = 'Forged' WHERE id = ?", [stored.id])
    with pytest.raises(Corrupt, match=stored.id):
        ledger.verify()


def test_a_rewritten_log_shows(ledger: Ledger) -> None:
    add(ledger, fact(1))
    add(ledger, fact(2))
    ledger.db.execute("DROP TRIGGER events_stay")
    ledger.db.execute("UPDATE events SET actor = 'somebody else' WHERE seq = 1")
    with pytest.raises(Corrupt, match="event 1"):
        ledger.verify()


def test_forgetting_erases_the_content_from_the_file(ledger: Ledger, store: Path) -> None:
    first = add(ledger, fact(1, target_new="Zanzibarita"))
    second = add(ledger, replace(fact(2, subject="Place1", target_new="Quuxington"), questions=("Is it Quuxington?",)))
    gone = ledger.forget(second)
    assert set(gone) == {first.id, second.id}
    assert ledger.get(first.id).status == "forgotten" and ledger.get(first.id).target_new == ""
    assert ledger.verify() == 4
    ledger.close()
    content = b"".join(path.read_bytes() for path in store.iterdir())
    for word in (b"Zanzibarita", b"Quuxington", b"Place1", b"place1"):
        assert word not in content, word


def test_restore_after_undo(ledger: Ledger) -> None:
    first = add(ledger, fact(1))
    second = add(ledger, fact(2, subject="Place1"))
    ledger.restore(first, second, VECTOR)
    assert [f.id for f in ledger.facts()] == [first.id]
    assert ledger.verify() == 3


def test_identity_is_remembered(ledger: Ledger, store: Path) -> None:
    ledger.identify("model", Identity("pocket", "shipped", "abc"))
    ledger.close()
    assert Ledger(store / "ledger.db").identity("model") == Identity("pocket", "shipped", "abc")


def test_a_file_that_is_no_ledger_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(b"not a database at all, by any means" * 40)
    with pytest.raises(Corrupt, match="another --store"):
        Ledger(path)


def test_names_are_found_by_their_words(ledger: Ledger) -> None:
    add(ledger, fact(1, subject="São Tomé", aliases=("Saint Thomas",)))
    add(ledger, fact(2))
    assert ledger.search_names("where is sao tome?", 5) == [1]
    assert ledger.search_names('the "thomas" OR -place2*', 5)[0] in (1, 2)
    assert ledger.search_names("?!", 5) == []
