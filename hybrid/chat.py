"""The chat: a prompt with history and line editing; slash commands look into the memory and change it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from hybrid.answer import Decision
from hybrid.memory import HybridMemory
from hybrid.router import ROUTES
from stores.errors import HybridError

HELP = """\
/why            why the last answer came about: candidates, scores, route
/facts [TEXT]   facts in force, or those that hold a text
/add CUE = NEW  correct a fact: /add Australia capital = Canberra
/undo           take back the last fact that was added here
/forget ID      erase a fact for good
/route [ROUTE]  force a route (base, ike, counterfactual, weights), or auto
/help           this list
/exit           leave (or Ctrl-D)"""


class Chat:
    """One conversation. `say` prints a line."""

    def __init__(self, memory: HybridMemory, say: Callable[..., None]):
        self.memory, self.say = memory, say
        self.forced: str | None = None
        self.last: Decision | None = None
        self.added: list[str] = []

    def run(self, history: Path | None) -> None:
        """Read lines until the end; with a history file there is line editing, without one lines come from a pipe."""
        for line in _lines(history):
            if line in ("/exit", "/quit"):
                break
            if line:
                self.turn(line)

    def turn(self, line: str) -> None:
        """One line: a command or a query. Errors are said, and the conversation goes on."""
        try:
            if line.startswith("/"):
                self._command(line)
            else:
                self._ask(line)
        except HybridError as error:
            self.say(f"Error: {error}", err=True)
        except KeyboardInterrupt:
            self.say("  (stopped)")

    def _ask(self, query: str) -> None:
        self.last = self.memory.route(query, route=self.forced)
        for piece in self.memory.stream(query, self.last):
            self.say(piece, nl=False)
        self.say(f"   [{self.last.route}]")

    def _command(self, line: str) -> None:
        name, _, rest = line.partition(" ")
        rest = rest.strip()
        commands: dict[str, Callable[[str], None]] = {
            "/why": self._why, "/facts": self._facts, "/add": self._add, "/undo": self._undo,
            "/forget": self._forget, "/route": self._route, "/help": lambda _: self.say(HELP),
        }  # fmt: skip
        if name not in commands:
            raise HybridError(f"there is no command {name}; /help lists them")
        commands[name](rest)

    def _why(self, _: str) -> None:
        if self.last is None:
            raise HybridError("nothing has been asked yet")
        governing = {hit.fact.id for hit in self.last.governing}
        self.say(f"route: {self.last.route}")
        for hop in self.last.hops:
            self.say(f"  {hop.question}  ->  {hop.answer}  ({hop.route})")
        for hit in self.last.candidates:
            self.say(f"  {'governs' if hit.fact.id in governing else '      -'}  score {hit.score:.3f}  cosine {hit.similarity:.3f}  {hit.fact.statement}")

    def _facts(self, text: str) -> None:
        for fact in self.memory.ledger.facts(text=text or None):
            self.say(f"{fact.id}  {fact.statement}.")

    def _add(self, rest: str) -> None:
        cue, equals, target = rest.rpartition("=")
        if not equals or not cue.strip() or not target.strip():
            raise HybridError("write /add CUE = NEW VALUE, such as /add Australia capital = Canberra")
        added = self.memory.add_fact(cue.strip(), target.strip())
        if added.outcome.value == "nothing":
            self.say(f"Already known: {added.fact.statement}.")
            return
        if added.outcome.value == "kept":
            self.say(f"Another author or source is trusted more; still in force: {added.fact.statement}.")
            return
        self.added.append(added.fact.id)
        instead = f"  (instead of {added.superseded.target_new})" if added.superseded else ""
        self.say(f"Stored: {added.fact.statement}.{instead}")

    def _undo(self, _: str) -> None:
        if not self.added:
            raise HybridError("nothing was added in this chat")
        before = self.memory.undo(self.added.pop())
        self.say(f"In force again: {before.statement}." if before else "Taken back; the model answers for itself again.")

    def _forget(self, fact_id: str) -> None:
        gone = self.memory.forget(fact_id)
        self.added = [each for each in self.added if each not in gone]
        self.say(f"Forgotten: {', '.join(gone)}")

    def _route(self, name: str) -> None:
        if name and name != "auto" and name not in ROUTES:
            raise HybridError(f"there is no route {name!r}; choose auto or one of {', '.join(ROUTES)}")
        if name:
            self.forced = None if name == "auto" else name
        self.say(f"route: {self.forced or 'auto'}")


def _lines(history: Path | None) -> Iterator[str]:
    if history is None:
        import sys

        for line in sys.stdin:
            yield line.strip()
        return
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.history import FileHistory

    history.parent.mkdir(parents=True, exist_ok=True)
    words = WordCompleter([line.split()[0] for line in HELP.splitlines()], sentence=True)
    session: PromptSession[str] = PromptSession(history=FileHistory(str(history)), completer=words, complete_while_typing=False)
    while True:
        try:
            yield session.prompt("> ").strip()
        except KeyboardInterrupt:
            continue
        except EOFError:
            return
