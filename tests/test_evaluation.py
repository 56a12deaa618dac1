"""`hybrid eval` end to end: pocket with the memory and its rivals, an editor on a small random model, interruption, comparison, mistakes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cli import main
from hybrid.answer import Decision
from hybrid.editors import locate_and_edit
from hybrid.evaluation import run as running
from hybrid.evaluation.journal import Journal
from hybrid.evaluation.loaders import load
from hybrid.evaluation.methods import METHODS, Memory
from hybrid.evaluation.run import Evaluation, Plan, invented
from hybrid.memory import HybridMemory
from hybrid.model import LanguageModel
from hybrid.statistics import collect
from stores.errors import Conflict
from stores.records import Hit
from tests.benchmark_files import FILES, write
from tests.conftest import ISLES, PORTS, save_causal

PNG = b"\x89PNG\r\n\x1a\n"
TRAIN = "--set layers=0,1,2 --set steps=30 --set lr=0.05".split()
FLAT = ("--format", "counterfact-flat", "--max-new-tokens", "12")
KEYS = {"method", "model", "records", "settings", "scores", "slices", "routing", "timings"}


def run(*words: str | Path) -> Result:
    done = CliRunner().invoke(main, ["eval", *map(str, words)])
    assert done.exception is None or isinstance(done.exception, SystemExit), f"a traceback, not a message: {done.exception!r}"
    return done


def measured(*words: str | Path) -> dict[str, Any]:
    done = run(*words, "--json")
    assert done.exit_code == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found.keys() == KEYS
    for name, value in found["scores"].items():
        if name.endswith("_ci"):
            assert value[0] <= found["scores"][name.removesuffix("_ci")] <= value[1], name
        elif name != "fluency":
            assert 0 <= value <= 1, name
    return found


def refused(code: int, message: str, *words: str | Path) -> None:
    done = run(*words)
    assert done.exit_code == code, done.output
    assert message in " ".join(done.stderr.split())
    assert done.stdout == ""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pocket on the same three records, by several methods."""
    folder = tmp_path_factory.mktemp("results")
    path = write(folder, "counterfact-flat")
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        some = running.unrelated_texts()[:8]
        patch.setattr(running, "unrelated_texts", lambda: some)
        for method, options in {
            "base": ["--no-extras"],
            "hybrid": [],
            "rag": ["--no-extras"],
            "cosine": ["--no-extras", "--loads", "5"],
            "counterfactual": ["--no-extras"],
            "serac": ["--no-extras"],
        }.items():
            found[method] = folder / f"{method}.json"
            measured(path, *FLAT, "--method", method, "--run", folder / method, "--out", found[method], *options)
    return found


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def test_the_model_alone_knows_no_edit_and_changes_nothing(results: dict[str, Path]) -> None:
    base = read(results["base"])
    assert base["scores"]["efficacy"] == 0.0 and base["scores"]["locality"] == 1.0
    assert base["routing"] == {"in_scope": {"total": 6, "fired": 0, "right_fact": 0}, "neighborhood": {"total": 3, "fired": 0, "right_fact": 0}}


def test_hybrid_on_pocket(results: dict[str, Path]) -> None:
    hybrid = read(results["hybrid"])
    assert hybrid["records"] == 3 and hybrid["settings"]["facts"] == 3 and hybrid["settings"]["superseded"] == 0
    assert hybrid["scores"]["efficacy"] >= 2 / 3 and hybrid["scores"]["ES"] >= 2 / 3
    assert hybrid["routing"]["in_scope"]["right_fact"] >= 4
    assert set(hybrid["slices"]) == {"neighborhood", "distractor", "unrelated"}
    assert hybrid["routing"]["unrelated"]["total"] == 8 and hybrid["routing"]["unrelated"]["fired"] <= 1
    assert hybrid["timings"]["ms_per_query"] > 0 and hybrid["timings"]["seconds"] > 0 and hybrid["timings"]["unedited_seconds"] > 0
    rows = [json.loads(line) for line in (results["hybrid"].parent / "hybrid" / "records.jsonl").read_text(encoding="utf-8").splitlines()]
    for probe in (probe for row in rows for probe in row["probes"]):
        assert probe["route"] == "counterfactual" or probe["same"], "an unrouted query is answered as without memory"


def test_rag_reads_facts_always(results: dict[str, Path]) -> None:
    rag = read(results["rag"])
    assert all(entry["fired"] == entry["total"] for entry in rag["routing"].values())
    assert rag["routing"]["in_scope"]["right_fact"] == 6


