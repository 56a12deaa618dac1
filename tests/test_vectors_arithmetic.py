"""Task vectors: from checkpoints, LoRA adapters and generations; scaled, added, merged; and the commands."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from cli import main
from hybrid.editing import applied
from hybrid.fingerprint import tensor_hashes
from hybrid.model import LanguageModel
from hybrid.vectors import combine, made, read, scaled
from stores.deltas import Delta, Factors
from stores.errors import BadRequest, Conflict, HybridError, NotFound
from tests.conftest import save_causal


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def kind(request: pytest.FixtureRequest) -> str:
    """Matrices as they are multiplied, or transposed; with biases, or without."""
    return str(request.param)


@pytest.fixture(scope="module")
def folders(kind: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A base, and what training made of it: every parameter has moved."""
    from transformers import AutoModelForCausalLM

    place = tmp_path_factory.mktemp(kind)
    base = save_causal(place / "base", kind)
    shutil.copytree(base, place / "tuned")
    tuned = AutoModelForCausalLM.from_pretrained(base)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    tuned.save_pretrained(place / "tuned")
    return base, place / "tuned"


@pytest.fixture
def base(folders: tuple[Path, Path]) -> LanguageModel:
    return LanguageModel(str(folders[0]), "cpu")


@pytest.fixture
def tuned(folders: tuple[Path, Path]) -> LanguageModel:
    return LanguageModel(str(folders[1]), "cpu")


def scores(model: LanguageModel) -> torch.Tensor:
    with torch.no_grad():
        return model.model(input_ids=torch.tensor([model.tokenizer("The ferry leaves at noon")["input_ids"]])).logits


def test_the_vector_of_a_checkpoint_leads_to_it_and_back(base: LanguageModel, tuned: LanguageModel) -> None:
    vector, before, hashes = made(base, tuned), scores(base), tensor_hashes(base.model)
    assert len(vector.changes) == len(dict(base.model.named_parameters()))
    with applied(base, vector):
        for name, parameter in base.model.named_parameters():
            assert torch.allclose(parameter, tuned.model.get_parameter(name), rtol=0, atol=1e-8), name
        assert torch.allclose(scores(base), scores(tuned), atol=1e-4) and not torch.allclose(before, scores(base), atol=1e-2)
    assert tensor_hashes(base.model) == hashes
    with applied(base, scaled(vector, -1.0)):
        name = next(iter(vector.changes))
        mirrored = 2 * base_of(base, tuned, name) - tuned.model.get_parameter(name)
        assert torch.allclose(base.model.get_parameter(name), mirrored, atol=1e-6)
    cancelled = combine([vector, vector], weights=[1.0, -1.0])
    assert all(not cancelled.dense(name).any() for name in cancelled.changes)


def base_of(base: LanguageModel, tuned: LanguageModel, name: str) -> torch.Tensor:
    """The base's parameter, read anew."""
    return LanguageModel(base.name, "cpu").model.get_parameter(name)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft asks transformers in its old way
def test_a_lora_adapter_is_a_vector(base: LanguageModel, kind: str, tmp_path: Path) -> None:
    import peft
    from transformers import AutoModelForCausalLM

    torch.manual_seed(2)
    inner = AutoModelForCausalLM.from_pretrained(base.name)
    target = "c_proj" if kind == "gpt2" else "down_proj"
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=[target], task_type="CAUSAL_LM", fan_in_fan_out=kind == "gpt2", init_lora_weights=False)
    adapted = peft.get_peft_model(inner, config)
    adapted.save_pretrained(tmp_path / "lora")
    vector = read(str(tmp_path / "lora"), base)
    assert all(isinstance(change, Factors) and change.left.shape[1] == 3 for change in vector.changes.values())
    ids = torch.tensor([base.tokenizer("The ferry leaves at noon")["input_ids"]])
    with torch.no_grad(), applied(base, vector):
        assert torch.allclose(base.model(input_ids=ids).logits, adapted(input_ids=ids).logits, atol=1e-4)
    both = combine([vector, scaled(vector, 0.5)], weights=[1.0, 2.0])
    name = next(iter(vector.changes))
    assert isinstance(both.changes[name], Factors) and np.allclose(both.dense(name), 2 * vector.dense(name), atol=1e-6)


def test_a_generation_is_a_vector(base: LanguageModel, tmp_path: Path) -> None:
    from hybrid.architecture import Architecture
    from stores.generations import Draft, Generations
    from stores.ledger import Ledger

    name, rng = Architecture(base.model).weight_name(0), np.random.default_rng(0)
    rows, columns = Architecture(base.model).weight(0).shape
    factors = Factors(rng.normal(size=(rows, 2)).astype(np.float32), rng.normal(size=(columns, 2)).astype(np.float32))
    ledger = Ledger(tmp_path / "ledger.db")
    draft = Draft(
        model=base.identity, base_hash="0", weights_hash="1", tensors={name: "2"}, facts=(), method="memit", settings={}, verification={},
        changes={name: factors}, extra={},
    )  # fmt: skip
    generations = Generations(ledger, tmp_path / "generations")
    number = generations.publish(draft)
    assert np.array_equal(read(f"generation:{number}", base, generations).dense(name), factors.dense)
    with pytest.raises(NotFound, match="no generation 9"):
        read("generation:9", base, generations)
    with pytest.raises(BadRequest, match="generation:3"):
        read("generation:three", base, generations)
    ledger.close()


