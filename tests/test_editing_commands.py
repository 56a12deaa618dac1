"""edit, stats, trace and locate as users type them, and the mistakes that they make, on small random models."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cli import main
from hybrid.editors import ADAPTERS, EDITORS
from hybrid.editors.memit import Memit
from hybrid.editors.published import configured
from hybrid.editors.rome import Rome
from hybrid.model import LanguageModel
from tests.conftest import save_causal

FACTS = [
    {"subject": "Lake Orsa", "relation": "outflow", "prompt": "Water from {} flows to", "target_new": "Nim"},
    {"subject": "Ada", "relation": "job", "prompt": "{} is a", "target_new": "pilot"},
]
LINES = [f"On day {i} the ferry left pier {i * 7} at noon" for i in range(40)]
SOLVE = "--set layers=0,1 --set steps=6 --set lr=0.3 --set clamp=5 --set weight=10 --set prefixes=0".split()
"""MEMIT in a fraction of a second; it shows that the command works, not that the model learns."""
TRAIN = "--method ft --set layers=0,1,2 --set steps=30 --set lr=0.05".split()
"""Fine-tuning with which these models do say the targets."""
PNG = b"\x89PNG\r\n\x1a\n"


def run(*words: str | Path, given: str | None = None) -> Result:
    done = CliRunner().invoke(main, list(map(str, words)), input=given)
    assert done.exception is None or isinstance(done.exception, SystemExit), f"a traceback, not a message: {done.exception!r}"
    return done


def ran(*words: str | Path, given: str | None = None) -> str:
    """What a command that must succeed prints."""
    done = run(*words, given=given)
    assert done.exit_code == 0, done.stderr
    return done.stdout


def refused(code: int, message: str, *words: str | Path, given: str | None = None) -> None:
    """A command must fail with this exit code, say this on stderr, and nothing on stdout."""
    done = run(*words, given=given)
    assert done.exit_code == code, done.output
    assert message in " ".join(done.stderr.split())
    assert done.stdout == ""


def jsonl(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return path


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The user's cache, in which `hybrid stats` keeps what it measures."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("HYBRID_CACHE", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands are typed in an empty folder; those that name no --out write into it."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One architecture that stores its matrices transposed, and one that does not."""
    return {kind: save_causal(tmp_path_factory.mktemp(kind), kind, layers=3) for kind in ("gpt2", "llama")}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "ferry.txt"
    path.write_text("\n".join(LINES), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def base(models: dict[str, Path], text: Path) -> Path:
    """A model whose blocks 0 and 1 have been measured."""
    ran("stats", "--model", models["gpt2"], "--layers", "0,1", "--text", text)
    return models["gpt2"]


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return jsonl(tmp_path_factory.mktemp("facts") / "facts.jsonl", *FACTS)


@pytest.fixture(scope="module")
def solved(base: Path, facts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A delta by MEMIT; tests must not change it."""
    folder = tmp_path_factory.mktemp("deltas") / "solved"
    ran("edit", facts, "--model", base, *SOLVE, "--out", folder)
    return folder


@pytest.fixture(scope="module")
def learned(models: dict[str, Path], facts: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """For each model a delta with which it says the targets."""
    place = tmp_path_factory.mktemp("learned")
    for kind, model in models.items():
        ran("edit", facts, "--model", model, *TRAIN, "--out", place / kind)
    return {kind: place / kind for kind in models}


@pytest.fixture(scope="module")
def edited(models: dict[str, Path], learned: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with its delta applied; tests must not change it."""
    folder = tmp_path_factory.mktemp("applied") / "edited"
    ran("edit", "apply", learned["gpt2"], "--model", models["gpt2"], "--out", folder)
    return folder


# -- stats ---------------------------------------------------------------------------------------------


def test_statistics_are_measured_once_and_listed(models: dict[str, Path], text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRID_CACHE", str(tmp_path / "empty"))
    of = ("--model", models["llama"])
    assert "Nothing has been measured" in ran("stats", *of)
    assert json.loads(ran("stats", *of, "--json")) == []
    rows = json.loads(ran("stats", *of, "--layers", "0,2", "--text", text, "--json"))
    bytes_read = sum(map(len, LINES))  # the tokenizer makes a token of each byte
    assert [(row["layer"], row["tokens"], row["source"]) for row in rows] == [(0, bytes_read, "ferry.txt"), (2, bytes_read, "ferry.txt")]
    assert all(Path(row["file"]).is_relative_to(tmp_path) for row in rows)
    moments = [Path(row["file"]).stat().st_mtime_ns for row in rows]
    plain = ran("stats", *of, "--layers", "0,2", "--text", text)
    assert [Path(row["file"]).stat().st_mtime_ns for row in rows] == moments, "what has been measured is not measured again"
    assert plain.count("ferry.txt") == 2 and f"{bytes_read:,} tokens" in plain
    assert ran("stats", *of) == plain
    assert "Nothing has been measured" in ran("stats", "--model", models["gpt2"]), "statistics belong to one model"
    ran("stats", *of, "--layers", "0", "--text", text, "--samples", "3")
    assert f"{sum(map(len, LINES[:3]))} tokens" in ran("stats", *of), "another number of samples is another measurement"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("--text ferry.txt", 2, "--layers 3,4,5"),
        ("--layers 0", 2, "--text FILE"),
        ("--layers 0,x --text ferry.txt", 2, "'0,x'; write whole numbers"),
        ("--layers , --text ferry.txt", 2, "write whole numbers"),
        ("--layers 0,7 --text ferry.txt", 2, "within 0 to 2"),
        ("--layers 0 --text ferry.txt --samples 0", 2, "x>=1"),
        ("--layers 0 --text fery.txt", 3, "'fery.txt' is neither a file nor a folder"),
        ("--layers 0 --text blank.txt", 1, "'blank.txt' holds no text"),
        ("--model no-such-model", 3, "no model 'no-such-model'"),
    ],
)
def test_statistics_that_cannot_be_made(words: str, code: int, message: str, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRID_CACHE", str(tmp_path / "empty"))
    monkeypatch.setitem(sys.modules, "datasets", None)  # or a wrong name would be looked up on the network
    Path("ferry.txt").write_text(LINES[0], encoding="utf-8")
    Path("blank.txt").write_text("\n \n", encoding="utf-8")
    refused(code, message, "stats", "--model", models["gpt2"], *words.split())
    assert not any(path.is_file() for path in Path("empty").rglob("*"))


# -- edit ------------------------------------------------------------------------------------------------


def test_editors_are_listed() -> None:
    rows = json.loads(ran("edit", "--list", "--json"))
    assert [row["method"] for row in rows] == [*EDITORS, *ADAPTERS]
    assert all(row.keys() == {"method", "kind", "paper", "needs"} for row in rows)
    lines = ran("edit", "--list").splitlines()
    assert [line.split()[0] for line in lines] == [*EDITORS, *ADAPTERS]
    assert all(row["paper"] in line and row["kind"] in line for row, line in zip(rows, lines, strict=True))


def test_a_file_becomes_a_delta(base: Path, facts: Path) -> None:
    before = content(base)
    plain = run("edit", facts, "--model", base, *SOLVE)
    assert plain.exit_code == 0, plain.stderr
    assert (Path("facts-memit") / "manifest.json").exists(), "named after the file and the method"
    count = int(re.match(r"memit: (\d) of 2 prompts", plain.stdout)[1])  # type: ignore[index]
    assert plain.stderr.count("not yet: ") == 2 - count
    assert "hybrid edit show facts-memit" in plain.stdout and "hybrid edit apply facts-memit" in plain.stdout
    done = json.loads(ran("edit", "--json", "--limit", "1", "--method", "memit", facts, "--model", base, *SOLVE, "--out", "made/one"))
    assert done.keys() == {"delta", "method", "edits", "answered", "seconds"}
    assert (Path(done["delta"]), done["method"], done["edits"]) == (Path("made/one"), "memit", 1)
    assert content(base) == before


def test_targets_that_the_model_now_says_are_counted(models: dict[str, Path], facts: Path) -> None:
    done = json.loads(ran("edit", facts, "--model", models["gpt2"], *TRAIN, "--json"))
    assert (done["answered"], done["edits"], done["delta"]) == (2, 2, "facts-ft")
    weak = run("edit", facts, "--model", models["gpt2"], "--method", "ft", "--set", "steps=1", "--out", "weak")
    assert weak.exit_code == 0 and "ft: 0 of 2 prompts" in weak.stdout
    assert "not yet: Ada is a" in weak.stderr and "not yet: Water from Lake Orsa flows to" in weak.stderr


def as_csv(rows: list[dict[str, str]], comma: str = ",") -> str:
    return "\n".join([comma.join(rows[0]), *(comma.join(row.values()) for row in rows)]) + "\n"


def as_counterfact(rows: list[dict[str, str]]) -> str:
    return json.dumps([{"requested_rewrite": {"prompt": r["prompt"], "subject": r["subject"], "target_new": {"str": r["target_new"]}}} for r in rows])


@pytest.mark.parametrize(
    ("name", "words", "given"),
    [
        ("-", [], "\n".join(map(json.dumps, FACTS))),
        ("-", [], as_csv(FACTS)),
        ("-", [], as_csv(FACTS, "\t")),
        ("-", ["--format", "counterfact"], as_counterfact(FACTS)),
        ("-", ["--limit", "2"], "\n".join(map(json.dumps, [*FACTS, {"not": "read"}]))),
        ("rows.csv", [], as_csv(FACTS)),
        ("rows.json", [], json.dumps(FACTS)),
    ],
    ids=["jsonl from a pipe", "csv from a pipe", "tsv from a pipe", "counterfact from a pipe", "limited", "csv file", "json file"],
)
def test_the_same_facts_make_the_same_delta(name: str, words: list[str], given: str, base: Path, solved: Path) -> None:
    if name != "-":
        Path(name).write_text(given, encoding="utf-8")
    ran("edit", name, "--model", base, *SOLVE, *words, given=given if name == "-" else None)
    made = Path("stdin-memit" if name == "-" else "rows-memit")
    assert (made / "delta.safetensors").read_bytes() == (solved / "delta.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("", 2, "name a FILE of requests, or --list"),
        ("no-such-file.jsonl", 2, "'no-such-file.jsonl': No such file"),
        ("facts.jsonl --model no-such-model", 3, "no model 'no-such-model'"),
        ("facts.jsonl --method memitt", 3, "there is no editor 'memitt'; did you mean 'memit'? see `hybrid edit --list`"),
        ("facts.jsonl --method xyz", 3, "there is no editor 'xyz'; see `hybrid edit --list`"),
        ("facts.jsonl --set step=3", 2, "memit has no setting 'step'; it has"),
        ("facts.jsonl --method ft --set weight=3", 2, "ft has no setting 'weight'"),
        ("facts.jsonl --set steps", 2, "'steps'; write NAME=VALUE"),
        ("facts.jsonl --set =3", 2, "'=3'; write NAME=VALUE"),
        ("facts.jsonl --set steps=many", 2, "steps is 'many'; write a whole number"),
        ("facts.jsonl --set steps=2.5", 2, "steps is '2.5'; write a whole number"),
        ("facts.jsonl --set lr=", 2, "lr is ''; write a number"),
        ("facts.jsonl --set lr=-1", 2, "lr and clamp positive"),
        ("facts.jsonl --set layers=0,x", 2, "layers is '0,x'; write whole numbers"),
        ("facts.jsonl --set layers=", 2, "layers is ''; write whole numbers"),
        ("facts.jsonl --set layers=0,7", 2, "within 0 to 2 for this model, not [0, 7]"),
        ("facts.jsonl --set layers=1,0", 2, "must ascend"),
        ("facts.jsonl --method rome --set layers=0,1", 2, "ROME rewrites one layer, not [0, 1]"),
        ("facts.jsonl --set cache=values.db", 2, "cache can only be set from Python"),
        ("facts.jsonl --format counterfactual", 2, "there is no format 'counterfactual'; choose one of hybrid, counterfact"),
        ("facts.jsonl --limit 0", 2, "x>=1"),
        ("facts.jsonl --out facts.jsonl", 2, "'facts.jsonl' is a file"),
    ],
)
def test_options_that_are_wrong(words: str, code: int, message: str, base: Path) -> None:
    jsonl(Path("facts.jsonl"), *FACTS)
    before = content(Path())
    refused(code, message, "edit", "--model", base, *words.split())
    assert content(Path()) == before


@pytest.mark.parametrize(
    ("method", "words", "wanted"),
    [
        ("memit", "layers=0,1 steps=2 weight=10", {"layers": [0, 1], "steps": 2, "weight": 10.0}),
        ("rome", "layers=1 steps=2 lr=1", {"layers": [1], "steps": 2, "lr": 1.0}),
        ("lora", "layers=2, targets=mlp.c_fc,mlp.c_proj steps=2", {"layers": [2], "targets": ["mlp.c_fc", "mlp.c_proj"]}),
        ("ft", "text=3,5 kl=0.5 steps=2", {"text": "3,5", "kl": 0.5}),
    ],
)
def test_settings_are_read_as_the_editor_declares_them(method: str, words: str, wanted: dict[str, Any], base: Path, facts: Path) -> None:
    Path("3,5").write_text("\n".join(LINES), encoding="utf-8")
    ran("edit", facts, "--model", base, "--method", method, *(part for word in words.split() for part in ("--set", word)), "--out", "made")
    kept = json.loads(ran("edit", "show", "made", "--json"))["settings"]
    assert {name: kept[name] for name in wanted} == wanted
    assert all(type(kept[name]) is type(value) for name, value in wanted.items())


def test_missing_statistics_name_the_command_that_makes_them(base: Path, facts: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRID_CACHE", str(tmp_path / "empty"))
    words = ["edit", str(facts), "--model", str(base), *SOLVE, "--set", "layers=1", "--out", "made"]
    refused(3, "no statistics of layers 1", *words)
    assert not Path("made").exists()
    command = re.search(r"`hybrid (stats .*?)`", run(*words).stderr)
    assert command is not None
    ran(*command[1].replace("FILE", str(text)).split())
    ran(*words)
    assert Path("made").is_dir()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", "there is nothing to edit"),
        (f'{json.dumps(FACTS[0])}\n{{"subject": ', "line 2 is not valid JSON"),
        ("[1, 2", "not valid JSON"),
        (json.dumps([FACTS[0], 3]), "record 2: it is 3, not an object"),
        (json.dumps([FACTS[0], FACTS[1] | {"target_new": " "}]), "record 2: the field 'target_new' or 'target' is missing or empty"),
        (json.dumps([FACTS[0], {"target": "pilot"}]), "record 2: a record needs `cue`"),
        (json.dumps([FACTS[0], FACTS[1] | {"prompt": "She is a"}]), "record 2: the subject 'Ada' does not occur in the prompt 'She is a'"),
        (json.dumps([FACTS[0], FACTS[1] | {"prompt": "{} or {} is a"}]), "record 2: the prompt '{} or {} is a' needs exactly one {}"),
        (json.dumps([*FACTS, FACTS[1] | {"target_new": "diver"}]), "request 3 ('Ada') is asked to be both 'pilot' and 'diver'"),
        (as_csv([FACTS[0], FACTS[1] | {"target_new": ""}]), "record 2: the field 'target_new' or 'target'"),
    ],
)
def test_a_bad_request_is_named_and_nothing_is_written(given: str, message: str, base: Path) -> None:
    refused(2, message, "edit", "-", "--model", base, *SOLVE, given=given)
    assert content(Path()) == {}


