"""Strict reading of a record's fields: the type is checked, and an error says which field and what stands there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hybrid.cue import understand
from hybrid.formats import rows
from hybrid.request import Request
from stores.errors import FormatError

Row = Mapping[str, Any]
WORD = re.compile(r"\w+")
SMALL = frozenset("the a an of in on at to for by is are was were and or with from as it its this that who what which where when".split())
NAME = re.compile(r"[A-Z0-9][\w'’&.-]*(?:\s+(?:(?:of|the|in the|de|la|le|von|van|der|den|da|di|del|du|al|and|for|&)\s+)*[A-Z0-9][\w'’&.-]*)*")
VERB = re.compile(r"\b(?:is|are|was|were|has|have|had|can|will|did|does|do)\b")
LEAD = re.compile(r"(?:The|A|An|In|On|At|It|There|This|That|His|Her|Its)\s+")


def read_rows(path: Path) -> list[Row]:
    """The records of a file: a JSON list, or JSON lines.

    Raises:
        FormatError: if it is neither, naming line or record.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"{path} is not UTF-8 text ({error}); convert it") from error
    if not text.strip():
        raise FormatError(f"{path} is empty; a benchmark file is a JSON list of records, or JSON lines")
    if text.lstrip("\ufeff \n\r\t")[:1] not in "[{":
        raise FormatError(f"{path} is neither a JSON list nor JSON lines; it begins with {text.strip()[:20]!r}")
    if text.lstrip("\ufeff \n\r\t")[:1] == "{" and "\n" in text.strip():
        try:
            whole = json.loads(text.lstrip("\ufeff"))
        except json.JSONDecodeError:
            pass
        else:  # one object over several lines
            return [whole]
    found = rows(text, "json")
    for number, row in enumerate(found, start=1):
        if not isinstance(row, Mapping):
            raise FormatError(f"{path}: record {number}: it is {row!r}, not an object")
    return found


def fold(text: str) -> str:
    """White space folded."""
    return " ".join(text.split())


def text(row: Row, name: str) -> str:
    """A required text.

    Raises:
        FormatError: if it is missing, empty, or no text.
    """
    if name not in row:
        raise FormatError(f"the field {name!r} is missing; found {', '.join(map(repr, row)) or 'nothing'}")
    value = row[name]
    if not isinstance(value, str) or not value.strip():
        raise FormatError(f"the field {name!r} must be a text that is not empty, not {value!r}")
    return fold(value)


def texts(value: Any, name: str) -> tuple[str, ...]:
    """A text, or a list of texts (or of such lists: aliases), as a tuple without repetitions; numbers become texts.

    Raises:
        FormatError: if there is anything else in it.
    """
    if value is None:
        return ()
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return (fold(str(value)),) if str(value).strip() else ()
    if not isinstance(value, list):
        raise FormatError(f"the field {name!r} must be a text or a list of texts, not {value!r}")
    return tuple(dict.fromkeys(each for item in value for each in texts(item, name)))


def listed(row: Row, name: str) -> list[Any]:
    """A list; empty if the field is missing.

    Raises:
        FormatError: if it is something else.
    """
    value = row.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise FormatError(f"the field {name!r} must be a list, not {value!r}")
    return value


def objects(value: Any, name: str) -> list[Row]:
    """A list of objects (or one object).

    Raises:
        FormatError: if it is something else.
    """
    items = [value] if isinstance(value, Mapping) else value
    if not isinstance(items, list) or not all(isinstance(item, Mapping) for item in items):
        raise FormatError(f"the field {name!r} must be a list of objects, not {value!r}")
    return items


def groups(row: Row, name: str) -> Iterator[tuple[str, Row]]:
    """(group, item) of a field that holds lists of objects by the name of their group.

    Raises:
        FormatError: naming group and item.
    """
    value = row.get(name) or {}
    if not isinstance(value, Mapping):
        raise FormatError(f"the field {name!r} must be an object with a list for each group, not {value!r}")
    for group, items in value.items():
        for item in objects(items, f"{name}.{group}"):
            yield group, item


def aligned(prompt: str, subject: str) -> tuple[str, bool]:
    """The subject as it stands in the prompt, and whether it had to be guessed from the words that both share.

    Raises:
        FormatError: if they share none.
    """
    prompt, subject = fold(prompt), fold(subject)
    if "{}" in prompt:
        return subject, False
    at = prompt.lower().find(subject.lower())
    if at >= 0:
        return prompt[at : at + len(subject)], False
    spans = [match.span() for match in WORD.finditer(prompt)]
    said = [prompt[a:b].casefold() for a, b in spans]
    wanted = [match.group().casefold() for match in WORD.finditer(subject)]
    best = (0, 0)
    for i in range(len(said)):
        for j in range(i + 1, len(said) + 1):
            run = said[i:j]
            if any(wanted[k : k + len(run)] == run for k in range(len(wanted))) and not SMALL.issuperset(run) and j - i > best[1] - best[0]:
                best = (i, j)
    if best == (0, 0):
        raise FormatError(f"the subject {subject!r} does not occur in the prompt {prompt!r}")
    return prompt[spans[best[0]][0] : spans[best[1] - 1][1]], True


def templated(prompt: str, subject: str, target: str, **fields: Any) -> Request:
    """The request that `hybrid add-facts` makes of a prompt and its subject, checked.

    Raises:
        FormatError, CueError: if it cannot be stored.
    """
    prompt = fold(prompt)
    seen = understand(prompt, subject=subject)
    if "{}" not in prompt:
        at = prompt.lower().find(seen.subject.lower())
        if at < 0:
            raise FormatError(f"the subject {subject!r} does not occur in the prompt {prompt!r}")
        prompt = prompt[:at] + "{}" + prompt[at + len(seen.subject) :]
    return Request(subject=seen.subject, relation=seen.relation, prompt=prompt, target_new=target, questions=seen.questions, **fields).checked()


def stated(statement: str, subject: str | None = None, target: str | None = None) -> Request:
    """The request that a whole sentence makes: its subject is a name in it (or the one given), its target what it ends with.

    The sentence is stored as it stands; only where the braces go is found here. Sentences with another beginning are other relations.

    Raises:
        FormatError: if there is no subject before the sentence's end.
    """
    said = fold(statement).rstrip(".!").rstrip()
    if target is not None and not said.casefold().endswith(target.casefold()):
        raise FormatError(f"the sentence {said!r} does not end with {target!r}")
    words = said.split()
    if len(words) < 2:
        raise FormatError(f"{statement!r} is not a sentence with a subject and a target")
    lead = LEAD.match(said)
    begin = lead.end() if lead else 0
    if target is None:
        names = [match.span() for match in NAME.finditer(said, begin)]
        ending = [span for span in names if span[1] == len(said) and span[0] > begin]
        target = said[ending[-1][0] :] if ending else words[-1]
    cloze = said[: len(said) - len(target)].rstrip()
    if subject is None:
        found = NAME.search(cloze, begin)
        plain = VERB.split(cloze[begin:], maxsplit=1)[0].strip()
        subject = found.group().removesuffix("'s").removesuffix("’s") if found else plain or (cloze[begin:].split() or [""])[0]
    at = cloze.casefold().find(subject.casefold()) if subject else -1
    if at < 0 or not cloze:
        raise FormatError(f"the subject {subject!r} does not stand in {said!r} before {target!r}")
    prompt = f"{cloze[:at]}{{}}{cloze[at + len(subject) :]}"
    relation = fold(prompt.replace("{}", " ")) or "is"
    return Request(subject=cloze[at : at + len(subject)], relation=relation, prompt=prompt, target_new=target).checked()
