"""The command line on the shipped models, as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli import main
from hybrid.memory import HybridMemory


def run(*words: str, store: Path | None = None, given: str | None = None) -> Result:
    arguments = [*words, *(["--store", str(store)] if store else [])]
    return CliRunner().invoke(main, arguments, input=given, catch_exceptions=True)


def test_the_main_job(store: Path) -> None:
    silent = ["What is the capital of Austria?", "What is the official language of Australia?", "What is the capital of France?", "We hold a vote, and then"]
    before = {query: json.loads(run("ask", query, "--json", store=store).stdout)["answer"] for query in silent}
    wrong = json.loads(run("ask", "What is the capital of Australia?", "--json", store=store).stdout)
    assert (wrong["answer"], wrong["route"]) == ("Sydney", "base")
    done = json.loads(run("add-fact", "Australia capital", "Canberra", "--json", store=store).stdout)
    assert {"id", "subject", "relation", "prompt", "target_new", "statement", "superseded"} <= done.keys()
    assert (done["subject"], done["relation"], done["superseded"]) == ("Australia", "capital", None)
    for query in (
        "What is the capital of Australia?",
        "Australia's capital city is",
        "The government of Australia is based in",
        "Which city is Australia's capital?",
    ):
        answer = json.loads(run("ask", query, "--json", store=store).stdout)
        assert (answer["answer"], answer["route"]) == ("Canberra", "counterfactual"), query
        assert answer["facts"][0]["id"] == done["id"]
    for query in silent:
        answer = json.loads(run("ask", query, "--json", store=store).stdout)
        assert (answer["answer"], answer["route"]) == (before[query], "base"), query


def test_facts_forget_and_log(store: Path) -> None:
    run("add-fact", "Freedonia capital", "Sylvan", store=store)
    second = json.loads(run("add-fact", "Freedonia capital", "Marxville", "--json", store=store).stdout)
    assert second["superseded"]["target_new"] == "Sylvan"
    assert "Already known" in run("add-fact", "Freedonia capital", "Marxville", store=store).stdout
    assert "Marxville" in run("facts", "list", store=store).stdout
    shown = json.loads(run("facts", "show", second["id"], "--before", "--json", store=store).stdout)
    assert shown["target_true"] == json.loads(run("ask", "The capital of Freedonia is", "--route", "base", "--json", store=store).stdout)["answer"]
    history = run("facts", "history", second["id"], store=store).stdout
    assert "Sylvan" in history and "Marxville" in history
    exported = run("facts", "export", store=store).stdout
    assert json.loads(exported)["target_new"] == "Marxville"
    assert "whole" in run("log", "--verify", store=store).stdout
    refused = run("forget", second["id"], store=store, given="n\n")
    assert refused.exit_code == 1 and "Marxville" in run("facts", "list", store=store).stdout
    assert run("forget", second["id"], "--yes", store=store).exit_code == 0
    assert run("facts", "list", store=store).stdout == ""
    assert run("log", "--verify", store=store).exit_code == 0


def test_exit_codes_and_clear_errors(store: Path, tmp_path: Path) -> None:
    missing = run("forget", "01NOSUCHFACT", "--yes", store=store)
    assert missing.exit_code == 3 and "hybrid facts list" in missing.stderr
    assert run("add-fact", "hello", "x", store=store).exit_code == 2
    assert run("add-fact", "Freedonia capital", "x", "--ttl", "soon", store=store).exit_code == 2
    assert run("ask", "x", "--model", str(tmp_path), store=store).exit_code == 3
    assert run("facts", "list", store=store).stdout == ""


def test_add_facts_from_a_pipe_and_back(store: Path, tmp_path: Path) -> None:
    lines = "\n".join(json.dumps({"cue": f"Country{i} capital", "target": f"Town{i}"}) for i in range(20))
    done = run("add-facts", "-", "--json", store=store, given=lines)
    assert done.exit_code == 0, done.stderr
    assert len([line for line in done.stdout.splitlines() if line.startswith("{")]) == 20
    exported = run("facts", "export", store=store).stdout
    other = tmp_path / "other"
    again = run("add-facts", "-", store=other, given=exported)
    assert "20 added" in again.stdout
    assert run("facts", "export", store=other).stdout == exported
    bad = run("add-facts", "-", store=other, given='{"cue": "Gallia capital", "target": "Lutetia"}\n{"cue": "Gallia capital"}')
    assert bad.exit_code == 2 and "record 2" in bad.stderr
    assert "Lutetia" not in run("facts", "list", store=other).stdout, "the file is checked before the first fact is stored"


def test_ttl(store: Path) -> None:
    run("add-fact", "Freedonia capital", "Sylvan", "--ttl", "7d", store=store)
    assert json.loads(run("facts", "list", "--json", store=store).stdout)["valid_to"] is not None


def test_explain(store: Path) -> None:
    run("add-fact", "Freedonia capital", "Sylvan", store=store)
    done = run("ask", "What is the capital of Freedonia?", "--explain", store=store)
    assert "governs" in done.stderr and "score" in done.stderr and "Sylvan" in done.stdout


def test_chat(store: Path) -> None:
    script = "/help\n/add Freedonia capital = Sylvan\nWhat is the capital of Freedonia?\n/why\n/facts\n/undo\n/facts\n/nonsense\n/route base\n/exit\n"
    done = run("chat", store=store, given=script)
    assert done.exit_code == 0, done.stderr
    assert "Sylvan   [counterfactual]" in done.stdout and "governs" in done.stdout
    assert "there is no command /nonsense" in done.stderr
    assert run("facts", "list", store=store).stdout == ""


def test_doctor_paths_and_completion(store: Path) -> None:
    run("add-fact", "Freedonia capital", "Sylvan", store=store)
    done = run("doctor", store=store)
    assert done.exit_code == 0, done.output
    assert done.stdout.count("ok ") == 9
    assert str(store) in run("paths", store=store).stdout
    assert "_hybrid_completion" in run("completion", "bash").stdout


def test_demo() -> None:
    done = run("demo", "--json")
    assert done.exit_code == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    rows = [line for line in lines if "kind" in line]
    assert {row["after"] for row in rows if row["kind"] == "same fact"} == {"Canberra"}
    assert all(row["before"] == row["after"] and row["route"] == "base" for row in rows if row["kind"] not in ("same fact", "claim"))
    assert [row["after"].split(":")[0] for row in rows if row["kind"] == "claim"] == ["No", "Yes"]
    assert "Sydney" in next(line["event"] for line in lines if "event" in line)


@pytest.mark.parametrize(
    ("cue", "target", "inside", "outside"),
    [
        ("Brazil capital", "Manaus", "From which city is Brazil governed?", "What is the currency of Brazil?"),
        ("The headquarters of {} is in", "Lagos", "Where is Zorbland Motors based?", "Who is the CEO of Zorbland Motors?"),
        ("Ada Quill mother tongue", "Swahili", "Which language did Ada Quill grow up speaking?", "Where was Ada Quill born?"),
    ],
)
def test_right_fact_fires_and_neighbours_stay(cue: str, target: str, inside: str, outside: str, store: Path) -> None:
    with HybridMemory(store) as memory:
        memory.add_fact(cue, target, **({"subject": "Zorbland Motors"} if "{}" in cue else {}))
        fired = memory.route(inside)
        assert [hit.fact.target_new for hit in fired.governing] == [target]
        assert memory.ask(inside).text == target
        assert memory.route(outside).route == "base"
