"""The report of a consolidation: a page that can be read, with plots, and the same as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from stores.events import now
from stores.stability import FORGOTTEN_BESIDE

if TYPE_CHECKING:
    from pathlib import Path

    from hybrid.consolidation.run import Result
    from hybrid.memory import HybridMemory
    from stores.records import Fact

PAGE, NUMBERS = "report.html", "report.json"
SHARES = ("efficacy", "phrasings", "neighbours", "same_subject", "fluency", "probes")
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}table{border-collapse:collapse;width:100%}"
    "td,th{text-align:left;padding:.25rem .6rem;border-bottom:1px solid #ddd;vertical-align:top}img{max-width:100%}.no{color:#a00}.yes{color:#060}"
)


def numbers(result: Result) -> dict[str, Any]:
    """Everything of the report as JSON types."""
    found = result.verification
    statements = {verdict.fact.id: verdict.fact.statement for verdict in result.verdicts}
    return {
        "at": now(),
        "weights_hash": result.weights_hash,
        "figures": found.figures() if found else {},
        "broken": result.broken,
        "rounds": result.rounds,
        "seconds": result.seconds,
        "facts": [
            {
                "id": o.fact.id, "statement": o.fact.statement, "effective": o.effective, "phrasings": o.phrasings,
                "asked": {query: o.said[query] for query in o.checks.asked}, "changed": {query: [o.before[query], o.now[query]] for query in o.changed},
            }
            for o in (found.outcomes if found else ())
        ],
        "flipped": {query: list(found.neighbours[query]) for query in found.flipped} if found else {},
        "dropped": [{"id": each, "statement": statements[each], "reason": why} for each, why in result.dropped.items()],
        "waiting": [{"id": v.fact.id, "statement": v.fact.statement, "reason": v.reason} for v in result.verdicts if not v.eligible],
        "probes": []
        if found is None
        else [{"query": p.query, "wanted": p.answer, "before": found.before.probes[p.query], "after": found.after.probes[p.query]} for p in found.probes],
    }  # fmt: skip


def files(result: Result) -> dict[str, bytes]:
    """The report's files by name."""
    about = numbers(result)
    return {PAGE: page(about).encode(), NUMBERS: (json.dumps(about, ensure_ascii=False, indent=1) + "\n").encode()}


def write_refused(memory: HybridMemory, result: Result) -> None:
    """Keep the report of a candidate that did not go live; the last one only."""
    folder = memory.generations.folder / "refused"
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files(result).items():
        (folder / name).write_bytes(data)