def test_cosine_lets_through_what_is_near(results: dict[str, Path]) -> None:
    cosine = read(results["cosine"])
    assert cosine["settings"]["threshold"] == 0.57 and cosine["settings"]["facts"] == 8, "three facts, and five that were loaded beside them"
    assert cosine["scores"]["efficacy"] >= 2 / 3


def test_the_counterfactual_model_reads_what_the_router_or_a_threshold_lets_through(results: dict[str, Path]) -> None:
    for method, by in (("counterfactual", "hybrid"), ("serac", "cosine")):
        found = read(results[method])
        assert found["scores"]["efficacy"] >= 2 / 3 and found["scores"]["ES"] >= 2 / 3, method
        assert found["settings"]["counterfactual_model"] == "shipped" and len(found["settings"]["counterfactual_hash"]) == 64
        assert found["routing"]["in_scope"]["right_fact"] >= read(results[by])["routing"]["in_scope"]["right_fact"] - 1
        rows = [json.loads(line) for line in (results[method].parent / method / "records.jsonl").read_text(encoding="utf-8").splitlines()]
        routes = {probe["route"] for row in rows for probe in row["probes"]}
        assert "counterfactual" in routes and routes <= {"base", "counterfactual"}
        assert all(probe["same"] for row in rows for probe in row["probes"] if probe["route"] == "base")


