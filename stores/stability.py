"""How facts have fared: how often they answered, whether they were confirmed, pinned or held back, and whether the weights refused them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from stores import events
from stores.errors import Conflict
from stores.events import now
from stores.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of one fact."""

    answered: int = 0
    confirmed: int = 0
    held: str | None = None
    failed: str | None = None
    """The reason of its last failure under the settings asked for."""


FORGOTTEN_BESIDE = "refused beside a fact that was forgotten since"
"""What stands for a reason that might quote a fact that is gone."""


class Stability:
    """The part of the ledger that consolidation decides by. Decisions are events; counts of use are not, or every query would be one."""

    def __init__(self, ledger: Ledger):
        self.ledger, self.db = ledger, ledger.db

    def records(self, settings: str) -> dict[str, Record]:
        """What is known, by fact id; failures count only under the settings (a hash) that they happened with."""
        usage: dict[str, tuple[int, int]] = {row[0]: (row[1], row[2]) for row in self.db.execute("SELECT fact_id, answered, confirmed FROM usage")}
        holds = self.holds()
        marks = dict(self.db.execute("SELECT fact_id, reason FROM marks WHERE settings = ?", [settings]).fetchall())
        found = {}
        for each in {*usage, *holds, *marks}:
            answered, confirmed = usage.get(each, (0, 0))
            found[each] = Record(answered, confirmed, holds.get(each), marks.get(each))
        return found

    def holds(self) -> dict[str, str]:
        """Facts that were pinned or held back."""
        return dict(self.db.execute("SELECT fact_id, kind FROM holds").fetchall())

    def hold(self, fact_id: str, kind: str | None, actor: str | None = None) -> None:
        """'pin' a fact (it may go into weights at once), 'hold' it back, or release it (None), which also clears a failure.

        Raises:
            Conflict: if the fact is not in force.
        """
        fact = self.ledger.get(fact_id)
        if fact.status != "active":
            raise Conflict(f"fact {fact.id} is {fact.status}; only a fact in force can be pinned, held back or released")
        with self.ledger.transaction():
            self.db.execute("DELETE FROM holds WHERE fact_id = ?", [fact.id])
            if kind is None:
                self.db.execute("DELETE FROM marks WHERE fact_id = ?", [fact.id])
            else:
                self.db.execute("INSERT INTO holds VALUES (?, ?)", [fact.id, kind])
            events.append(self.db, actor or self.ledger.actor, kind or "release", fact.id, {})

    def confirm(self, fact_id: str, actor: str | None = None) -> None:
        """Somebody said the same again; the caller holds the transaction."""
        self._count(fact_id, confirmed=1)
        events.append(self.db, actor or self.ledger.actor, "confirm", fact_id, {})

    def answered(self, counts: Mapping[str, int]) -> None:
        """Add to the counts of governed queries."""
        with self.ledger.transaction():
            for fact_id, count in counts.items():
                self._count(fact_id, answered=count)

    def _count(self, fact_id: str, *, answered: int = 0, confirmed: int = 0) -> None:
        self.db.execute(
            "INSERT INTO usage SELECT id, ?, ? FROM facts WHERE id = ? AND status != 'forgotten' "
            "ON CONFLICT (fact_id) DO UPDATE SET answered = answered + excluded.answered, confirmed = confirmed + excluded.confirmed",
            [answered, confirmed, fact_id],
        )

    # -- failures ----------------------------------------------------------------------------

    def begin_run(self, candidates: Iterable[str]) -> int:
        """Note who is about to be tried together; returns the run's number."""
        with self.ledger.transaction():
            number = self.db.execute("INSERT INTO runs (at) VALUES (?)", [now()]).lastrowid
            self.db.conn.executemany("INSERT INTO run_facts VALUES (?, ?)", [(number, each) for each in candidates])
        return int(number)

    def mark(self, run: int, reasons: Mapping[str, str], settings: str, passed: Iterable[str] = ()) -> None:
        """Note why facts were refused in a run; those that passed are refused no longer."""
        with self.ledger.transaction():
            self.db.conn.executemany("DELETE FROM marks WHERE fact_id = ?", [(fact_id,) for fact_id in passed])
            for fact_id, reason in reasons.items():
                self.db.execute("INSERT OR REPLACE INTO marks VALUES (?, ?, ?, ?)", [fact_id, run, reason, settings])
                events.append(self.db, self.ledger.actor, "refuse", fact_id, {"run": run})

    def scrub(self, gone: Iterable[str]) -> None:
        """Rewrite the reasons of every run that tried one of these facts, for they may quote it; what was refused stays refused."""
        with self.ledger.transaction():
            for fact_id in gone:
                runs = "SELECT run FROM run_facts WHERE fact_id = ?"
                self.db.execute(f"UPDATE marks SET reason = ? WHERE fact_id != ? AND run IN ({runs})", [FORGOTTEN_BESIDE, fact_id, fact_id])

    # -- values ------------------------------------------------------------------------------

    def note_keys(self, keys: Iterable[tuple[str, str]]) -> None:
        """Remember which cached values (and answers) belong to which fact: (fact id, key)."""
        with self.ledger.transaction():
            self.db.conn.executemany("INSERT OR IGNORE INTO value_keys VALUES (?, ?)", list(keys))

    def keys_of(self, fact_ids: Iterable[str]) -> list[str]:
        """Keys that belong to these facts and to no other."""
        ids = list(fact_ids)
        marks = ",".join("?" * len(ids))
        found = self.db.execute(f"SELECT DISTINCT key FROM value_keys WHERE fact_id IN ({marks}) EXCEPT "
                                f"SELECT key FROM value_keys WHERE fact_id NOT IN ({marks})", [*ids, *ids])  # fmt: skip
        return [row[0] for row in found]
