"""Write the README's results from the committed JSON: `python bench/table.py` (`--check` only compares)."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results"
MARK = re.compile(r"(<!-- results -->\n).*?(<!-- /results -->)", re.DOTALL)


def load(name: str) -> dict[str, Any]:
    """A committed result."""
    found: dict[str, Any] = json.loads((RESULTS / name).read_text(encoding="utf-8"))
    return found


def percent(share: float) -> str:
    """A share as people read it."""
    return f"{100 * share:.1f}%"


def pocket() -> str:
    """The report card."""
    card = load("pocket.json")
    rows = [f"| {name} | {percent(row['share'])} | {percent(row['goal'])} | {'yes' if row['reached'] else '**no**'} |" for name, row in card["figures"].items()]
    head = f"Pocket's report card ({card['facts_taught']:,} facts, {card['relations']} relations; `python -m hybrid.pocket.report`):"
    return "\n".join([head, "", "| exact answers | measured | goal | reached |", "|---|---|---|---|", *rows])


def scope() -> str:
    """The router on what its classifier never saw."""
    result = load("scope.json")
    known, unknown = result["known"], result["unknown"]

    def share(row: dict[str, Any], inside: bool) -> float:
        return float(row["right_fact"] / row["total"] if inside else 1 - row["fired"] / row["total"])

    rows = []
    for kind, row in known["slices"].items():
        inside = kind in ("in_scope", "oblique", "alias")
        goal = {"in_scope": "95.0%", "oblique": "-", "alias": "-"}.get(kind, "97.0%")
        wanted = "right fact fires" if inside else "silent"
        other = percent(share(unknown["slices"][kind], inside))
        rows.append(f"| {kind.replace('_', ' ')} | {wanted} | {percent(share(row, inside))} | {other} | {goal} | {row['total']} |")
    head = (
        f"The router with {known['facts']:,} facts in memory, on relations, subjects and phrasings that the classifier never saw "
        f"(`python -m hybrid.scope.evaluate`), once with the lexicon that ships, which has trained phrasings of these relations, and once without them. Balanced "
        f"accuracy {percent(known['balanced'])} and {percent(unknown['balanced'])}; cosine with its best threshold on the same queries "
        f"{percent(known['cosine']['balanced'])}."
    )
    return "\n".join([head, "", "| queries | wanted | in the lexicon | not in it | goal | asked |", "|---|---|---|---|---|---|", *rows])


def rephrase() -> str:
    """Counterfactual facts in other people's words."""
    result = load("rephrase.json")
    return (
        f"{result['records']} CounterFact edits loaded together (`bench/rephrase.py`), asked in other people's words by free generation: "
        f"{percent(result['rephrase'])} get the new target (goal 85%); the right fact fires for {percent(result['rephrase_right_fact'])} and is then read "
        f"{percent(result['read_when_right_fact_fired'])} of the time. Neighbours' answers identical to those without memory: "
        f"{percent(result['locality'])} (goal 97%)."
    )


def insert() -> str:
    """Inserts."""
    result = load("insert.json")
    return (
        f"`add-fact` on a warm process takes {result['beyond_embedding_ms_median']} ms beyond the embedding ({result['embedding_ms_median']} ms); bulk import stores "
        f"{result['bulk_facts_per_second']:.0f} facts a second where the embedder alone does {result['embedder_alone_per_second']:.0f} (`bench/insert.py`, "
        f"{result['machine']})."
    )


def editors() -> str:
    """Every editor on pocket."""
    result = load("editors.json")
    plain = {row["cases"]: row for row in result["rows"] if row["method"] == "unedited"}
    texts = []
    for cases, about in (("own", "facts that pocket knows, given another target, in the project's phrasings"), ("counterfact", "CounterFact records")):
        rows = [row for row in result["rows"] if row["cases"] == cases]
        if not rows:
            continue
        kinds = [kind for kind in ("efficacy", "phrasings", "questions", "held-out questions", "neighbours") if any(kind in row for row in rows)]
        lines = [f"| {about} | facts | {' | '.join(kinds)} | perplexity | seconds |", f"|---|---|{'---|' * len(kinds)}---|---|"]
        for row in rows:
            drift = f"{100 * (row['perplexity'] / plain[cases]['perplexity'] - 1):+.1f}%" if "perplexity" in row and row["method"] != "unedited" else ""
            what = row["method"] + {"batch": ", one batch", "single": ", one by one"}.get(row.get("mode", ""), "")
            shares = " | ".join(percent(row[kind]) for kind in kinds)
            lines.append(f"| {what} | {row['facts']} | {shares} | {drift} | {row.get('seconds', '')} |")
        texts.append("\n".join(lines))
    head = (
        "The editors on pocket, each with its settings for it, by free generation (`bench/editors.py`): the share of answers that are the new target, of "
        "neighbours (same relation, other subjects) whose answer stays the same to the letter, and the change of perplexity on texts about other things. "
        "Seconds are those of the batch, or of one fact."
    )
    return "\n\n".join([head, *texts])


def speed() -> str:
    """MEMIT against the transcription of its equations."""
    result = load("speed.json")
    ours, plain = result["editor"], result["reference"]
    return (
        f"MEMIT of {ours['facts']} facts takes {ours['ms_per_fact']:.0f} ms a fact, a plain transcription of the papers' equations {plain['ms_per_fact']:.0f} ms: "
        f"{result['speedup']} times faster (goal 10). One more fact beside {ours['facts']} whose values are cached costs {percent(result['one_more_fact']['ratio'])} of "
        f"solving from scratch (`bench/speed.py`, {result['machine'].partition(', torch')[0]})."
    )


@click.command()
@click.option("--check", is_flag=True, help="Exit 1 if the README is not up to date.")
def main(check: bool) -> None:
    """Update the README's results."""
    readme = ROOT / "README.md"
    old = readme.read_text(encoding="utf-8")
    body = "\n\n".join([pocket(), scope(), rephrase(), insert(), editors(), speed()])
    new = MARK.sub(lambda match: f"{match[1]}{body}\n{match[2]}", old)
    if check:
        sys.exit(old != new)
    readme.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