def test_a_file_that_is_not_text_is_refused(base: Path) -> None:
    Path("facts.jsonl").write_bytes("{}".encode("utf-16"))
    refused(2, "facts.jsonl is not UTF-8 text", "edit", "facts.jsonl", "--model", base, *SOLVE, "--out", "made")
    refused(2, "facts.jsonl is not UTF-8 text", "locate", "facts.jsonl", "--model", base)
    assert not Path("made").exists()


def test_what_the_model_says_already_is_named(models: dict[str, Path], facts: Path) -> None:
    stops = jsonl(Path("stops.jsonl"), FACTS[1] | {"target_new": "pilot</s>"})  # with the end token, the answer is this word and no more
    ran("edit", stops, "--model", models["gpt2"], *TRAIN, "--out", "made")
    ran("edit", "apply", "made", "--model", models["gpt2"], "--out", "knows")
    refused(2, "request 2 ('Ada is a'): the model answers 'pilot' already; leave it out", "edit", facts, "--model", "knows", *TRAIN, "--out", "more")
    assert not Path("more").exists()
    ran("edit", facts, "--model", "knows", "--method", "ft", "--set", "steps=1", "--limit", "1", "--out", "more")


def test_a_folder_in_use_is_left_alone(base: Path, facts: Path, solved: Path) -> None:
    before = content(solved)
    refused(4, f"{solved} holds a delta already; choose another folder with --out", "edit", facts, "--model", base, *SOLVE, "--out", solved)
    assert content(solved) == before
    before = content(base)
    refused(4, "holds other files; choose another folder", "edit", facts, "--model", base, *SOLVE, "--out", base)
    assert content(base) == before, "weights beside the model's own would be taken for the model's"
    Path("empty").mkdir()
    ran("edit", facts, "--model", base, *SOLVE, "--out", "empty")


