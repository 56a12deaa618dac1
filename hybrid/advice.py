"""Which editor suits one fact, a batch, a stream: read from measured tables, and honest about what they do not say.

Tables are those of `bench/editors.py` or results of `hybrid eval --method EDITOR --out FILE`; pocket's ships. After a new
measurement of pocket, `python -m hybrid.advice bench/results/editors.json` puts it in place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import harmonic_mean
from typing import Any

import click

from stores.errors import FormatError
from stores.records import Identity

SHIPPED = Path(__file__).parent / "editors" / "measured.json"
WORKLOADS = {"single": "one fact", "batch": "a batch", "sequential": "a stream"}
"""What tables call a mode, and what people do."""
SAME_MODE = {"single": "single", "batch": "batch", "sequential": "sequential", "sequence": "sequential", "stream": "sequential"}
MEASURES = {"efficacy": "efficacy", "phrasings": "phrasing", "questions": "phrasing", "held-out questions": "phrasing", "generalization": "phrasing",
            "neighbours": "locality", "locality": "locality"}  # fmt: skip
HARMLESS = 0.75
"""Share of neighbours, and of the likelihood of other text, that a method has to keep to be advised before those that do not."""
GOOD = 0.6
"""A score from which a method can be relied on for a workload."""
CLOSE = 0.03
"""Scores within this of the best are not told apart, and neither are those that so few facts could not separate."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One method under one workload; shares from 0 to 1."""

    method: str
    mode: str
    facts: int
    efficacy: float
    phrasing: float
    locality: float
    text: float | None = None
    """Perplexity of other text before, divided by that after, at most 1."""
    seconds: float | None = None
    """A fact."""

    @property
    def harmless(self) -> bool:
        """Whether most of what was not edited stays as it was."""
        return min(self.locality, 1.0 if self.text is None else self.text) >= HARMLESS

    @property
    def score(self) -> float:
        """Harmonic mean of what was measured: a method is as good as its weakest side."""
        return harmonic_mean([max(0.0, value) for value in (self.efficacy, self.phrasing, self.locality, self.text) if value is not None])


