"""Steering: the direction is the papers', the choice is made on held-out examples, and detaching leaves no bit changed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from cli import main
from hybrid.architecture import Architecture, captured
from hybrid.directions import Pair, _Judge, direction, make, read_pairs
from hybrid.memory import HybridMemory
from hybrid.model import LanguageModel
from hybrid.steering import Steering, steered
from stores.errors import BadRequest, Conflict, Corrupt, FormatError

COUNTRIES = "Spain Italy Egypt Brazil Japan Turkey Hungary Finland Russia Mexico Sweden Greece Poland Portugal China Iran".split()
PAIRS = [Pair(f"Q: What is the official language of {name}?\nA:", f"Q: What is the capital of {name}?\nA:") for name in COUNTRIES]


def logits(model: LanguageModel, text: str = "The harbour of the island") -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model.model(input_ids=torch.tensor([model.tokenizer(text)["input_ids"]])).logits
    return found


def test_directions() -> None:
    torch.manual_seed(0)
    axis = torch.nn.functional.normalize(torch.randn(16), dim=0)
    negative = torch.randn(40, 16)
    positive = negative + torch.linspace(1, 3, 40)[:, None] * axis + 0.01 * torch.randn(40, 16)
    for method in ("mean", "pca"):
        found = direction(positive, negative, method)
        assert torch.cosine_similarity(found, axis, dim=0) > 0.999 and found.norm() == pytest.approx(2.0, abs=0.05), method
    assert torch.allclose(direction(negative, positive, "pca"), -direction(positive, negative, "pca"), atol=1e-5), "the sign is that of the examples"


def test_a_vector_is_added_where_it_should_be_and_leaves_no_trace(causal_folder: Path) -> None:
    model = LanguageModel(str(causal_folder))
    before, change = logits(model), torch.full((32,), 0.5)
    block = Architecture(model.model).part(0, "block")
    with captured({"plain": block}) as plain:
        logits(model)
    with steered(model, 0, change), captured({"moved": block}) as moved:
        inside = logits(model)
    apart = moved["moved"] - plain["plain"]
    assert torch.equal(apart[:, :-1], torch.zeros_like(apart[:, :-1])) and torch.allclose(apart[:, -1], change.expand(1, 32), atol=1e-6)
    assert torch.equal(inside[:, :-1], before[:, :-1]) and not torch.equal(inside[:, -1], before[:, -1])
    with steered(model, 0, change, onward=False), torch.inference_mode():
        first = model.model(input_ids=torch.tensor([[5, 6, 7]]), use_cache=True)
        one = model.model(input_ids=torch.tensor([[8]]), past_key_values=first.past_key_values).logits
    with steered(model, 0, change), torch.inference_mode():
        whole = model.model(input_ids=torch.tensor([[5, 6, 7, 8]]), use_cache=False).logits
    assert not torch.equal(one[0, -1], whole[0, -1]), "new tokens are left alone"
    assert torch.equal(logits(model), before), "to the bit"
    assert not any(module._forward_hooks for module in model.model.modules())
    with pytest.raises(RuntimeError), steered(model, 0, change):
        raise RuntimeError
    assert torch.equal(logits(model), before)


def test_completions_are_preferred_on_examples_that_were_held_out(causal_folder: Path) -> None:
    model = LanguageModel(str(causal_folder))
    sides = [("aaaa", "zzzz"), ("zzzz", "aaaa")]
    tries = [[Pair(*side, prompt=f"The letter of {name} is") for name in COUNTRIES] for side in sides]
    pairs = min(tries, key=lambda each: _Judge(model, each).score(0, torch.zeros(32)))
    made = make(model, pairs, layers=(0, 1), strengths=(1.0, 4.0))
    assert made.about["held_out"] == 8 and made.about["tried"] == 8
    assert made.about["score_before"] < made.about["score"], made.about
    again = make(model, pairs, layers=(0, 1), strengths=(1.0, 4.0))
    assert torch.equal(made.vector, again.vector) and (made.layer, made.strength, made.method) == (again.layer, again.strength, again.method)


def test_what_does_not_help_is_refused(causal_folder: Path) -> None:
    model = LanguageModel(str(causal_folder))
    with pytest.raises(BadRequest, match="held-out"):
        make(model, [Pair(pair.positive, pair.negative) for pair in PAIRS], layers=(0,), strengths=(0.0,))


def test_files_are_read_strictly_and_back(causal_folder: Path, tmp_path: Path) -> None:
    model = LanguageModel(str(causal_folder))
    text = "\n".join(json.dumps({"positive": pair.positive, "negative": pair.negative}) for pair in PAIRS)
    assert read_pairs(text, "jsonl") == PAIRS
    for bad, message in (('{"positive": "x"}', "record 1"), ('{"positive": "x", "negative": "x"}', "both sides"), ('["x"]', "record 1")):
        with pytest.raises(FormatError, match=message):
            read_pairs(bad, "jsonl")
    for pairs, message in ((PAIRS[:7], "too few"), ([*PAIRS, Pair("a", "b", "c")], "one kind"), ([*PAIRS[:7], Pair("x" * 600, "y")], "reads 512")):
        with pytest.raises(BadRequest, match=message):
            make(model, pairs)
    with pytest.raises(BadRequest, match="0 to 1"):
        make(model, PAIRS, layers=(7,))
    made = make(model, PAIRS, layers=(1,), strengths=(1.0,))
    sha = made.save(tmp_path / "v")
    back = Steering.load(tmp_path / "v", sha)
    assert torch.equal(back.vector, made.vector) and (back.layer, back.about) == (made.layer, made.about)
    with pytest.raises(Conflict, match="made for"):
        back.held_to(LanguageModel(), "v")
    with pytest.raises(Conflict, match="already"):
        made.save(tmp_path / "v")
    (tmp_path / "v" / "vector.safetensors").write_bytes(b"x")
    with pytest.raises(Corrupt, match="ledger"):
        Steering.load(tmp_path / "v", sha)


def run(*words: str, store: Path) -> Result:
    return CliRunner().invoke(main, [*words, "--store", str(store)])


def answer(store: Path, query: str, *words: str) -> dict[str, object]:
    done = run("ask", query, "--json", *words, store=store)
    assert done.exit_code == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_pocket_is_steered_from_the_shell_and_back(store: Path, tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(json.dumps({"positive": pair.positive, "negative": pair.negative}) for pair in PAIRS), encoding="utf-8")
    capital, other = "What is the capital of France?", "Which currency is used in Kenya?"
    before = [answer(store, query)["answer"] for query in (capital, other)]
    made = run("steer", "make", str(file), "--name", "language", "--layers", "0,1", "--strengths", "1", "--json", store=store)
    assert made.exit_code == 0, made.stderr
    assert json.loads(made.stdout)["score"] > json.loads(made.stdout)["score_before"] + 0.3
    assert run("steer", "make", str(file), "--name", "language", store=store).exit_code == 4
    assert run("steer", "make", str(file), "--name", "../x", store=store).exit_code == 2
    assert [answer(store, query)["answer"] for query in (capital, other)] == before, "made is not attached"
    assert answer(store, capital, "--steer", "language")["answer"] == "French"
    assert run("ask", capital, "--steer", "none", store=store).exit_code == 3
    examples = [word for name in ("Spain", "Japan", "Greece", "Mexico") for word in ("--example", f"What is the capital of {name}?")]
    assert run("steer", "attach", "language", "which city is the capital", *examples, store=store).exit_code == 0
    steered_ = answer(store, capital)
    assert (steered_["answer"], steered_["steering"]) == ("French", ["language"])
    assert answer(store, other)["answer"] == before[1] and "steering" not in answer(store, other)
    assert "about which city" in run("steer", "list", store=store).stdout
    assert run("steer", "detach", "language", store=store).exit_code == 0
    assert [answer(store, query)["answer"] for query in (capital, other)] == before
    assert run("steer", "detach", "language", store=store).exit_code == 4
    assert run("steer", "remove", "language", store=store).exit_code == 0
    assert not (store / "steering" / "language").exists() and run("steer", "show", "language", store=store).exit_code == 3
    assert run("log", "--verify", store=store).exit_code == 0


def test_completions_steer_pocket() -> None:
    model = LanguageModel()
    known = "Spain Spanish Madrid Italy Italian Rome Egypt Arabic Cairo Japan Japanese Tokyo Turkey Turkish Ankara Russia Russian Moscow".split()
    known += "Mexico Spanish Mexico Sweden Swedish Stockholm Greece Greek Athens Poland Polish Warsaw Portugal Portuguese Lisbon Iran Persian Tehran".split()
    pairs = [Pair(language, city, f"Q: What is the capital of {name}?\nA:") for name, language, city in zip(known[0::3], known[1::3], known[2::3], strict=True)]
    made = make(model, pairs, methods=("mean",), layers=(0, 1), strengths=(2.0, 8.0))
    assert made.about["score_before"] < 0.2 and made.about["score"] > made.about["score_before"] + 0.2, made.about


def test_the_weights_do_not_answer_where_a_vector_steers(store: Path) -> None:
    with HybridMemory(store) as memory:
        made = make(memory.model, PAIRS, layers=(0,), strengths=(1.0,), methods=("mean",))
        from stores.rules import Steer

        memory.behaviour.table.put_steer(Steer(name="v", sha256=made.save(memory.behaviour.folder / "v"), attached=True), "attach")
        before = logits(memory.model)
        assert memory.ask("What is the capital of France?").steering == ("v",)
        with memory.behaviour.steered("v", strength=0.0):
            assert memory.ask("What is the capital of France?").text == memory.ask("What is the capital of France?", route="base").text == "Paris"
        assert torch.equal(logits(memory.model), before)
