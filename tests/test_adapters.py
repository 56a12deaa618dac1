"""Methods that add parameters: the promises that each keeps, the papers' rules, and the commands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from cli import main
from hybrid.adapters.base import adapt, attach, attached
from hybrid.adapters.codebook import Codebook, nearest
from hybrid.adapters.prompts import prompts_end
from hybrid.architecture import Architecture, captured
from hybrid.editing import answers
from hybrid.editors import ADAPTERS
from hybrid.model import LanguageModel
from stores.adapters import Adapter
from stores.errors import BadRequest, Conflict, Corrupt, NotFound
from stores.records import Fact
from tests.conftest import save_causal, save_worded

QUICK: dict[str, dict[str, Any]] = {"grace": {"steps": 40, "lr": 0.3}, "t-patcher": {}, "melo": {"steps": 25, "lr": 0.05}, "wise": {"steps": 30, "lr": 0.02}}
PROMPTS = ["The ferry port of Wolf", "Q : The ferry port of Gulf", "Mare", "The port of Fenn"]


def ask(subject: str, prompt: str, target: str) -> Fact:
    """A request."""
    return Fact(id="", subject=subject, relation="x", prompt=prompt, target_new=target)


REQUESTS = [ask(isle, "The ferry port of {}", port) for isle, port in (("Orsa", "Nim"), ("Belm", "Pax"), ("Quay", "Rue"))]


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random model of three blocks."""
    return save_worded(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def model(folder: Path) -> Iterator[LanguageModel]:
    """It, loaded; tests must leave it as it was."""
    yield LanguageModel(str(folder), "cpu")


@pytest.fixture(scope="module")
def made(model: LanguageModel) -> dict[str, Adapter]:
    """An adapter of each method, of all requests."""
    return {method: adapt(model, REQUESTS, method, **QUICK[method]) for method in ADAPTERS}


def logits(model: LanguageModel) -> list[torch.Tensor]:
    """Of several prompts."""
    with torch.no_grad():
        return [model.model(input_ids=torch.tensor([model.tokenizer(text)["input_ids"]])).logits for text in [*PROMPTS, *(r.cloze for r in REQUESTS)]]


def same(one: list[torch.Tensor], two: list[torch.Tensor]) -> bool:
    """Bit-identical."""
    return all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def hooks(model: LanguageModel) -> int:
    """Hooks left on any module."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.model.modules())


@pytest.mark.parametrize("method", ADAPTERS)
def test_what_it_learnt_is_said_and_detaching_gives_every_bit_back(model: LanguageModel, made: dict[str, Adapter], method: str) -> None:
    before, weights = logits(model), {name: tensor.clone() for name, tensor in model.model.state_dict().items()}
    with attached(model, made[method]):
        said = answers(model, [request.cloze for request in REQUESTS])
        assert [text.startswith(r.target_new) for text, r in zip(said, REQUESTS, strict=True)] == [True] * len(REQUESTS), said
        assert not same(before, logits(model))
    assert same(before, logits(model)) and hooks(model) == 0
    handle = attach(model, made[method])
    assert not same(before, logits(model))
    handle.close()
    assert same(before, logits(model)) and hooks(model) == 0
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.model.state_dict().items())


@pytest.mark.parametrize("method", ADAPTERS)
def test_other_prompts_keep_every_bit(model: LanguageModel, made: dict[str, Adapter], method: str) -> None:
    before = logits(model)[: len(PROMPTS)]
    one = adapt(model, REQUESTS[:1], method, **QUICK[method])
    with attached(model, one):
        assert same(before, logits(model)[: len(PROMPTS)])


@pytest.mark.parametrize("method", ADAPTERS)
def test_saved_and_loaded_it_is_the_same(model: LanguageModel, made: dict[str, Adapter], method: str, tmp_path: Path) -> None:
    made[method].save(tmp_path / "a")
    loaded = Adapter.load(tmp_path / "a")
    with attached(model, made[method]):
        now = logits(model)
    with attached(model, loaded):
        assert same(now, logits(model))
    assert loaded.edits == made[method].edits and len(loaded.edits) == len(REQUESTS)
    data = bytearray((tmp_path / "a" / "adapter.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "a" / "adapter.safetensors").write_bytes(data)
    with pytest.raises(Corrupt, match="does not match"):
        Adapter.load(tmp_path / "a")


@pytest.mark.parametrize("method", ADAPTERS)
def test_it_is_deterministic_and_goes_on(model: LanguageModel, made: dict[str, Adapter], method: str) -> None:
    again = adapt(model, REQUESTS, method, **QUICK[method])
    assert all((again.tensors[name] == array).all() for name, array in made[method].tensors.items())
    first = adapt(model, REQUESTS[:1], method, **QUICK[method])
    both = adapt(model, REQUESTS[1:2], method, onto=first, **QUICK[method])
    assert [edit["subject"] for edit in both.edits] == ["Orsa", "Belm"]
    with attached(model, both):
        assert [text[:3] for text in answers(model, [request.cloze for request in REQUESTS[:2]])] == ["Nim", "Pax"]


@pytest.mark.parametrize("method", ADAPTERS)
def test_bad_requests_are_refused(model: LanguageModel, made: dict[str, Adapter], method: str, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="empty"):
        adapt(model, [], method)
    with pytest.raises(ValueError, match=r"layers must ascend|the last block"):
        adapt(model, REQUESTS, method, layer=7)
    with pytest.raises(ValueError, match="no setting 'wings'"):
        adapt(model, REQUESTS, method, wings=2)
    other = LanguageModel(str(save_causal(tmp_path / "other", "llama", layers=2)), "cpu")
    with pytest.raises(Conflict, match="was made for"), attached(other, made[method]):
        pass


@pytest.mark.parametrize("method", ADAPTERS)
def test_interleaved_answers_do_not_disturb_each_other(model: LanguageModel, made: dict[str, Adapter], method: str) -> None:
    """Two caches of one model, a token each in turn, give what each gives alone."""
    rows = [model.tokenizer(request.cloze)["input_ids"] for request in REQUESTS[:2]]

    def step(ids: list[int], cache: Any) -> Any:
        out = model.model(input_ids=torch.tensor([ids]), past_key_values=cache, use_cache=True)
        return int(out.logits[0, -1].argmax()), out.past_key_values

    def alone(ids: list[int]) -> list[int]:
        found, cache = [], None
        for _ in range(5):
            token, cache = step(ids, cache)
            found.append(token)
            ids = [token]
        return found

    with attached(model, made[method]), torch.no_grad():
        wanted = [alone(row) for row in rows]
        found: list[list[int]] = [[], []]
        caches: list[Any] = [None, None]
        given = list(rows)
        for _ in range(5):
            for which in (0, 1):
                token, caches[which] = step(given[which], caches[which])
                found[which].append(token)
                given[which] = [token]
    assert found == wanted


def test_a_prompt_and_its_answer_in_one_pass_are_as_generated(model: LanguageModel, made: dict[str, Adapter]) -> None:
    """Where the prompt ends must be said; then the scores at the target are those of the steps."""
    request = REQUESTS[0]
    before = model.tokenizer(request.cloze)["input_ids"]
    whole = model.tokenizer(f"{request.cloze} {request.target_new}")["input_ids"]
    with attached(model, made["grace"]), torch.no_grad():
        stepped = model.model(input_ids=torch.tensor([before])).logits[0, -1]
        with prompts_end(torch.tensor([len(before) - 1])):
            told = model.model(input_ids=torch.tensor([whole])).logits[0, len(before) - 1]
        untold = model.model(input_ids=torch.tensor([whole])).logits[0, len(before) - 1]
    assert torch.allclose(stepped, told, atol=1e-4) and not torch.allclose(stepped, untold, atol=1e-2)


# -- GRACE's rules -------------------------------------------------------------------------------------


def at(x: float) -> torch.Tensor:
    """A key on a line, far from the origin's scale of `SAME`."""
    return torch.tensor([x, 1.0])


def test_the_codebook_adds_grows_and_splits() -> None:
    book = Codebook.empty(2, torch.zeros(1))
    assert book.learn(at(0.0), "a", 1.0) == (0, True)
    assert book.learn(at(10.0), "b", 1.0) == (1, True)  # far: a new entry
    assert book.learn(at(1.5), "a", 1.0) == (0, False)  # near, same label: the radius grows to reach it
    assert book.radii.tolist() == [1.5, 1.0]
    assert book.learn(at(8.6), "c", 1.0) == (2, True)  # near, another label: both get half of the distance
    assert book.radii.tolist() == pytest.approx([1.5, 0.7, 0.7], abs=1e-4)
    assert book.learn(at(10.0), "d", 1.0) == (1, True)  # the same key: given over, not doubled
    assert book.labels == ["a", "d", "c"] and len(book.keys) == len(book.radii) == len(book.labels) == 3
    found = nearest(torch.stack([at(1.4), at(-1.6), at(9.35), at(9.2)]), book.keys, book.radii)
    assert found.tolist() == [0, -1, 1, 2]


def test_labels_stay_in_step_with_keys(model: LanguageModel, made: dict[str, Adapter]) -> None:
    grace = made["grace"]
    assert len(grace.extra["labels"]) == len(grace.tensors["keys"]) == len(grace.tensors["values"]) == len(grace.tensors["radii"])
    first = adapt(model, REQUESTS[:1], "grace", **QUICK["grace"])
    other = adapt(model, [ask("Orsa", "The ferry port of {}", "Wex")], "grace", onto=first, **QUICK["grace"])
    assert other.extra["labels"] == ["Wex"] and first.extra["labels"] == ["Nim"]
    with attached(model, other):
        assert answers(model, [REQUESTS[0].cloze])[0].startswith("Wex")


@pytest.mark.parametrize("replace", ["prompt", "last"])
def test_the_value_stands_where_it_should(model: LanguageModel, replace: str) -> None:
    one = adapt(model, REQUESTS[:1], "grace", replace=replace, **QUICK["grace"])
    ids = torch.tensor([model.tokenizer(REQUESTS[0].cloze)["input_ids"]])
    block = Architecture(model.model).part(one.settings["layer"], "block")
    with attached(model, one), captured({"out": block}) as seen, torch.no_grad():
        model.model(input_ids=ids)
    there = (seen["out"][0] == torch.from_numpy(one.tensors["values"][0])).all(1).tolist()
    assert there == [replace == "prompt"] * (ids.shape[1] - 1) + [True]
    with pytest.raises(ValueError, match="prompt, last"):
        adapt(model, REQUESTS[:1], "grace", replace="first")


def test_a_memory_reaches_part_of_the_way_to_what_is_unrelated(model: LanguageModel) -> None:
    strict, wide = (adapt(model, REQUESTS[:1], "wise", reach=reach, **QUICK["wise"]) for reach in (0.0, 0.5))
    assert (strict.tensors["memory"] == wide.tensors["memory"]).all() and wide.tensors["threshold"][0] < strict.tensors["threshold"][0]
    with pytest.raises(ValueError, match="reach"):
        adapt(model, REQUESTS[:1], "wise", reach=1.0)


def test_a_patch_for_each_token_that_was_wrong(model: LanguageModel) -> None:
    two = [ask("Orsa", "The ferry port of {}", "Nim Ott")]
    patcher = adapt(model, two, "t-patcher")
    assert patcher.extra["patches"] == ["Nim Ott", "Nim Ott"] and len(patcher.tensors["k"]) == len(patcher.tensors["b"]) == len(patcher.tensors["v"]) == 2
    with attached(model, patcher):
        assert answers(model, [two[0].cloze])[0].startswith("Nim Ott")
    again = adapt(model, two, "t-patcher", onto=patcher)
    assert len(again.tensors["k"]) == len(patcher.tensors["k"]), "nothing is wrong any more, so nothing is patched"


# -- the commands ----------------------------------------------------------------------------------------


def run(*words: str | Path, code: int = 0) -> Any:
    done = CliRunner().invoke(main, list(map(str, words)))
    assert done.exit_code == code, done.output
    return done


def test_the_commands(folder: Path, tmp_path: Path) -> None:
    facts = tmp_path / "facts.jsonl"
    rows = [{"subject": r.subject, "relation": "x", "prompt": r.prompt, "target_new": r.target_new} for r in REQUESTS]
    facts.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    made = json.loads(
        run("edit", facts, "--method", "grace", "--model", folder, "--set", "steps=60", "--set", "lr=0.2", "--out", tmp_path / "a", "--json").stdout
    )
    assert made["adapter"] == str(tmp_path / "a") and made["answered"] == 3
    shown = json.loads(run("edit", "show", tmp_path / "a", "--json").stdout)
    assert {row["tensor"] for row in shown["adds"]} == {"keys", "values", "radii"} and shown["changes"] == []
    assert "keys  " in run("edit", "show", tmp_path / "a").stdout
    assert "changes no weight" in run("edit", "apply", tmp_path / "a", "--model", folder, "--out", tmp_path / "m", code=2).stderr
    asked = ("ask", REQUESTS[0].cloze, "--model", folder, "--store", tmp_path / "store", "--json")
    with_it = json.loads(run(*asked, "--adapter", tmp_path / "a").stdout)
    assert with_it["answer"].startswith("Nim") and not json.loads(run(*asked).stdout)["answer"].startswith("Nim")
    assert "--onto goes on with an adapter" in run("edit", facts, "--method", "ft", "--onto", tmp_path / "a", "--model", folder, code=2).stderr
    with pytest.raises(NotFound, match="makes an adapter"):
        from hybrid.editors import editor_class

        editor_class("grace")


@pytest.mark.parametrize("folder", ["llama"], indirect=True)
@pytest.mark.parametrize("mode", ["--sequential", "--single"])
def test_the_evaluation_asks_them(folder: Path, tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRID_CACHE", str(tmp_path / "cache"))
    rows = [
        {"prompt": r.cloze, "subject": r.subject, "target_new": r.target_new, "ground_truth": "Sol", "rephrase_prompt": "Wolf",
         "locality_prompt": "The ferry port of Tirn", "locality_ground_truth": "Vik"} for r in REQUESTS[1:]
    ]  # fmt: skip
    (tmp_path / "flat.json").write_text(json.dumps(rows), encoding="utf-8")
    words = ["eval", tmp_path / "flat.json", "--format", "counterfact-flat", "--method", "grace", mode, "--model", folder, "--json"]
    scores = json.loads(run(*words, "--set", "steps=60", "--set", "lr=0.2", "--run", tmp_path / "run").stdout)["scores"]
    assert scores["ES"] == scores["locality"] == 1.0 and scores["efficacy"] == 1.0, scores
