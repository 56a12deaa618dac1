"""Advice follows the table, says what it does not know, and knows whose table it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli import main
from hybrid.advice import SHIPPED, Row, advise, read, whose
from stores.errors import FormatError
from stores.records import Identity

ROOT = Path(__file__).parent.parent


def row(method: str, mode: str, share: float, **others: float) -> Row:
    return Row(**{"method": method, "mode": mode, "facts": 100, "efficacy": share, "phrasing": share, "locality": share} | others)  # type: ignore[arg-type]


def test_the_best_of_each_workload_and_its_weakest_side() -> None:
    rows = [
        row("even", "batch", 0.8),
        row("lopsided", "batch", 1.0, locality=0.3),
        row("ruinous", "batch", 1.0, text=0.2),
        row("quick", "single", 0.9, seconds=0.1),
    ]
    rows += [row("slow", "single", 0.91, seconds=5.0), row("poor", "single", 0.5, seconds=0.01)]
    single, batch, stream = advise(rows)
    assert batch.best is not None and batch.best.method == "even" and not batch.alike
    assert single.best is not None and (single.best.method, [each.method for each in single.alike]) == ("slow", ["quick"])
    assert single.fastest is not None and single.fastest.method == "quick"
    assert stream.best is None and stream.to_dict()["method"] is None
    harm = advise([row("ruin", "sequential", 0.9, locality=0.5), row("timid", "sequential", 1.0, phrasing=0.1)])[2]
    assert harm.best is not None and harm.best.method == "timid" and not harm.alike, "what spoils the neighbours comes last"
    few = advise([row("a", "single", 0.95, facts=10), row("b", "single", 0.87, facts=10), row("c", "single", 0.8, facts=10)])[0]
    assert [each.method for each in few.alike] == ["b"], "ten facts do not separate what a hundred do"


def test_the_shipped_table_is_the_committed_result() -> None:
    result = json.loads((ROOT / "bench" / "results" / "editors.json").read_text(encoding="utf-8"))
    shipped = json.loads(SHIPPED.read_text(encoding="utf-8"))
    assert shipped["rows"] == result["rows"], "run `python -m hybrid.advice bench/results/editors.json`"
    table = read(SHIPPED)
    memit = next(each for each in table.rows if (each.method, each.mode) == ("memit", "batch"))
    source = next(each for each in result["rows"] if (each["method"], each.get("mode"), each["cases"]) == ("memit", "batch", "own"))
    assert memit.efficacy == source["efficacy"] and memit.seconds == source["seconds a fact"]
    assert memit.phrasing == pytest.approx((source["phrasings"] + source["questions"] + source["held-out questions"]) / 3)


def test_a_short_stream_does_not_speak_for_a_long_one() -> None:
    def row(method: str, facts: int, efficacy: float) -> Row:
        return Row(method=method, mode="sequential", facts=facts, efficacy=efficacy, phrasing=efficacy, locality=0.99)

    stream = advise([row("memit", 20, 1.0), row("ft", 30, 0.9), row("grace", 200, 0.5), row("melo", 100, 0.4)])[2]
    assert stream.best == row("memit", 20, 1.0) and stream.longer == row("grace", 200, 0.5) and stream.to_dict()["longer"] == "grace"
    assert advise([row("memit", 20, 1.0), row("ft", 30, 0.9)])[2].longer is None


def test_whose_table_it_is(tmp_path: Path) -> None:
    table = read(SHIPPED)
    same = Identity("pocket", "shipped", str(table.weights))
    assert whose([table], same) == (True, f"Measured on this very model, {same}.")
    own, note = whose([table], Identity("pocket", "shipped", "f" * 64))
    assert not own and "other weights of pocket" in note
    own, note = whose([table], Identity("big", "local", "f" * 64))
    assert not own and "another model, pocket" in note and "hybrid eval" in note
    file = tmp_path / "memit.json"
    result = {"method": "memit", "model": "big", "records": 50, "settings": {"mode": "sequential", "model": "big (ffffffffffff)"}}
    file.write_text(json.dumps(result | {"scores": {"efficacy": 0.9, "generalization": 0.6, "locality": 0.8}}), encoding="utf-8")
    evaluated = read(file)
    assert whose([evaluated], Identity("big", "local", "f" * 64))[0] and not whose([evaluated, table], Identity("big", "local", "f" * 64))[0]
    stream = advise(evaluated.rows)[2]
    assert stream.best == Row(method="memit", mode="sequential", facts=50, efficacy=0.9, phrasing=0.6, locality=0.8)
    bare = tmp_path / "bare.json"
    bare.write_text(json.dumps({"rows": json.loads(SHIPPED.read_text(encoding="utf-8"))["rows"]}), encoding="utf-8")
    assert "does not say" in whose([read(bare)], same)[1]
    for text in ("[]", "{}", "x", '{"rows": [{"method": "x"}]}'):
        bare.write_text(text, encoding="utf-8")
        with pytest.raises(FormatError, match="hybrid eval"):
            read(bare)


def test_from_the_shell(causal_folder: Path) -> None:
    done = CliRunner().invoke(main, ["edit", "--advise", "--model", str(causal_folder)])
    assert done.exit_code == 0 and {"one fact", "a batch", "a stream"} <= {line[:10].strip() for line in done.stdout.splitlines()}
    assert "another model, pocket" in done.stderr
    made = json.loads(CliRunner().invoke(main, ["edit", "--advise", "--json"]).stdout)
    best = advise(read(SHIPPED).rows)[1].best
    assert best is not None and made["advice"][1]["method"] == best.method
    assert CliRunner().invoke(main, ["edit", "--advise", "--table", str(causal_folder / "config.json")]).exit_code == 2