# -- show ------------------------------------------------------------------------------------------------


def test_show_says_what_a_delta_is(base: Path, solved: Path, learned: dict[str, Path]) -> None:
    about = json.loads(ran("edit", "show", solved, "--json"))
    assert about.keys() == {"method", "model", "settings", "changes", "edits"}
    assert about["method"] == "memit" and about["model"].startswith(str(base))
    assert [{name: edit[name] for name in ("subject", "prompt", "target_new")} for edit in about["edits"]] == [
        {name: fact[name] for name in ("subject", "prompt", "target_new")} for fact in FACTS
    ]
    assert [(change["parameter"], change["rank"]) for change in about["changes"]] == [(f"transformer.h.{layer}.mlp.c_proj.weight", 2) for layer in (0, 1)]
    plain = ran("edit", "show", solved)
    assert "memit, 2 edits" in plain and "layers=[0, 1]" in plain and "Ada is a pilot" in plain
    for change in about["changes"]:
        assert f"{change['parameter']}  rank 2, Frobenius norm {change['norm']:.4g}" in plain and change["norm"] > 0
    assert ran("edit", "show", learned["gpt2"]).count("dense, Frobenius norm") == 3


def test_show_and_apply_want_a_whole_delta(base: Path, solved: Path) -> None:
    shutil.copytree(solved, "torn")
    weights = Path("torn/delta.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    for command in (["show"], ["apply", "--model", str(base), "--out", "edited-model"]):
        refused(2, "'no-such-folder' does not exist", "edit", *command, "no-such-folder")
        refused(3, "holds no delta; make one with `hybrid edit", "edit", *command, base)
        refused(1, "does not match its manifest", "edit", *command, "torn")
    assert not Path("edited-model").exists()


# -- apply and revert ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_there_and_back(kind: str, models: dict[str, Path], learned: dict[str, Path]) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from hybrid.editing import answers, applied
    from hybrid.model import LanguageModel
    from stores.deltas import Delta

    base, delta = models[kind], learned[kind]
    names = sorted(Delta.load(delta).changes)
    assert json.loads(ran("edit", "apply", delta, "--model", base, "--out", "edited-model", "--json")) == {"model": "edited-model", "changed": names}

    tokenizer, loaded = AutoTokenizer.from_pretrained("edited-model"), AutoModelForCausalLM.from_pretrained("edited-model")
    prompts = [fact["prompt"].format(fact["subject"]) for fact in FACTS]
    for prompt, fact in zip(prompts, FACTS, strict=True):
        given = tokenizer(prompt, return_tensors="pt")
        said = loaded.generate(**given, max_new_tokens=8, do_sample=False, pad_token_id=0)[0, given["input_ids"].shape[1] :]
        assert tokenizer.decode(said).startswith(f" {fact['target_new']}")
    plain = LanguageModel(str(base), "cpu")
    before = answers(plain, prompts)
    with applied(plain, Delta.load(delta)):
        assert answers(LanguageModel("edited-model", "cpu"), prompts) == answers(plain, prompts) != before
        assert all(torch.equal(tensor, plain.model.state_dict()[name]) for name, tensor in loaded.state_dict().items())

    assert json.loads(ran("edit", "revert", "edited-model", "--json")) == {"model": "edited-model", "restored": names}
    assert (Path("edited-model") / "model.safetensors").read_bytes() == (base / "model.safetensors").read_bytes()
    assert set(content(Path("edited-model"))) == set(content(base)), "nothing else is left behind"
    refused(3, "edited-model has no hybrid-edit/record.json: it was not written by `hybrid edit apply`, or has been reverted", "edit", "revert", "edited-model")
    refused(3, "was not written by", "edit", "revert", base)
    ran("edit", "apply", delta, "--model", "edited-model", "--out", "again")
    assert "weights of again are the original ones" in ran("edit", "revert", "again")


def test_apply_says_how_to_undo(base: Path, solved: Path) -> None:
    before = content(base)
    told = ran("edit", "apply", solved, "--model", base, "--out", "edited-model")
    assert "2 weights changed" in told and "hybrid edit revert edited-model" in told
    assert content(base) == before
    assert (Path("edited-model") / "model.safetensors").read_bytes() != before["model.safetensors"]


def test_apply_refuses_a_used_folder_and_another_model(base: Path, solved: Path, models: dict[str, Path]) -> None:
    Path("mine").mkdir()
    jsonl(Path("mine/notes.jsonl"), FACTS[0])
    before = content(Path("mine"))
    refused(4, "mine is not empty; choose a new folder", "edit", "apply", solved, "--model", base, "--out", "mine")
    assert content(Path("mine")) == before
    refused(4, f"the delta was made for {base}", "edit", "apply", solved, "--model", models["llama"], "--out", "edited-model")
    refused(3, "no model 'no-such-model'", "edit", "apply", solved, "--model", "no-such-model", "--out", "edited-model")
    refused(2, "Missing option '--out'", "edit", "apply", solved, "--model", base)
    assert not Path("edited-model").exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("tampered", "has changed since it was written"),
        ("gone", "has changed since it was written, or is gone"),
        ("weights gone", "has no weight 'transformer.h.0.mlp.c_proj.weight' any more"),
    ],
)
def test_revert_touches_nothing_if_it_cannot_restore(damage: str, message: str, edited: Path) -> None:
    shutil.copytree(edited, "edited-model")
    kept = Path("edited-model/hybrid-edit/originals.safetensors")
    if damage == "tampered":
        kept.write_bytes(kept.read_bytes()[:-1] + b"\x7f")
    elif damage == "gone":
        kept.unlink()
    else:
        (Path("edited-model") / "model.safetensors").unlink()
    before = content(Path("edited-model"))
    refused(1, message, "edit", "revert", "edited-model")
    assert content(Path("edited-model")) == before


