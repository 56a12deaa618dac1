"""Facts from files: JSON lines, CSV, TSV, and the formats of the public edit benchmarks.

A reader yields one `Request` a record, and names the record in its errors.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from hybrid.cue import understand
from hybrid.request import Request, from_cue
from stores.errors import CueError, FormatError

Row = Mapping[str, Any]


def _text(row: Row, *names: str) -> str:
    for name in names:
        value = row.get(name)
        if isinstance(value, list) and value:
            value = value[0]
        if isinstance(value, (str, int, float)) and str(value).strip():
            return str(value)
    raise FormatError(f"the field {' or '.join(map(repr, names))} is missing or empty; found {', '.join(map(repr, row)) or 'nothing'}")


def _several(row: Row, name: str) -> tuple[str, ...]:
    value = row.get(name) or ()
    return tuple(value.split("|")) if isinstance(value, str) else tuple(map(str, value))


def _templated(prompt: str, subject: str, target: str, **fields: Any) -> Request:
    seen = understand(prompt, subject=subject)
    return Request(subject=seen.subject, relation=seen.relation, prompt=_keep(prompt, seen.subject), target_new=target, questions=seen.questions, **fields)


def _keep(prompt: str, subject: str) -> str:
    """The record's own prompt, with `{}` for the subject."""
    if "{}" in prompt:
        return prompt
    at = prompt.lower().find(subject.lower())
    if at < 0:
        raise FormatError(f"the subject {subject!r} does not occur in the prompt {prompt!r}")
    return prompt[:at] + "{}" + prompt[at + len(subject) :]


def own(row: Row) -> Request:
    """This project's format: `cue` (or `prompt`, `subject` with optional `relation`) and `target` (or `target_new`)."""
    target = _text(row, "target_new", "target")
    subject = row.get("subject") or None
    fields = {name: row.get(name) or None for name in ("target_true", "source", "author", "valid_from", "valid_to")}
    extra: dict[str, Any] = {**fields, "aliases": _several(row, "aliases"), "namespace": row.get("namespace") or "default"}
    if row.get("prompt") and subject and row.get("relation"):
        return Request(
            subject=subject, relation=row["relation"], prompt=_keep(row["prompt"], subject), target_new=target, questions=_several(row, "questions"), **extra
        )
    cue = row.get("cue") or row.get("prompt") or (subject and row.get("relation") and f"{subject} {row['relation']}")
    if not cue:
        raise FormatError(f"a record needs `cue`, or `subject` with `prompt` or `relation`; found {', '.join(map(repr, row)) or 'nothing'}")
    return from_cue(cue, target, subject=subject, relation=row.get("relation") or None, questions=_several(row, "questions"), **extra)


def counterfact(row: Row) -> Request:
    """The records of the ROME paper (`requested_rewrite`)."""
    rewrite = row.get("requested_rewrite")
    if not isinstance(rewrite, Mapping):
        raise FormatError("the field 'requested_rewrite' is missing")
    new, true = rewrite.get("target_new") or {}, rewrite.get("target_true") or {}
    return _templated(_text(rewrite, "prompt"), _text(rewrite, "subject"), _text(new, "str"), target_true=true.get("str"))


def flat(row: Row) -> Request:
    """One flat object: `prompt`, `subject`, `target_new`, `ground_truth`."""
    truth = row.get("ground_truth")
    return _templated(_text(row, "prompt"), _text(row, "subject"), _text(row, "target_new"), target_true=_text(row, "ground_truth") if truth else None)


def zsre_mend(row: Row) -> Request:
    """`src`, `subject`, `alt` (the new answer), `answers` (the old)."""
    return _templated(_text(row, "src"), _text(row, "subject"), _text(row, "alt"), target_true=_text(row, "answers") if row.get("answers") else None)


def qaedit(row: Row) -> Request:
    """`prompt`, `subject`, `target`."""
    return _templated(_text(row, "prompt"), _text(row, "subject"), _text(row, "target"))


FORMATS: dict[str, Callable[[Row], Request]] = {
    "hybrid": own,
    "counterfact": counterfact,
    "counterfact-flat": flat,
    "zsre": flat,
    "knowedit": flat,
    "zsre-mend": zsre_mend,
    "qaedit": qaedit,
}


def rows(text: str, kind: str) -> list[Row]:
    """The records of a text: a JSON list, JSON lines, CSV or TSV with a header; `kind` is the file's ending or ''.

    Raises:
        FormatError: naming the line.
    """
    start = text.lstrip("\ufeff \n\r\t")[:1]
    if start == "[":
        try:
            found = json.loads(text.lstrip("\ufeff"))
        except json.JSONDecodeError as error:
            raise FormatError(f"not valid JSON: {error}") from error
        return list(found)
    if kind in ("jsonl", "json", "ndjson") or start == "{":
        parsed = []
        for number, line in enumerate(text.lstrip("\ufeff").splitlines(), start=1):
            if line.strip():
                try:
                    parsed.append(json.loads(line))
                except json.JSONDecodeError as error:
                    raise FormatError(f"line {number} is not valid JSON: {error}") from error
        return parsed
    delimiter = "\t" if kind == "tsv" or "\t" in text.partition("\n")[0] else ","
    return [dict(row) for row in csv.DictReader(io.StringIO(text.lstrip("\ufeff"), newline=""), delimiter=delimiter)]


def read(file: IO[str], name: str, limit: int | None = None) -> Iterator[Request]:
    """Requests of an open file in a named format; the kind of file is told from its name, or from the text.

    Raises:
        FormatError: if it cannot be read; see `requests`.
    """
    path = getattr(file, "name", None) or "the input"
    try:
        text = file.read()
    except UnicodeDecodeError as error:
        raise FormatError(f"{path} is not UTF-8 text ({error}); convert it") from error
    return requests(rows(text, Path(path).suffix.lstrip(".").lower())[:limit], name)


def requests(records: Iterable[Row], name: str) -> Iterator[Request]:
    """Requests of the records in a format (see `FORMATS`).

    Raises:
        FormatError: naming the format, or the record.
    """
    if name not in FORMATS:
        raise FormatError(f"there is no format {name!r}; choose one of {', '.join(FORMATS)}")
    for number, record in enumerate(records, start=1):
        try:
            if not isinstance(record, Mapping):
                raise FormatError(f"it is {record!r}, not an object")
            yield FORMATS[name](record).checked()
        except (FormatError, CueError) as error:
            raise FormatError(f"record {number}: {error}") from error
