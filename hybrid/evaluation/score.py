"""From the rows of a finished run to the object that `hybrid eval --json` prints (DESIGN, section 7)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hybrid.editors import ADAPTERS, EDITORS
from hybrid.evaluation.metrics import bootstrap, calibration_error, harmonic
from hybrid.evaluation.records import PLACES, Case

Row = dict[str, Any]
Value = Callable[[Row], float]

ANSWERS: dict[str, tuple[str, Value]] = {
    "efficacy": ("efficacy", lambda probe: float(probe["right"])),
    "generalization": ("generalization", lambda probe: float(probe["right"])),
    "portability": ("portability", lambda probe: float(probe["right"])),
    "locality": ("locality", lambda probe: float(probe["same"])),
}
"""Scores of free generation: name -> (kind of probe, value of one)."""
PAPERS: dict[str, tuple[str, Value]] = {
    "ES": ("efficacy", lambda probe: float(probe["nll"][0] < probe["nll"][1])),
    "PS": ("generalization", lambda probe: float(probe["nll"][0] < probe["nll"][1])),
    "NS": ("locality", lambda probe: float(probe["nll"][0] < probe["nll"][1])),
}
"""The papers' scores: whether the wanted answer is more probable than the other."""


def scored(method: str, model: str, case: Case, settings: Row, rows: Sequence[Row], unedited_seconds: float = 0.0) -> Row:
    """The result of a run."""
    probes = [probe for row in rows for probe in row["probes"]]
    return {
        "method": method,
        "model": model,
        "records": len(case.records),
        "settings": settings | {"overlong": sum(probe.get("overlong", False) for probe in probes)},
        "scores": overall(rows, settings["format"]),
        "slices": slices(rows),
        "routing": routing(probes, fires=method not in {**EDITORS, **ADAPTERS}),
        "timings": timings(rows, probes) | {"unedited_seconds": round(unedited_seconds, 3)},
    }


def column(rows: Sequence[Row], kind: str, value: Value, wanted: Callable[[Row], bool]) -> list[float]:
    """One number a record: the mean over its probes of a kind; NaN where it has none."""
    found = []
    for row in rows:
        values = [value(probe) for probe in row["probes"] if probe["kind"] == kind and wanted(probe)]
        found.append(sum(values) / len(values) if values else math.nan)
    return found


def with_interval(name: str, columns: Sequence[Sequence[float]], statistic: Callable[[Sequence[float]], float] | None = None) -> Row:
    """`name` and `name_ci`."""
    value, low, high = bootstrap(columns, statistic) if statistic else bootstrap(columns)
    return {name: round(value, 5), f"{name}_ci": [round(low, 5), round(high, 5)]}


def _present(values: Sequence[float]) -> bool:
    return any(not math.isnan(value) for value in values)


def overall(rows: Sequence[Row], form: str) -> Row:
    """The flat map of scores."""
    if form == "scope":
        return scope_scores(rows)
    scores: Row = {}
    for name, (kind, value) in ANSWERS.items():
        found = column(rows, kind, value, lambda probe: bool(probe["counted"]))
        if _present(found):
            scores |= with_interval(name, [found])
    if form == "mquake":
        scores |= multihop(rows)
    papers = {name: column(rows, kind, value, lambda probe: bool(probe["counted"]) and "nll" in probe) for name, (kind, value) in PAPERS.items()}
    present = {name: found for name, found in papers.items() if _present(found)}
    for name, found in present.items():
        scores |= with_interval(name, [found])
    if len(present) == len(PAPERS):
        scores |= with_interval("S", list(present.values()), harmonic)
    long = [math.nan if row["fluency"] is None else 100 * float(row["fluency"]) for row in rows]
    if _present(long):
        scores |= with_interval("fluency", [long])
    return scores