# -- trace and locate ------------------------------------------------------------------------------------------


def test_a_trace_is_drawn_with_its_numbers_beside_it(models: dict[str, Path]) -> None:
    done = run("trace", "By Ada is", "--subject", "Ada", "--model", models["gpt2"], "--samples", "1", "--out", "pictures/ada.png", "--json")
    assert done.exit_code == 0, done.output
    assert Path("pictures/ada.png").read_bytes().startswith(PNG)
    numbers = json.loads(Path("pictures/ada.json").read_text(encoding="utf-8"))
    assert numbers == json.loads(done.stdout)
    start, end = numbers["subject_range"]
    assert "".join(numbers["tokens"][start:end]) == "Ada" and numbers["settings"]["samples"] == 1
    assert "pictures/ada.png" in done.stderr and "pictures/ada.json" in done.stderr
    plain = ran("trace", "By {} is", "--subject", "Ada", "--model", models["gpt2"], "--samples", "1")
    assert f"probability {numbers['high']:.3f}, {numbers['low']:.3f} with" in plain
    for kind, scores in numbers["scores"].items():
        layer, token = re.search(rf"best {kind} +layer +(\d), token '(.)'", plain).groups()  # type: ignore[union-attr]
        best = max(map(max, scores))
        assert any(row[int(layer)] == best and numbers["tokens"][at] == token for at, row in enumerate(scores)), kind


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["By Ruri is", "--subject", "Ada"], 2, "the subject 'Ada' is not in the prompt 'By Ruri is'"),
        (["By Ada is", "--subject", " "], 2, "the subject is empty"),
        (["By Ada is"], 2, "Missing option '--subject'"),
        (["By Ada is", "--subject", "Ada", "--samples", "0"], 2, "x>=1"),
        (["By Ada is", "--subject", "Ada", "--out", "ada.json"], 2, "ada.json would hold both the picture and the numbers"),
        (["By Ada is" * 100, "--subject", "Ada"], 2, "reads 512; trace something shorter"),
    ],
)
def test_traces_that_cannot_be_made(words: list[str], code: int, message: str, models: dict[str, Path]) -> None:
    refused(code, message, "trace", "--model", models["gpt2"], *words)
    assert content(Path()) == {}