def test_what_the_small_reader_garbles_is_put_right_as_in_production(shared_memory: HybridMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    hybrid, rag = (Memory(name, shared_memory, "batch") for name in ("hybrid", "rag"))
    fact = shared_memory.ledger.facts()[0]
    read = Decision("counterfactual", (Hit(fact, 1.0, 1.0),))
    assert hybrid.put_right(fact.target_new[:-1] + "\ufffd", read) == fact.target_new == hybrid.put_right("", read)
    assert rag.put_right(fact.target_new[:-1], replace(read, route="ike")) == fact.target_new[:-1]


def test_rivals_choose_from_the_same_candidates(shared_memory: HybridMemory) -> None:
    near, far = "What is the capital of Australia?", "How do I fold a fitted sheet?"

    def fired(method: str, query: str, **settings: Any) -> int:
        return len(Memory(method, shared_memory, "batch", **settings).decide(query).governing)

    methods = ("base", "hybrid", "counterfactual", "ike", "rag", "cosine", "serac")
    assert [fired(method, near) for method in methods] == [0, 1, 1, 1, 1, 1, 1]
    assert [fired(method, far) for method in methods] == [0, 0, 0, 1, 1, 0, 0]
    assert fired("cosine", near, threshold=0.9999) == 0 and fired("cosine", far, threshold=0.0001) <= 1
    odd = {"named": 1.0, "variant": 0.0, "before": 0.0, "shared": 1.0, "known": 0.0, "guessed": 0.0}
    assert Memory("cosine", shared_memory, "batch", threshold=0.9).cosine.bar(odd) == 0.9, "its one threshold is for all facts"


def test_a_record_alone_leaves_the_store_as_it_was(tmp_path: Path) -> None:
    (record,) = load(write(tmp_path, "mquake"), "mquake").records
    twice = replace(record, requests=(*record.requests, replace(record.requests[0], target_new="Otto Brill")))
    with HybridMemory(tmp_path / "store") as memory:
        memory.add_fact("{} was founded by", "Ada Quist", subject="Brill & Daughters")
        before = [(fact.statement, fact.status) for fact in memory.ledger.facts()]
        method = Memory("hybrid", memory, "single")
        with method.only(twice):
            statements = {fact.statement: fact.id for fact in memory.ledger.facts()}
            assert set(statements) == {"Brill & Daughters was founded by Otto Brill", "Ines Varga was born in Quill"}
            assert method.governed(twice, 2) == {statements["Brill & Daughters was founded by Otto Brill"]}
        assert [(fact.statement, fact.status) for fact in memory.ledger.facts()] == before


def test_compare(tmp_path: Path, results: dict[str, Path]) -> None:
    done = run("compare", *results.values(), "--out", tmp_path / "report")
    assert done.exit_code == 0, done.stderr
    for word in ("base", "hybrid", "rag", "cosine", "efficacy", "locality", "neighborhood", "right fact"):
        assert word in done.stdout
    assert done.stderr.count("not alike") == 1 and 'loads: base null, hybrid null, rag null, cosine "5"' in done.stderr
    for name in ("scores.png", "locality.png", "routing.png"):
        assert (tmp_path / "report" / name).read_bytes().startswith(PNG)
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert "scores.png" in page and "<td>cosine</td>" in page

    other = read(results["base"])
    other["settings"]["limit"], other["settings"]["file"] = 2, "<b>.json"
    (tmp_path / "other.json").write_text(json.dumps(other), encoding="utf-8")
    done = run("compare", results["base"], tmp_path / "other.json", "--json", "--out", tmp_path / "second")
    assert "not alike: limit: base #1 null, base #2 2" in done.stderr and len(json.loads(done.stdout)) == 2
    assert "<b>.json" not in (tmp_path / "second" / "index.html").read_text(encoding="utf-8"), "names are data"
    (tmp_path / "wrong.json").write_text("{}", encoding="utf-8")
    refused(2, "is no result of `hybrid eval`", "compare", tmp_path / "wrong.json")


def test_an_interrupted_run_goes_on_to_the_same_result(tmp_path: Path, results: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "TOGETHER", 1)
    command = (write(tmp_path, "counterfact-flat"), *FLAT, "--method", "cosine", "--no-extras", "--loads", "5")
    whole = read(results["cosine"])

    plain, calls = Evaluation._group, list[int]()

    def interrupted(self: Evaluation, *given: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return plain(self, *given)

    monkeypatch.setattr(Evaluation, "_group", interrupted)
    done = run(*command, "--run", tmp_path / "cut")
    assert done.exit_code == 1 and "--resume" in done.stderr and done.stdout == ""
    journal = tmp_path / "cut" / "records.jsonl"
    assert len(journal.read_text(encoding="utf-8").splitlines()) == 2
    with journal.open("a", encoding="utf-8") as file:
        file.write('{"record": 3, "torn')
    again = measured(*command, "--run", tmp_path / "cut", "--resume")
    assert len(calls) == 4, "finished records are not asked again"
    assert [again[part] for part in ("scores", "slices", "routing", "settings")] == [whole[part] for part in ("scores", "slices", "routing", "settings")]

    refused(4, "--resume", *command, "--run", tmp_path / "cut", "--resume", "--seed", "7")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear", encoding="utf-8")
    refused(4, "choose another folder", *command, "--run", tmp_path / "mine")
    assert (tmp_path / "mine" / "letter.txt").exists()


def test_a_journal_keeps_whole_groups(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "rows.jsonl", 2)
    journal.append([{"n": 1}, {"n": 2}])
    journal.append([{"n": 3}])
    assert [row["n"] for row in Journal(tmp_path / "rows.jsonl", 2).rows] == [1, 2]
    assert (tmp_path / "rows.jsonl").read_text(encoding="utf-8").count("\n") == 2


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model that fine-tuning can teach."""
    return save_causal(tmp_path_factory.mktemp("small"), "llama", layers=4)


@pytest.mark.parametrize("mode", ["batch", "sequential", "single"])
def test_an_editor_on_a_small_model(tmp_path: Path, small: Path, mode: str) -> None:
    rows = [FILES["counterfact-flat"][0] | {"target_new": "Nim"}, FILES["counterfact-flat"][1] | {"target_new": "Or"}]
    path = write(tmp_path, "counterfact-flat", rows)
    command = (path, *FLAT, "--no-extras", "--method", "ft", f"--{mode}", "--model", small, "--device", "cpu", "--run", tmp_path / "run", *TRAIN)
    found = measured(*command)
    assert found["settings"]["refused"] == 0 and found["settings"]["mode"] == mode
    assert found["scores"]["ES"] >= (0.5 if mode == "sequential" else 1.0), "what comes later may undo what came first"
    said = [json.loads(line)["probes"][0]["said"] for line in (tmp_path / "run" / "records.jsonl").read_text(encoding="utf-8").splitlines()]
    assert said[1].startswith("Or"), "it never stops talking, but it begins with the target"
    assert found["routing"]["in_scope"] == {"total": 4, "fired": None, "right_fact": None}
    if mode == "batch":
        again = measured(*command, "--resume")
        assert again["scores"] == found["scores"]


def test_editors_share_their_values(tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRID_CACHE", str(tmp_path / "cache"))
    text = tmp_path / "text.txt"
    text.write_text("".join(f"Ferry {n} leaves {isle} for {port} at {n * n}.\n" for n, (isle, port) in enumerate(zip(ISLES * 8, PORTS * 8, strict=True))))
    collect(LanguageModel(str(small), "cpu"), (0, 1), str(text))
    command = (write(tmp_path, "counterfact-flat", FILES["counterfact-flat"][:1]), *FLAT, "--no-extras", "--model", small, "--device", "cpu")
    settings = "--set layers=0,1 --set steps=3 --set prefixes=1".split()
    plain = measured(*command, "--method", "memit", *settings, "--set", "weight=1.0", "--run", tmp_path / "plain")
    kept = ("--values", tmp_path / "values.db", *settings)
    made = measured(*command, "--method", "memit", *kept, "--set", "weight=1.0", "--run", tmp_path / "memit")
    assert made["scores"] == plain["scores"] and made["settings"]["facts"] == 1

    def unwanted(*_: Any, **__: Any) -> None:
        raise AssertionError("a value that is there was computed again")

    monkeypatch.setattr(locate_and_edit, "optimise_values", unwanted)
    assert measured(*command, "--method", "emmet", *kept, "--run", tmp_path / "emmet")["settings"]["facts"] == 1
    refused(1, "ft has no values that could be kept", *command, "--method", "ft", "--values", tmp_path / "values.db", "--run", tmp_path / "ft")


def test_the_weights_are_given_back(tmp_path: Path, small: Path) -> None:
    model = LanguageModel(str(small), "cpu")
    before = {name: tensor.clone() for name, tensor in model.model.state_dict().items()}
    plan = Plan(
        file=write(tmp_path, "counterfact-flat", FILES["counterfact-flat"][:1]), format="counterfact-flat", method="ft",
        editor={"layers": (0, 1, 2), "steps": 30, "lr": 0.05}, extras=False, max_new_tokens=8,
    )  # fmt: skip
    result = Evaluation(plan, model, tmp_path / "run").run()
    assert result["scores"]["ES"] == 1.0
    assert all(bool((tensor == before[name]).all()) for name, tensor in model.model.state_dict().items())


def test_fluency_and_chains_on_a_small_model(tmp_path: Path, small: Path) -> None:
    base = ("--method", "base", "--model", small, "--device", "cpu", "--no-extras", "--max-new-tokens", "8")
    found = measured(write(tmp_path, "counterfact"), "--format", "counterfact", "--run", tmp_path / "one", *base)
    assert found["scores"]["fluency"] > 0 and {"ES", "PS", "NS", "S"} <= found["scores"].keys()
    assert "fluency" not in measured(tmp_path / "counterfact.json", "--format", "counterfact", "--run", tmp_path / "two", "--fluency", "0", *base)["scores"]
    chains = measured(write(tmp_path, "mquake"), "--format", "mquake", "--run", tmp_path / "three", *base)
    assert {"portability", "multihop", "hopwise"} <= chains["scores"].keys() and chains["settings"]["hops"] is True


def test_scope_pairs_need_no_generation(tmp_path: Path) -> None:
    path = write(tmp_path, "scope")
    found = measured(path, "--format", "scope", "--method", "hybrid", "--run", tmp_path / "run")
    assert found["routing"]["in_scope"] == {"total": 1, "fired": 1, "right_fact": 1}
    assert found["routing"]["unrelated"]["fired"] == 0
    assert {"generalization", "locality", "balanced", "calibration_error"} <= found["scores"].keys()
    refused(1, "asks which facts fire, and memit has none", path, "--format", "scope", "--method", "memit", "--run", tmp_path / "other")


def test_mistakes(tmp_path: Path) -> None:
    path = write(tmp_path, "counterfact-flat")
    refused(3, "neither a folder nor a name", path, *FLAT, "--method", "serac", "--counterfactual-model", "no-such-model", "--run", tmp_path / "run")
    refused(3, f"choose one of {', '.join(METHODS)}", path, *FLAT, "--method", "magic")
    refused(2, "there is no format 'flat'", path, "--format", "flat")
    refused(3, "neither a number nor a file", path, *FLAT, "--loads", "no-such-file")
    refused(2, "hybrid has no settings", path, *FLAT, "--set", "layers=1")
    refused(2, "record 2", write(tmp_path, "broken", [FILES["zsre"][0], {}]), "--format", "zsre")


def test_invented_distractors_are_new_names() -> None:
    found = invented(200, {"veldonia"})
    subjects = {request.subject.casefold() for request in found}
    assert len(subjects) == 200 and "veldonia" not in subjects
    assert [request.statement for request in found] == [request.statement for request in invented(200, {"veldonia"})]


def test_a_plan_in_a_folder_of_another_is_a_conflict(tmp_path: Path, small: Path) -> None:
    path = write(tmp_path, "counterfact-flat")
    model = LanguageModel(str(small), "cpu")
    Evaluation(Plan(file=path, format="counterfact-flat", method="base"), model, tmp_path / "run")
    with pytest.raises(Conflict, match="method"):
        Evaluation(Plan(file=path, format="counterfact-flat", method="hybrid"), model, tmp_path / "run", resume=True)