def multihop(rows: Sequence[Row]) -> Row:
    """MQuAKE's own scores: a chain counts if one of its questions is answered; hop-wise if all its single hops are, too."""
    any_question, with_hops = [], []
    for row in rows:
        asked = [probe["right"] for probe in row["probes"] if probe["kind"] == "portability"]
        hops = [probe["right"] for probe in row["probes"] if probe["kind"] == "generalization"]
        any_question.append(float(any(asked)) if asked else math.nan)
        with_hops.append(float(any(asked) and all(hops)) if asked and hops else math.nan)
    found = {"multihop": any_question, "hopwise": with_hops}
    return {key: value for name, values in found.items() if _present(values) for key, value in with_interval(name, [values]).items()}


def scope_scores(rows: Sequence[Row]) -> Row:
    """Of labelled (statement, query) pairs nothing is generated: the right fact fires in scope, none fires out of scope."""
    inside = column(rows, "scope", lambda probe: float(probe["right_fact"]), lambda probe: probe["place"] == "in_scope")
    outside = column(rows, "scope", lambda probe: float(not probe["fired"]), lambda probe: probe["place"] != "in_scope")
    scores = with_interval("generalization", [inside]) if _present(inside) else {}
    scores |= with_interval("locality", [outside]) if _present(outside) else {}
    if _present(inside) and _present(outside):
        scores |= with_interval("balanced", [inside, outside], lambda means: sum(means) / 2)
    pairs = [probe for row in rows for probe in row["probes"]]
    error = calibration_error([probe["score"] for probe in pairs], [probe["place"] == "in_scope" for probe in pairs])
    return scores | {"calibration_error": round(error, 5)}


def _named(rows: Sequence[Row]) -> Iterator[str]:
    """Every slice: the data's groups, the notes across them, and the places out of scope."""
    for row in rows:
        for probe in row["probes"]:
            yield from (probe[name] for name in ("group", "note") if probe[name])
            if probe["place"] and probe["place"] != "in_scope":
                yield probe["place"]


def slices(rows: Sequence[Row]) -> Row:
    """The same scores for each group of the data and each kind of query out of scope, with how often facts fired."""
    found: Row = {}
    for name in dict.fromkeys(_named(rows)):

        def here(probe: Row, name: str = name) -> bool:
            return name in (probe["group"], probe["note"], probe["place"])

        inside = [probe for row in rows for probe in row["probes"] if here(probe)]
        entry: Row = {"total": len(inside), "fired": sum(probe["fired"] > 0 for probe in inside), "right_fact": sum(probe["right_fact"] for probe in inside)}
        for score, (kind, value) in {**ANSWERS, **PAPERS}.items():
            values = column(rows, kind, value, lambda probe, s=score: here(probe) and (s not in PAPERS or "nll" in probe))  # type: ignore[misc]
            if _present(values):
                entry |= with_interval(score, [values])
        if any(probe["kind"] == "scope" for probe in inside):
            entry |= with_interval("locality", [column(rows, "scope", lambda probe: float(not probe["fired"]), here)])
        found[name] = entry
    return found


def routing(probes: Sequence[Row], *, fires: bool) -> Row:
    """Counts by place; where no facts fire at all (edited weights), the counts are null."""
    found: dict[str, Row] = defaultdict(lambda: {"total": 0, "fired": 0, "right_fact": 0} if fires else {"total": 0, "fired": None, "right_fact": None})
    for probe in probes:
        if probe["place"]:
            entry = found[probe["place"]]
            entry["total"] += 1
            if fires:
                entry["fired"] += probe["fired"] > 0
                entry["right_fact"] += probe["right_fact"]
    return {place: found[place] for place in PLACES if place in found}


def timings(rows: Sequence[Row], probes: Sequence[Row]) -> Row:
    """Seconds from loading to the last judgement, and milliseconds a query: deciding, generating, both.

    An answer that is the unedited model's, prompt and weights alike, is not made twice; a query counts what it took the first time.
    """
    count = max(1, len(probes))
    deciding, generating = sum(p["ms"] for p in probes) / count, sum(p.get("generate_ms", 0.0) for p in probes) / count
    return {
        "seconds": round(sum(row["seconds"] for row in rows), 3),
        "loading_seconds": round(sum(row["loading"] for row in rows), 3),
        "ms_per_query": round(deciding + generating, 3),
        "route_ms": round(deciding, 3),
        "generate_ms": round(generating, 3),
        "queries": len(probes),
    }
