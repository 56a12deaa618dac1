"""Several results side by side: a table for the terminal, plots, and a page that holds both."""

from __future__ import annotations

import html
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stores.errors import FormatError

Row = dict[str, Any]
NEEDED = {"method", "model", "records", "settings", "scores", "slices", "routing", "timings"}
ALIKE = ("format", "file_hash", "limit", "seed", "loads", "model", "max_new_tokens", "mode")
"""Settings in which results ought to agree before they are compared."""
COLORS = ("#2f6f9f", "#c8553d", "#588157", "#8a5a9e", "#b08900", "#5b6770", "#00808a", "#a23b5f")


def read(path: Path) -> Row:
    """A result that `hybrid eval --out` wrote.

    Raises:
        FormatError: if it is none.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FormatError(f"{path} is not JSON ({error}); give files that `hybrid eval ... --out` wrote") from error
    if not isinstance(found, dict) or not found.keys() >= NEEDED:
        missing = sorted(NEEDED - (found.keys() if isinstance(found, dict) else set()))
        raise FormatError(f"{path} is no result of `hybrid eval`: it lacks {', '.join(missing)}")
    return found


def labels(results: Sequence[Row]) -> list[str]:
    """A name for each result: the method, with what sets it apart."""
    names = [r["method"] + ("" if r["settings"].get("mode", "batch") == "batch" else f" ({r['settings']['mode']})") for r in results]
    return [name if names.count(name) == 1 else f"{name} #{names[: at + 1].count(name)}" for at, name in enumerate(names)]


def differences(results: Sequence[Row]) -> list[str]:
    """In what the results are not alike though they are compared."""
    found = []
    for name in ALIKE:
        values = [json.dumps(r["settings"].get(name)) for r in results]
        if len(set(values)) > 1:
            found.append(f"{name}: " + ", ".join(f"{label} {value}" for label, value in zip(labels(results), values, strict=True)))
    return found


def columns(results: Sequence[Row], part: str = "scores") -> list[str]:
    """The names of all scores, in the order in which they first occur."""
    return list(dict.fromkeys(name for r in results for name in r[part] if not name.endswith("_ci")))


def shown(scores: Row, name: str) -> str:
    """A score with its interval, as percent; fluency as it is."""
    if scores.get(name) is None:
        return "-"
    scale = 1 if name == "fluency" else 100
    value, interval = scale * scores[name], scores.get(f"{name}_ci")
    return f"{value:.1f}" + (f" [{scale * interval[0]:.1f} {scale * interval[1]:.1f}]" if interval else "")


def grid(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells with their columns aligned; the first is the head."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def score_rows(results: Sequence[Row]) -> list[list[str]]:
    """The table of scores."""
    names = columns(results)
    head = ["method", "records", *names, "ms/query", "seconds"]
    body = [
        [label, str(r["records"]), *(shown(r["scores"], name) for name in names), f"{r['timings']['ms_per_query']:.1f}", f"{r['timings']['seconds']:.0f}"]
        for label, r in zip(labels(results), results, strict=True)
    ]
    return [head, *body]


def slice_rows(results: Sequence[Row]) -> list[list[str]]:
    """The table of slices: every score of every slice."""
    rows = [["slice", "score", "queries", *labels(results)]]
    for name in columns(results, "slices"):
        entries = [r["slices"].get(name, {}) for r in results]
        for score in dict.fromkeys(key for e in entries for key in e if not key.endswith("_ci") and key not in ("total", "fired", "right_fact")):
            total = next(str(e["total"]) for e in entries if e)
            rows.append([name, score, total, *(shown(e, score) for e in entries)])
    return rows


def routing_rows(results: Sequence[Row]) -> list[list[str]]:
    """The table of what fired."""
    rows = [["queries", "asked", *(f"{label}: {what}" for label in labels(results) for what in ("fired", "right fact"))]]
    for place in dict.fromkeys(place for r in results for place in r["routing"]):
        entries = [r["routing"].get(place, {}) for r in results]
        total = next(e["total"] for e in entries if e)
        cells = [f"{100 * e[what] / e['total']:.1f}" if e.get(what) is not None else "-" for e in entries for what in ("fired", "right_fact")]
        rows.append([place, str(total), *cells])
    return rows


def summary(result: Row) -> str:
    """One result for people: scores, slices, routing, in percent with 95% intervals."""
    made = result["settings"]
    facts = f"{made.get('facts')} facts" + (" and one record's at a time" if made.get("mode") == "single" else "")
    head = f"{result['method']} on {made.get('file')} ({result['records']} records, {facts}, model {result['model']}); percent, with 95% intervals"
    scores = grid([["score", "value"], *([name, shown(result["scores"], name)] for name in columns([result]))])
    parts = [head, scores]
    parts += [grid(rows) for rows in (slice_rows([result]), routing_rows([result])) if len(rows) > 1]
    odd = [
        f"{made[name]} {name.replace('_', ' ')}"
        for name in ("superseded", "refused", "overlong", "invalid", "unanswerable", "guessed_subjects")
        if made.get(name)
    ]
    time = result["timings"]
    parts.append(f"{time['seconds']:.1f} s; {time['ms_per_query']:.1f} ms a query ({time['route_ms']:.1f} routing)" + (f"; {', '.join(odd)}" if odd else ""))
    return "\n\n".join(parts)


def table(results: Sequence[Row]) -> str:
    """The comparison for the terminal."""
    return "\n\n".join(grid(rows) for rows in (score_rows(results), slice_rows(results), routing_rows(results)) if len(rows) > 1)


# -- pictures --------------------------------------------------------------------------------


def report(results: Sequence[Row], folder: Path) -> list[Path]:
    """Plots and a page into a folder; returns what was written."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [name for name in columns(results) if name != "fluency"]
    written = [_bars(results, "scores", names, [r["scores"] for r in results], folder / "scores.png")]
    local = [name for name in columns(results, "slices") if any("locality" in r["slices"].get(name, {}) for r in results)]
    if local:
        entries = [
            {key: r["slices"].get(name, {}).get("locality" + end) for name in local for key, end in ((name, ""), (f"{name}_ci", "_ci"))} for r in results
        ]
        written.append(_bars(results, "answers identical to the unedited model's", local, entries, folder / "locality.png"))
    places = [row[0] for row in routing_rows(results)[1:]]
    if places and any(e["fired"] is not None for r in results for e in r["routing"].values()):
        fired = [{p: e["fired"] / e["total"] for p, e in r["routing"].items() if e["fired"] is not None} for r in results]
        written.append(_bars(results, "queries for which a fact fires", places, fired, folder / "routing.png"))
    return [*written, _page(results, written, folder / "index.html")]