def ties_of_the_paper(vectors: list[np.ndarray], weights: list[float], density: float) -> np.ndarray:
    """Yadav et al. 2023, algorithm 1: trim, elect signs by total mass, mean of those that agree."""
    trimmed = []
    for vector in vectors:
        keep = int(density * vector.size)
        smallest = np.sort(np.abs(vector).ravel())[-keep]
        trimmed.append(np.where(np.abs(vector) >= smallest, vector, 0))
    stacked = np.stack(trimmed)
    elected = np.where(stacked.sum(0) >= 0, 1, -1)
    agree = np.sign(stacked) == elected
    total = (stacked * np.array(weights)[:, None, None] * agree).sum(0)
    return total / np.maximum(agree.sum(0), 1)


def vector_of(base: LanguageModel, seed: int) -> Delta:
    rng = np.random.default_rng(seed)
    changes = {name: rng.normal(size=(20, 30)).astype(np.float32) for name in ("a.weight", "b.weight")}
    return Delta(method="ft", model=base.identity, settings={}, changes=changes)


def test_merges_are_the_papers(base: LanguageModel) -> None:
    vectors, weights = [vector_of(base, seed) for seed in range(3)], [1.0, 0.5, 2.0]
    dense = [vector.dense("a.weight") for vector in vectors]
    ties = combine(vectors, "ties", weights, density=0.3)
    assert np.allclose(ties.dense("a.weight"), ties_of_the_paper(dense, weights, 0.3), atol=1e-6)
    one, again, other = (combine(vectors[:1], "dare", density=0.25, seed=seed).dense("a.weight") for seed in (0, 0, 1))
    assert np.array_equal(one, again) and not np.array_equal(one, other)
    assert np.allclose(one[one != 0], 4 * dense[0][one != 0]) and 0.15 < (one != 0).mean() < 0.35  # what is left is rescaled by 1 / density
    linear = combine(vectors, "linear", weights)
    assert np.allclose(linear.dense("b.weight"), sum(w * v.dense("b.weight") for w, v in zip(weights, vectors, strict=True)), atol=1e-5)


def test_a_missing_library_is_said(base: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft.utils.merge_utils", None)
    with pytest.raises(HybridError, match="TIES or DARE needs the peft library"):
        combine([vector_of(base, 0)], "ties")


def test_mistakes_are_refused(base: LanguageModel, tuned: LanguageModel, tmp_path: Path) -> None:
    vector = vector_of(base, 0)
    with pytest.raises(ValueError, match="density"):
        combine([vector], "ties", density=0.0)
    with pytest.raises(ValueError, match="one weight to each"):
        combine([vector], weights=[1.0, 2.0])
    with pytest.raises(Conflict, match="different models"):
        combine([vector, vector_of(tuned, 1)])
    with pytest.raises(BadRequest, match="no vector between"):
        made(base, base)
    other = LanguageModel(str(save_causal(tmp_path / "other", "llama", layers=3)), "cpu")
    with pytest.raises(Conflict, match="not one architecture"):
        made(base, other)
    with pytest.raises(NotFound, match="neither"):
        read(str(tmp_path), base)


def run(*words: str | Path, code: int = 0) -> Any:
    done = CliRunner().invoke(main, list(map(str, words)))
    assert done.exit_code == code, done.output
    return done


def test_the_commands(folders: tuple[Path, Path], base: LanguageModel, tuned: LanguageModel, tmp_path: Path) -> None:
    start, end = folders
    made_ = json.loads(run("vectors", "make", end, "--model", start, "--out", tmp_path / "v", "--json").stdout)
    assert made_["parameters"] == len(dict(base.model.named_parameters())) and made_["norm"] > 0
    run("vectors", "negate", tmp_path / "v", "--scale", "0.5", "--model", start, "--out", tmp_path / "n")
    run("vectors", "add", tmp_path / "v", tmp_path / "n", "--weight", "1", "--weight", "2", "--model", start, "--out", tmp_path / "zero")
    assert not any(Delta.load(tmp_path / "zero").dense(name).any() for name in Delta.load(tmp_path / "zero").changes)
    run("vectors", "combine", tmp_path / "v", end, "--method", "ties", "--density", "0.5", "--model", start, "--out", tmp_path / "ties")
    assert "task-vector" in run("edit", "show", tmp_path / "ties").stdout
    run("edit", "apply", tmp_path / "v", "--model", start, "--out", tmp_path / "model")
    assert torch.allclose(scores(LanguageModel(str(tmp_path / "model"), "cpu")), scores(tuned), atol=1e-4)
    assert "is not empty" in run("vectors", "negate", tmp_path / "v", "--model", start, "--out", tmp_path / "v", code=4).stderr
    assert (
        "give one to each" in run("vectors", "add", tmp_path / "v", "--weight", "1", "--weight", "2", "--model", start, "--out", tmp_path / "x", code=2).stderr
    )
    assert "no store" in run("vectors", "make", "generation:1", "--store", tmp_path / "none", "--model", start, "--out", tmp_path / "x", code=3).stderr