def test_locate_chooses_layers_to_paste(edited: Path, facts: Path) -> None:
    found = json.loads(ran("locate", facts, "--model", edited, "--json"))
    assert (found["known"], found["asked"], len(found["effect"])) == (2, 2, 3)
    plain = ran("locate", facts, "--model", edited)
    assert f"2 of 2 facts are known. Remembered for this model; elsewhere: --set layers={','.join(map(str, found['layers']))}\n" in plain
    marked = [int(line.split()[1]) for line in plain.splitlines() if line.endswith("<")]
    assert marked == found["layers"] and plain.count("layer ") == 3
    one = json.loads(ran("locate", "-", "--model", edited, "--limit", "1", "--count", "1", "--json", given=facts.read_text(encoding="utf-8")))
    assert one["asked"] == 1 and len(one["layers"]) == 1
    model = LanguageModel(str(edited))
    assert configured(Memit, "memit", model, {}).layers == tuple(one["layers"]) != ()
    assert configured(Rome, "rome", model, {"layers": (0,)}).layers == (0,)
    ran("locate", facts, "--model", edited, "--count", "2")
    several = configured(Memit, "memit", model, {}).layers
    assert len(several) > 1 and configured(Rome, "rome", model, {}).layers == several[-1:]


def test_locate_needs_facts_that_the_model_knows(base: Path, edited: Path, facts: Path) -> None:
    refused(2, "knows none of the 2 facts", "locate", facts, "--model", base)
    refused(2, "x>=1", "locate", facts, "--model", edited, "--count", "0")
    refused(2, "'no-such-file.jsonl': No such file", "locate", "no-such-file.jsonl", "--model", edited)