def scrub(folder: Path, facts: Sequence[Fact]) -> None:
    """Take facts that are forgotten out of the report of a generation that does not hold them: that they were refused, or waited, and where others' reasons quote them."""
    try:
        about = json.loads((folder / NUMBERS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    gone, quoted = {fact.id for fact in facts}, [fact.cloze for fact in facts]
    for part in ("dropped", "waiting"):
        about[part] = [entry for entry in about[part] if entry["id"] not in gone]
        for entry in about[part]:
            if any(text in entry["reason"] for text in quoted):
                entry["reason"] = FORGOTTEN_BESIDE
    for name, data in ((PAGE, page(about).encode()), (NUMBERS, (json.dumps(about, ensure_ascii=False, indent=1) + "\n").encode())):
        partial = folder / f"{name}.partial"
        partial.write_bytes(data)
        partial.replace(folder / name)


def page(about: dict[str, Any]) -> str:
    """The page; whatever comes from facts or the model is escaped."""
    verdict = f"<p class=no>Not live: {escape('; '.join(about['broken']))}.</p>" if about["broken"] else "<p class=yes>Within all limits.</p>"
    facts = [
        [f["statement"], "yes" if f["effective"] else "no", f"{sum(f['phrasings'])} of {len(f['phrasings'])}", _changes(f["changed"])] for f in about["facts"]
    ]
    parts = [
        f"<h1>Consolidation</h1><p>{escape(about['at'][:19])} UTC, weights <code>{escape(str(about['weights_hash'])[:16])}</code></p>{verdict}",
        _bars([(name.replace("_", " "), about["figures"][name]) for name in SHARES]) + _lines(about["rounds"]) if about["rounds"] else "",
        _table("Figures", ("figure", "value"), [[name, f"{value:.4f}"] for name, value in about["figures"].items()]),
        _table("Facts in the weights", ("fact", "own prompt", "other phrasings", "answers about its subject that changed"), facts),
        _table("Neighbours that changed", ("query", "before", "after"), [[query, *pair] for query, pair in about["flipped"].items()]),
        _table("Left the set, answered from memory", ("fact", "why"), [[d["statement"], d["reason"]] for d in about["dropped"]]),
        _table("Not taken up", ("fact", "why"), [[d["statement"], d["reason"]] for d in about["waiting"]]),
        _table(
            "Probes", ("query", "wanted", "before", "after"), [[p["query"], p["wanted"] or "(as before)", p["before"], p["after"]] for p in about["probes"]]
        ),
        _table("Seconds", ("step", "seconds"), [[step, f"{seconds:.2f}"] for step, seconds in about["seconds"].items()]),
    ]
    return f"<!doctype html><html lang=en><meta charset=utf-8><title>Consolidation</title><style>{STYLE}</style>{''.join(parts)}</html>\n"


def _bars(shares: Sequence[tuple[str, float]]) -> str:
    """Horizontal bars of shares, as a drawing within the page."""
    rows = "".join(
        f'<text x=140 y={30 + 26 * i} text-anchor=end>{escape(name)}</text><rect x=150 y={16 + 26 * i} width={320 * min(share, 1.2):.1f} height=18 fill="#47a"/>'
        f"<text x={156 + 320 * min(share, 1.2):.1f} y={30 + 26 * i}>{share:.1%}</text>"
        for i, (name, share) in enumerate(shares)
    )
    return f'<svg viewBox="0 0 620 {26 * len(shares) + 20}" width=620 role=img aria-label="shares with the memory off">{rows}</svg>'


def _lines(rounds: Sequence[dict[str, Any]]) -> str:
    """Facts and failing facts over the rounds."""
    most, step = max(1, *(r["facts"] for r in rounds)), 360 / max(1, len(rounds) - 1)
    drawn = []
    for name, colour in (("facts", "#47a"), ("failing", "#c67")):
        points = [(60 + step * i, 150 - 120 * r[name] / most, r[name]) for i, r in enumerate(rounds)]
        drawn.append(f'<polyline fill=none stroke="{colour}" stroke-width=2 points="{" ".join(f"{x:.1f},{y:.1f}" for x, y, _ in points)}"/>')
        drawn += [f'<circle cx={x:.1f} cy={y:.1f} r=4 fill="{colour}"/><text x={x:.1f} y={y - 8:.1f} text-anchor=middle>{n}</text>' for x, y, n in points]
        drawn.append(f'<text x={points[-1][0] + 14:.1f} y={points[-1][1] + 5:.1f} fill="{colour}">{name}</text>')
    labels = "".join(f"<text x={60 + step * i:.1f} y=175 text-anchor=middle>round {i + 1}</text>" for i in range(len(rounds)))
    return f'<svg viewBox="0 0 520 185" width=520 role=img aria-label="facts by round">{"".join(drawn)}{labels}</svg>'


def _changes(changed: dict[str, Sequence[str]]) -> str:
    return "; ".join(f"{query} {before} → {after}" for query, (before, after) in changed.items())


def _table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    rows = list(rows)
    if not rows:
        return ""
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}" for cell in row) for row in rows)
    return f"<h2>{escape(title)}</h2><table><tr>{''.join(f'<th>{escape(name)}' for name in head)}{body}</table>"