@dataclass(frozen=True)
class Table:
    """Rows, and the model that they were measured on, as far as the file tells."""

    source: str
    model: str | None
    weights: str | None
    """Hash of its weights, or the beginning of it."""
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Advice:
    """What is advised for one workload; `best` is None if nothing was measured."""

    workload: str
    best: Row | None
    alike: tuple[Row, ...] = ()
    """Others that the measurement does not separate from it."""
    fastest: Row | None = None
    """Of these and the best, if it is another than the best and takes half the time at most."""
    longer: Row | None = None
    """The best of those that were measured with twice as many facts or more, if the damage of each adds up with the next."""
    others: tuple[Row, ...] = field(default=(), repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return {
            "workload": self.workload, "method": self.best and self.best.method, "alike": [row.method for row in self.alike],
            "fastest": self.fastest and self.fastest.method, "longer": self.longer and self.longer.method,
            "rows": [asdict(row) | {"score": round(row.score, 4)} for row in (*([self.best] if self.best else []), *self.alike, *self.others)],
        }  # fmt: skip


def read(path: Path) -> Table:
    """A table of `bench/editors.py`, or one result of `hybrid eval`.

    Raises:
        FormatError: if it is neither.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if "scores" in found:
            return _evaluated(found, path)
        model = found.get("model") or {}
        return Table(found.get("source") or str(path), model.get("name"), model.get("weights_hash"), tuple(_measured(found["rows"])))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"{path} is neither a table of bench/editors.py nor a result of `hybrid eval --out` ({type(error).__name__}: {error})") from error


def _measured(rows: Sequence[Mapping[str, Any]]) -> Iterable[Row]:
    cases = "own" if any(row["cases"] == "own" for row in rows) else rows[0]["cases"]
    for row in rows:
        mode = SAME_MODE.get(row.get("mode", ""))
        if row["cases"] != cases or mode is None:
            continue
        sides: dict[str, list[float]] = {"efficacy": [], "phrasing": [], "locality": []}
        for name, side in MEASURES.items():
            if name in row:
                sides[side].append(float(row[name]))
        means = {side: sum(values) / len(values) for side, values in sides.items()}
        drift = row.get("perplexity drift")
        text = None if drift is None else min(1.0, 1 / (1 + drift))
        yield Row(method=row["method"], mode=mode, facts=int(row["facts"]), text=text, seconds=None if "values" in row else row.get("seconds a fact"), **means)


def _evaluated(found: Mapping[str, Any], path: Path) -> Table:
    scores, settings = found["scores"], found["settings"]
    row = Row(
        method=found["method"], mode=SAME_MODE[settings.get("mode", "batch")], facts=int(found["records"]), efficacy=scores["efficacy"],
        phrasing=scores.get("generalization", scores["efficacy"]), locality=scores["locality"],
    )  # fmt: skip
    known = re.fullmatch(r"(.*) \(([0-9a-f]+)\)", str(settings.get("model", "")))
    return Table(str(path), found["model"], known[2] if known else None, (row,))


def advise(rows: Iterable[Row]) -> list[Advice]:
    """For each workload the method with the best score, of those that are harmless if there are, those that are as good for all that was measured, and the fastest of them."""
    made = []
    for mode, workload in WORKLOADS.items():
        ranked = sorted((row for row in rows if row.mode == mode), key=lambda row: (not row.harmless, -row.score, row.method))
        if not ranked:
            made.append(Advice(workload, None))
            continue
        best = ranked[0]
        alike = [
            row
            for row in ranked[1:]
            if row.harmless == best.harmless and row.score >= best.score - max(CLOSE, 1 / min(row.facts, best.facts)) and row.score > 0
        ]
        timed = [row for row in alike if row.seconds is not None and best.seconds is not None and row.seconds <= best.seconds / 2]
        fastest = min(timed, key=lambda row: (row.seconds, row.method), default=None)
        longer = next((row for row in ranked[1:] if mode != "single" and row.facts >= 2 * best.facts), None)
        made.append(Advice(workload, best, tuple(alike), fastest, longer, tuple(row for row in ranked[1:] if row not in alike)))
    return made


def whose(tables: Sequence[Table], model: Identity) -> tuple[bool, str]:
    """Whether all tables were measured on this model, and a sentence that says so or what to do."""
    notes, own = [], True
    for table in tables:
        same = bool(table.weights) and model.weights_hash.startswith(str(table.weights))
        own &= same
        if table.weights is None:
            notes.append(f"{table.source} does not say on which weights it was measured")
        elif not same:
            what = f"other weights of {table.model}" if table.model == model.name else f"another model, {table.model}"
            notes.append(f"{table.source} was measured on {what} ({table.weights[:12]}); this is {model}")
    if own:
        return True, f"Measured on this very model, {model}."
    mend = "Measure your own: `hybrid eval FILE --format ... --method memit --model ... --out memit.json` for each method, then --table memit.json --table ..."
    return False, f"{'; '.join(notes)}. What ranks first there need not do so here. {mend}"


@click.command()
@click.argument("result", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--model", "name", default="pocket", show_default=True, help="The model that RESULT was measured on, if it does not say.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), default=SHIPPED, show_default=True)
def main(result: Path, name: str, out: Path) -> None:
    """Put the table in RESULT into the package, with the hash of the weights: run it right after bench/editors.py."""
    from hybrid.model import LanguageModel

    found = json.loads(result.read_text(encoding="utf-8"))
    read(result)
    made = {"source": f"{result.parent.name}/{result.name}", "command": found.get("command"), "machine": found.get("machine")}
    made["model"] = found.get("model") or asdict(LanguageModel(name).identity)
    out.write_text(json.dumps(made | {"rows": found["rows"]}, indent=1) + "\n", encoding="utf-8")
    click.echo(f"{out}: {len(found['rows'])} rows, measured on {made['model']['name']}")


if __name__ == "__main__":
    main()
