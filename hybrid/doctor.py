"""Health of a store: each part is exercised, what is wrong comes with the command that mends it, and `adopt` is what `hybrid reindex` does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hybrid.answer import Decision
from stores.errors import HybridError
from stores.records import Fact, Hit

if TYPE_CHECKING:
    from hybrid.memory import HybridMemory


@dataclass(frozen=True)
class Check:
    """One part, whether it is well, and what was found."""

    name: str
    ok: bool
    detail: str


def examine(memory: HybridMemory) -> Iterator[Check]:
    """Check every part; a part that fails does not keep the others from being checked."""

    def ledger() -> str:
        broken = memory.ledger.db.execute("PRAGMA integrity_check").fetchone()[0]
        if broken != "ok":
            raise HybridError(f"SQLite says: {broken}; restore {memory.ledger.path} from a backup")
        counts = memory.ledger.count()
        return f"{memory.ledger.path}: {counts.get('active', 0)} facts in force, {counts.get('superseded', 0)} superseded, {counts.get('contender', 0)} contenders, {counts.get('forgotten', 0)} forgotten"

    def log() -> str:
        return f"{memory.ledger.verify()} events, the chain is whole"

    def embedder() -> str:
        return f"{memory.embedder.identity}, {memory.embedder.embed(['a test']).shape[1]} dimensions"

    def index() -> str:
        memory.index.refresh()
        facts = memory.ledger.count().get("active", 0)
        if len(memory.index) != facts:
            raise HybridError(f"{len(memory.index)} vectors for {facts} facts; run `hybrid reindex`")
        return f"{facts} vectors, in step with the ledger"

    def scope() -> str:
        close, far = memory.router.witness.scorer.logits(["The capital of Peru is Lima"] * 2, ["What is the capital of Peru?", "Who painted the Mona Lisa?"])
        if close <= far:
            raise HybridError("the scope classifier prefers an unrelated question; reinstall hybrid-memory")
        return f"calibrated, fires from {memory.scope.unfamiliar} to {memory.scope.unnamed}, by what is known of a fact"

    def model() -> str:
        answer = memory.ask("The capital of France is", route="base", max_new_tokens=4)
        return f"{memory.model.identity}; it says: The capital of France is {answer.text}"

    def reader() -> str:
        told = Fact(id="", subject="Peru", relation="capital", prompt="The capital of {} is", target_new="Arequipa")
        said = "".join(memory.answerer.stream("What is the capital of Peru?", Decision("counterfactual", (Hit(told, 1.0),)), 16)).strip()
        name = memory.answerer.reader.model.identity
        if told.target_new.casefold() not in said.casefold():
            raise HybridError(f"{name}, told that the capital of Peru is Arequipa, says {said!r}; choose another with `hybrid reader --counterfactual-model`")
        return f"answers from memory: {memory.router.reader}; the counterfactual model is {name}, and reads"

    def claims() -> str:
        same, other = memory.claims.verifier.verdicts(["The capital of Peru is Lima"] * 2, ["Is Lima the capital of Peru?", "Is Cusco the capital of Peru?"])
        if same.supported <= same.refuted or other.supported >= other.refuted:
            raise HybridError("the verifier takes Cusco for Lima; reinstall hybrid-memory")
        return "questions for yes or no are judged"

    def weights() -> str:
        number = memory.weights.refresh()
        if number == 0:
            return "the base weights; no generation is live"
        held = [fact for fact in memory.ledger.facts() if fact.id in memory.generations.in_live()]
        lost = memory.weights.spot_check(held)
        if lost:
            raise HybridError(
                f"{len(lost)} of {len(held)} facts are not said any more and moved back to memory, such as {lost[0].statement!r}; run `hybrid consolidate`"
            )
        return f"generation {number} is what was verified, and says all its {len(held)} facts"

    parts: dict[str, Callable[[], str]] = {
        "ledger": ledger, "log": log, "embedder": embedder, "index": index, "scope": scope, "model": model, "reader": reader, "claims": claims, "weights": weights,
    }  # fmt: skip
    for name, part in parts.items():
        try:
            yield Check(name, True, part())
        except HybridError as error:
            yield Check(name, False, str(error))


def adopt(memory: HybridMemory) -> int:
    """Embed every fact with the memory's embedder, and make its model and embedder those of the store; returns the number of facts."""
    facts = memory.ledger.facts()
    vectors = memory.embedder.embed([fact.statement for fact in facts], progress=len(facts) > 500)
    rows = zip(memory.ledger.numbers(), (vector.astype("<f4").tobytes() for vector in vectors), strict=True)
    memory.ledger.replace_vectors(rows, memory.embedder.identity)
    former = memory.ledger.identity("model")
    if memory.generations.live() and former is not None and former.weights_hash != memory.model.identity.weights_hash:
        memory.generations.go_live(0, why="reindex")  # its weights belong to the former model
    memory.ledger.identify("model", memory.model.identity)
    for role, name in (("model", memory.model.name), ("embedder", memory.embedder.name)):
        memory.ledger.set(role, name)
    for part in ("index", "router", "answerer"):  # made anew when they are next needed
        memory.__dict__.pop(part, None)
    memory.save()
    return len(facts)
