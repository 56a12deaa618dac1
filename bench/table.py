"""Write the README's results from the committed JSON: `python bench/table.py` (`--check` only compares)."""

from __future__ import annotations

import json
import re
import sys
import tomllib
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
    errors = " and ".join(percent(each["calibration_error"]) for each in (known, unknown))
    head = (
        f"The router with {known['facts']:,} facts in memory, on relations, subjects and phrasings that the classifier never saw "
        f"(`python -m hybrid.scope.evaluate`), once with the lexicon that ships, which has trained phrasings of these relations, and once without them. Balanced "
        f"accuracy {percent(known['balanced'])} and {percent(unknown['balanced'])}; cosine with its best threshold on the same queries "
        f"{percent(known['cosine']['balanced'])}. Calibration error {errors} (goal 2%)."
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


ASKED = (
    "efficacy",
    "generalization",
    "Subject_Aliasing",
    "4_hops",
    "hopwise",
    "neighborhood",
    "same_subj",
    "Relation_Specificity",
    "Forgetfulness",
    "distractor",
    "unrelated",
)
RIVALS = ("hybrid", "counterfactual", "ike", "rag", "cosine", "serac")
"""Methods with a memory, in the order of the table; the editors follow."""


def evaluations() -> str:
    """`hybrid eval` on public formats, whatever results there are: a table for each file, with all its methods."""
    files: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(RESULTS.glob("eval-*.json")):
        result = load(path.name)
        files.setdefault(Path(result["settings"]["file"]).stem, []).append(result)
    head = (
        "`hybrid eval`, free generation, all edits of a file loaded together (`--seed 7`); efficacy, generalization and Subject_Aliasing count answers that give the "
        "new target, the others answers identical to those without memory. `ike` and `rag` put facts before every query, whatever it asks; where there are 200 records, "
        "they are among the 400. KnowEdit files hold several "
        "edits of one subject that contradict each other, and queries for the edited fact itself among those that should not change. MQuAKE's unedited hops are given "
        "as facts. `natural` (`bench/natural.json`, in the format `cf-hard`) is the project's own: 140 facts of many relations, each with three queries about it, two about "
        "other subjects and three about something else of its subject, written apart from what the classifier is trained on; "
        "`claims` (`bench/claims.json`, in the format `fever`), too: 120 statements, the first half of which are edits, with claims and questions that they answer with yes or no."
    )
    current = load("editors.json")["model"]["weights_hash"][:12]
    old = sorted({r["method"].partition(",")[0] for results in files.values() for r in results if current not in r["settings"]["model"]})
    head += f" Rows of {', '.join(f'`{name}`' for name in old)} are of pocket before its last training." if old else ""
    return "\n\n".join([head, *(evaluated(name, results) for name, results in sorted(files.items()))])


def evaluated(file: str, results: list[dict[str, Any]]) -> str:
    """The table of one file: the memory first, then its rivals, then the editors; columns that no method has are left out."""

    def place(result: dict[str, Any]) -> tuple[bool, int, str, int]:
        method = result["method"].partition(",")[0]
        return method not in RIVALS, RIVALS.index(method) if method in RIVALS else 0, method, int(result["settings"]["loads"] or 0)

    found = [r["scores"] | {name: row.get("locality", row.get("portability")) for name, row in r["slices"].items()} for r in sorted(results, key=place)]
    columns = [name for name in ASKED if any(scores.get(name) is not None for scores in found)]
    lines = [f"| {file} | records | {' | '.join(name.replace('_', ' ') for name in columns)} |", f"|---|{'---|' * (len(columns) + 1)}"]
    for result, scores in zip(sorted(results, key=place), found, strict=True):
        loads = result["settings"]["loads"]
        about = result["method"].partition(",")[0] + (f", {int(loads):,} further facts" if loads else "")
        cells = [percent(scores[name]) if scores.get(name) is not None else "" for name in columns]
        lines.append(f"| {about} | {result['records']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def insert() -> str:
    """Inserts."""
    result = load("insert.json")
    return (
        f"`add-fact` on a warm process takes {result['beyond_embedding_ms_median']} ms beyond the embedding ({result['embedding_ms_median']} ms); bulk import stores "
        f"{result['bulk_facts_per_second']:.0f} facts a second where the embedder alone does {result['embedder_alone_per_second']:.0f} (`bench/insert.py`, "
        f"{result['machine']})."
    )


MODES = {"single": "one by one", "batch": "in one batch", "sequential": "one after another"}
KINDS = ("efficacy", "phrasings", "questions", "held-out questions", "neighbours", "same-subject")


def editors() -> str:
    """Every editing method on pocket."""
    result = load("editors.json")
    texts = []
    for cases, about in (("own", "facts that pocket knows, given another target"), ("counterfact", "CounterFact records")):
        for mode, how in MODES.items():
            rows = [row for row in result["rows"] if (row["cases"], row.get("mode")) == (cases, mode)]
            if rows:
                kinds = [kind for kind in KINDS if any(kind in row for row in rows)]
                head = f"| {about}, {how} | facts | {' | '.join(kinds)} | perplexity | seconds a fact | peak MB |\n|---|{'---|' * (len(kinds) + 4)}"
                texts.append("\n".join([head, *(editor(row, kinds) for row in rows)]))
    head = (
        "The editing methods on pocket, each with its settings for it, by free generation (`bench/editors.py`): the share of answers that are the new target, of "
        "neighbours (same relation, other subjects) and of other attributes of the edited subjects whose answer stays the same to the letter, and the change of "
        f"perplexity on texts about other things. Of edits {MODES['sequential']} all facts are asked after the last. Seconds are of one thread's processor time; memory "
        "is what the edits need above the loaded model." + (f" Rows with a star: {result['note']}." if "note" in result else "")
    )
    return "\n\n".join([head, *texts, "![Efficacy and neighbours of the editing methods](bench/results/editors.png)", notes()])


def editor(row: dict[str, Any], kinds: list[str]) -> str:
    """A line of the table; what was not measured is empty."""
    drift = f"{100 * row['perplexity drift']:+.1f}%".replace("-0.0%", "+0.0%") if "perplexity drift" in row else ""
    shares = " | ".join(percent(row[kind]) if kind in row else "" for kind in kinds)
    seconds = f"{row['seconds a fact']:.2f}{' and the values' if 'values' in row else ''}"
    name = row["method"] + ("\\*" if "earlier" in row else "")
    return f"| {name} | {row['facts']} | {shares} | {drift} | {seconds} | {row.get('peak MB', '')} |"


def notes() -> str:
    """Where the figures come from that are not what a method's paper says it is good for."""
    return "\n".join(f"- {note}" for note in tomllib.loads((RESULTS / "editors.toml").read_text(encoding="utf-8"))["notes"])


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Efficacy against neighbours, of batches and of sequences."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    names = list(dict.fromkeys(row["method"] for row in rows if row.get("mode") in MODES))
    for axes, mode in zip(figure.subplots(1, 2), ("batch", "sequential"), strict=True):
        for row in rows:
            if (row["cases"], row.get("mode")) == ("own", mode):
                number = names.index(row["method"])
                label = f"{row['method']} ({row['facts']})"
                axes.plot(row["neighbours"], row["efficacy"], "os^DvP*X"[number % 8], color=f"C{number % 10}", label=label, alpha=0.8, markersize=8)
        axes.set(title=MODES[mode], xlabel="neighbours that keep their answer", ylabel="efficacy", xlim=(-0.05, 1.05), ylim=(-0.05, 1.05))
        axes.grid(alpha=0.3)
        axes.legend(title="method (facts)", fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=110, metadata={"Software": None})


def shapes() -> str:
    """ROME and MEMIT on models of real shapes, and what deciding adds to their answers."""
    result = load("shapes.json")
    head = (
        f"ROME and MEMIT on models of real shapes with random weights (`bench/shapes.py`, {result['cases'][0]['device']}); the peak includes the "
        "loaded weights, which are bit-identical after each edit. Seconds are of the clock, and of few facts, which bear alone what is done once an edit (context prefixes, "
        "a solve a layer). Statistics are of a short text, and measured once a model."
    )
    lines = ["| model | parameters | method | facts | seconds | seconds a fact | peak GB | statistics, seconds |", "|---|---|---|---|---|---|---|---|"]
    for row in result["cases"]:
        edit, moments = row["edit"], row["statistics"]
        lines.append(
            f"| {row['case']} | {row['parameters'] / 1e6:,.0f}M | {row['method']} | {row['facts']} | {edit['seconds']:.0f} | {edit['seconds_per_fact']:.1f} | "
            f"{edit['peak_mib'] * 2**20 / 1e9:.1f} | {moments['seconds']:.0f} ({moments['tokens']:,} tokens, {moments['layers']} layers) |"
        )
    return "\n\n".join([head, "\n".join(lines), *(decided(case, row) for case, row in result["routing"].items())])


def decided(case: str, row: dict[str, Any]) -> str:
    """What an answer costs more where no fact governs."""
    kinds = {"unrelated": "a query about something else", "neighbours": "one about a neighbour"}
    parts = [f"{row[kind]['route_ms']:.0f} ms ({percent(row[kind]['share_of_answer'])}) for {about}" for kind, about in kinds.items()]
    return (
        f"Deciding, with {row['facts']:,} facts in the store, that none governs takes {' and '.join(parts)}; in brackets the share of an answer of "
        f"{row['answer_tokens']} tokens by {case}, which takes {row['answer_ms'] / 1000:.1f} s (goal 5%)."
    )


RULED = {
    "rules": "eight rules, with counterexamples",
    "rules_without_counterexamples": "the same without counterexamples",
    "suppression": "ten suppressed subjects",
    "never": "thirty cities that are never to be said",
    "steering": "a steering vector with a scope",
}


def behaviour() -> str:
    """Rules and steering on both sides."""
    result = load("behaviour.json")
    rows = []
    for name, told in RULED.items():
        part = result[name].get("scoped", result[name])
        inside, outside = part["in_scope"], part["changed"]
        rows.append(f"| {told} | {percent(inside['share'])} of {inside['prompts']} | {percent(outside['share'])} of {outside['prompts']} |")
    head = (
        "Behaviour on pocket (`python bench/behaviour.py`), on held-out prompts: obeyed in scope "
        f"(goal {percent(result['goals']['in_scope'])}), answers changed out of scope (goal: at most {percent(result['goals']['changed'])}):"
    )
    return "\n".join([head, "", "| | obeyed in scope | changed out of scope |", "|---|---|---|", *rows])


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
    body = "\n\n".join(
        [pocket(), scope(), rephrase(), evaluations(), insert(), editors(), behaviour(), speed(), *([shapes()] if (RESULTS / "shapes.json").exists() else [])]
    )
    new = MARK.sub(lambda match: f"{match[1]}{body}\n{match[2]}", old)
    if check:
        sys.exit(old != new)
    readme.write_text(new, encoding="utf-8")
    plot(load("editors.json")["rows"], RESULTS / "editors.png")


if __name__ == "__main__":
    main()
