"""What users said of the scope: for this query that fact should have governed, or should not have. Text of queries never enters the log."""

from __future__ import annotations

from dataclasses import dataclass

from stores import events
from stores.errors import Conflict
from stores.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Judgement:
    """One query, and whether a fact should govern it; without a fact, that none should."""

    query: str
    fact_id: str | None
    fires: bool
    at: str
    actor: str


class Feedback:
    """Judgements of a store; one a query and fact, the last one counts. They leave with the fact when it is forgotten."""

    def __init__(self, ledger: Ledger):
        self.ledger, self.db = ledger, ledger.db

    def add(self, query: str, fact_id: str | None, fires: bool, actor: str | None = None) -> Judgement:
        """Remember a judgement.

        Args:
            fact_id: whole id; None with `fires` False says that no fact should govern.
        Raises:
            Conflict: if the fact is not in force.
            ValueError: if the query is empty, or a fact that should fire is not named.
        """
        if not query.strip() or (fires and fact_id is None):
            raise ValueError("feedback needs a query, and the fact that should fire")
        if fact_id is not None and (fact := self.ledger.get(fact_id)).status != "active":
            raise Conflict(f"fact {fact.id} is {fact.status}; feedback is about facts in force")
        made = Judgement(query.strip(), fact_id, fires, events.now(), actor or self.ledger.actor)
        with self.ledger.transaction():
            self.db.execute("DELETE FROM feedback WHERE query = ? AND fact_id IS ?", [made.query, fact_id])
            self.db.execute("INSERT INTO feedback (query, fact_id, fires, at, actor) VALUES (?, ?, ?, ?, ?)", [made.query, fact_id, fires, made.at, made.actor])
            events.append(self.db, made.actor, "feedback", fact_id, {"fires": fires})
        return made

    def all(self) -> list[Judgement]:
        """Every judgement in the order they came; those on superseded facts are of the facts that took their place."""
        found = []
        for query, fact_id, fires, at, actor in self.db.execute("SELECT query, fact_id, fires, at, actor FROM feedback ORDER BY number"):
            if fact_id is not None:
                fact = self.ledger.get(fact_id)
                current = fact if fact.status == "active" else self.ledger.active(fact.key)
                if current is None:
                    continue
                fact_id = current.id
            found.append(Judgement(query, fact_id, bool(fires), at, actor))
        return found
