"""Benchmark files by format: strict, with the record's number in every error; and what the evaluation asks beside the data's own queries."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from hybrid.evaluation.fields import Row, read_rows
from hybrid.evaluation.readers import Reader
from hybrid.evaluation.records import Case, Probe, Record
from stores.errors import CueError, FormatError

FORMATS: dict[str, Callable[[Reader, Row], Record]] = {
    "counterfact": Reader.counterfact,
    "counterfact-flat": Reader.flat,
    "zsre": Reader.zsre,
    "zsre-mend": Reader.zsre_mend,
    "knowedit": Reader.knowedit,
    "mquake": Reader.mquake,
    "cf-hard": Reader.cf_hard,
    "fever": Reader.claims,
    "qaedit": Reader.qaedit,
    "scope": Reader.scope,
}


def load(path: Path, name: str, *, limit: int | None = None, seed: int = 0, skip_invalid: bool = False, hops: bool = True) -> Case:
    """The records of a benchmark file; with a limit, so many drawn with a seed, in the file's order.

    Every record is read, whatever the limit, so that an error does not depend on the draw.

    Raises:
        FormatError: naming the format, or the file and the record.
    """
    if name not in FORMATS:
        raise FormatError(f"there is no format {name!r}; choose one of {', '.join(FORMATS)}")
    reader, found, invalid = Reader(hops=hops), list[Record](), 0
    for number, row in enumerate(read_rows(path), start=1):
        try:
            found.append(replace(FORMATS[name](reader, row), number=number))
        except (FormatError, CueError) as error:
            if not skip_invalid:
                raise FormatError(f"{path}: record {number}: {error} (--skip-invalid leaves such records out)") from error
            invalid += 1
    if name == "fever":
        found = paired(found)
    if not found:
        raise FormatError(f"{path} holds no record that can be asked")
    if limit is not None and limit < len(found):
        chosen = random.Random(seed).sample(range(len(found)), limit)
        found = [found[at] for at in sorted(chosen)]
    return Case(records=tuple(found), invalid=invalid, unanswerable=reader.unanswerable, guessed=reader.guessed)


def paired(records: list[Record]) -> list[Record]:
    """FEVER: the first half are edits; the claims of the second half, whose facts are not loaded, are out of their scope."""
    half = len(records) // 2
    if half == 0:
        raise FormatError("a FEVER file needs two records at least: the second half's claims are the first half's out-of-scope")
    made = []
    for edit, other in zip(records[:half], records[half:], strict=False):
        far = [Probe(kind="locality", query=p.query, group="other_claims", place="unrelated") for p in other.probes[:3]]
        made.append(replace(edit, probes=(*edit.probes, *far)))
    return made


def extra(records: Sequence[Record], unrelated: Sequence[str]) -> list[Record]:
    """The records with what the evaluation adds, uncounted in `scores`: each first neighbour behind the fact's own sentence (a distractor), and records
    without a number for texts that are about nothing in the file."""
    made: list[Record] = []
    for each in records:
        near = next((p for p in each.probes if p.kind == "locality" and p.place == "neighborhood"), None)
        if near is None or any(p.place == "distractor" for p in each.probes):
            made.append(each)
            continue
        query = f"{each.requests[0].statement.rstrip('.')}. {near.query}"
        made.append(replace(each, probes=(*each.probes, Probe(kind="locality", query=query, group="distractor", place="distractor", counted=False))))
    far = [Probe(kind="locality", query=q, group="unrelated", place="unrelated", counted=False) for q in unrelated]
    return [*made, *(Record(number=0, requests=(), probes=(probe,)) for probe in far)]