def _bars(results: Sequence[Row], title: str, names: Sequence[str], values: Sequence[Row], path: Path) -> Path:
    """Grouped bars in percent, with intervals where there are some."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(6.0, 0.9 + 0.28 * len(names) * (len(results) + 1)), 4.2), layout="constrained")
    axes = figure.subplots()
    width = 0.85 / len(results)
    for at, (label, found) in enumerate(zip(labels(results), values, strict=True)):
        here = [(x, name) for x, name in enumerate(names) if found.get(name) is not None]
        heights = [100 * found[name] for _, name in here]
        ends = [found.get(f"{name}_ci") or [found[name]] * 2 for _, name in here]
        errors = [
            [max(0.0, h - 100 * low) for h, (low, _) in zip(heights, ends, strict=True)],
            [max(0.0, 100 * high - h) for h, (_, high) in zip(heights, ends, strict=True)],
        ]
        spots = [x + (at - (len(results) - 1) / 2) * width for x, _ in here]
        axes.bar(spots, heights, width, label=label, color=COLORS[at % len(COLORS)], yerr=errors, error_kw={"linewidth": 0.8, "capsize": 2})
    axes.set_xticks(range(len(names)), [name.replace("_", " ") for name in names], rotation=20, ha="right", parse_math=False)
    axes.set_ylim(0, 105)
    axes.set_ylabel("%")
    axes.set_title(title)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False)
    with warnings.catch_warnings():  # names in alphabets that the font lacks
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(path, format="png", dpi=130)
    return path


def _page(results: Sequence[Row], pictures: Sequence[Path], path: Path) -> Path:
    """A page with the tables, the pictures and the settings."""

    def rows(cells: Sequence[Sequence[str]]) -> str:
        head, *body = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in cells]
        return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(f'<tr>{row}</tr>' for row in body)}</tbody></table>"

    style = "body{font:15px system-ui;margin:2em auto;max-width:75em;padding:0 1em}table{border-collapse:collapse;margin:1em 0}td{border:1px solid #ccc;padding:.25em .6em}thead{background:#eee}img{max-width:100%}pre{white-space:pre-wrap;font-size:12px}"
    warning = "".join(f"<p><b>Not alike:</b> {html.escape(line)}</p>" for line in differences(results))
    tables = "".join(rows(cells) for cells in (score_rows(results), slice_rows(results), routing_rows(results)) if len(cells) > 1)
    shots = "".join(f'<p><img src="{html.escape(p.name)}" alt="{html.escape(p.stem)}"></p>' for p in pictures)
    settings = "".join(
        f"<h3>{html.escape(label)}</h3><pre>{html.escape(json.dumps(r['settings'], ensure_ascii=False))}</pre>"
        for label, r in zip(labels(results), results, strict=True)
    )
    body = f"<h1>Comparison</h1><p>Percent, with 95% intervals from a bootstrap over records; fluency in hundredths of a bit.</p>{warning}{shots}{tables}<h2>Settings</h2>{settings}"
    path.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Comparison</title><style>{style}</style><body>{body}</body></html>\n', encoding="utf-8"
    )
    return path
