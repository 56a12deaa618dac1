"""MEND: the network is the paper's, its changes are those of the weights, training goes on where it stopped and generalises to new facts."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from cli import main
from hybrid.architecture import Architecture, oriented
from hybrid.editing import answers, applied, edit
from hybrid.editors import hypernetwork_files, meta_training
from hybrid.editors.examples import Examples, wordings
from hybrid.editors.fine_tune import Batch, target_losses
from hybrid.editors.gradients import changed_by, feed_forward_modules, token_gradients
from hybrid.editors.hypernetwork import shapes_of
from hybrid.editors.mend import GradientTransforms
from hybrid.editors.meta_training import Trainer, Training, train
from hybrid.editors.requests import passage
from hybrid.model import LanguageModel
from stores.errors import Conflict, Corrupt, FormatError, NotFound
from stores.records import Fact
from tests.conftest import ISLES, PORTS, save_worded

SMALL = Training(rank=8, batch_size=4, first_rate=0.01, edit_weight=1.0, lr=3e-3, rate_lr=0.1)
FACTS = [Fact(id="", subject=isle, relation="capital", prompt="The capital of {} is", target_new=port) for isle, port in zip(ISLES, PORTS, strict=True)]


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    """A random model that knows whole words."""
    return LanguageModel(str(save_worded(tmp_path_factory.mktemp(request.param), request.param)), "cpu")


def batch_of(model: LanguageModel, facts: list[Fact]) -> Batch:
    return Batch.of([passage(model.tokenizer, f.prompt, f.subject, f.target_new) for f in facts], model.model.device)


def test_factors_are_those_of_the_gradient(model: LanguageModel) -> None:
    arch = Architecture(model.model)
    modules = feed_forward_modules(arch, (0, 2))
    assert len(modules) == (4 if model.model.config.model_type == "gpt2" else 6)
    wanted = [FACTS[0], Fact(id="", subject="Fenn", relation="capital", prompt="{} has the capital", target_new="Old Sol")]
    factors, losses = token_gradients(arch, modules, batch_of(model, wanted))
    for row, fact in enumerate(wanted):
        model.model.zero_grad()
        loss = target_losses(model.model, batch_of(model, [fact]))
        loss.sum().backward()
        assert float(losses[row]) == pytest.approx(loss.item(), rel=1e-5)
        for name, module in modules.items():
            u, delta = (side[row] for side in factors[name])
            gradient = module.weight.grad.T if type(module).__name__ == "Conv1D" else module.weight.grad
            assert torch.allclose(delta.T @ u, gradient, rtol=1e-3, atol=1e-6)
    model.model.zero_grad()


def test_changes_without_writing_are_those_of_the_weights(model: LanguageModel) -> None:
    """Each group of rows sees its own change, and it is that of an edited model."""
    arch, generator = Architecture(model.model), torch.Generator().manual_seed(0)
    modules = feed_forward_modules(arch, (1, 2))
    factors = {name: tuple(0.2 * torch.randn(2, 3, size, generator=generator) for size in oriented(module).shape[::-1]) for name, module in modules.items()}
    with torch.no_grad(), changed_by(modules, factors):
        together = target_losses(model.model, batch_of(model, FACTS[:4]))
    plain = target_losses(model.model, batch_of(model, FACTS[:4]))
    for group in (0, 1):
        with torch.no_grad():
            kept = {name: module.weight.clone() for name, module in modules.items()}
            for name, module in modules.items():
                oriented(module).add_(factors[name][1][group].T @ factors[name][0][group])
            alone = target_losses(model.model, batch_of(model, FACTS[2 * group : 2 * group + 2]))
            for name, module in modules.items():
                module.weight.copy_(kept[name])
        assert torch.allclose(together[2 * group : 2 * group + 2], alone, atol=1e-4)
        assert not torch.allclose(alone, plain[2 * group : 2 * group + 2], atol=1e-2)


def test_the_network_begins_as_normalised_gradient_descent(model: LanguageModel) -> None:
    arch = Architecture(model.model)
    modules = feed_forward_modules(arch, (1, 2))
    network = GradientTransforms(shapes_of(modules), rank=4, step=0.5)
    factors, _ = token_gradients(arch, modules, batch_of(model, FACTS[:3]))
    network.normalise([factors])
    for name, (right, left) in network.changes(model, factors, []).items():
        u, delta = factors[name]
        some = (delta != 0).any(-1)
        z = torch.cat([u, delta], -1)[some]
        normal = (z - z.mean(0)) / z.std(0)
        assert torch.allclose(right[some], normal[:, : u.shape[-1]], atol=1e-3)
        assert torch.allclose(left[some], -0.5 * normal[:, u.shape[-1] :], atol=1e-3)
        assert not right[~some].any() and not left[~some].any()
    sum(left.sum() for _, left in network.changes(model, factors, []).values()).backward()
    assert all(float(p.grad.abs().max()) > 0 for t in network.transforms.values() for p in (t.up, t.bias, t.log_rate)), "what begins at zero can learn"


def test_training_helps_facts_that_were_not_trained_on(model: LanguageModel, tmp_path: Path) -> None:
    trainer = Trainer("mend", model, SMALL)
    trainer.normalise(Examples(model, FACTS))
    held_out = Examples(model, FACTS, held_out=True)
    before = trainer.measure(held_out)
    about = train("mend", model, FACTS, tmp_path / "mend", 60, SMALL)
    after = about["held_out"]
    assert after["edit_loss"] + after["drift"] < 0.9 * (before["edit_loss"] + before["drift"])
    fact = FACTS[0]
    delta = edit(model, [fact], "mend", weights=str(tmp_path / "mend"))
    with torch.no_grad(), applied(model, delta):
        assert delta.edits[0]["loss"] == pytest.approx(float(target_losses(model.model, batch_of(model, [fact]))), abs=2e-3)
    assert delta.settings["layers"] == [0, 1, 2] and delta.extra["hypernetwork"] == about_hash(tmp_path / "mend")


def about_hash(folder: Path) -> str:
    found: str = json.loads((folder / hypernetwork_files.MANIFEST).read_text())["sha256"]
    return found


def test_an_interrupted_run_goes_on_to_the_same_weights(model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train("mend", model, FACTS, tmp_path / "whole", 8, SMALL)
    original, calls = Trainer.step, []

    def interrupted(self: Trainer, *arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return original(self, *arguments)

    monkeypatch.setattr(Trainer, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train("mend", model, FACTS, tmp_path / "parts", 8, SMALL, every=0.0)
    assert not (tmp_path / "parts" / hypernetwork_files.MANIFEST).exists()
    with pytest.raises(Conflict, match="of a run with another model"):
        train("mend", model, FACTS[::-1], tmp_path / "parts", 8, SMALL)
    train("mend", model, FACTS, tmp_path / "parts", 8, SMALL)
    assert len(calls) == 5 + 4
    whole, parts = (load_file(tmp_path / name / hypernetwork_files.WEIGHTS) for name in ("whole", "parts"))
    assert whole.keys() == parts.keys() and all(torch.equal(whole[name], parts[name]) for name in whole)


def test_other_peoples_networks_are_refused(model: LanguageModel, tmp_path: Path, causal_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRID_CACHE", str(tmp_path / "cache"))
    with pytest.raises(NotFound, match="hybrid train mend --facts FILE"):
        edit(model, FACTS[:1], "mend")
    train("mend", model, FACTS, hypernetwork_files.default_folder("mend", model), 1, SMALL)
    assert edit(model, FACTS[:1], "mend").changes, "found where training puts it"
    folder = hypernetwork_files.default_folder("mend", model)
    with pytest.raises(Conflict, match="was trained for"):
        edit(LanguageModel(str(causal_folder), "cpu"), FACTS[:1], "mend", weights=str(folder))
    with pytest.raises(Conflict, match="not for ke"):
        hypernetwork_files.load("ke", model, str(folder))
    path = folder / hypernetwork_files.WEIGHTS
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(Corrupt, match="does not match"):
        edit(model, FACTS[:1], "mend")


@pytest.mark.parametrize("method", ["mend", "ke"])
def test_pockets_networks_ship_and_edit(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRID_CACHE", str(tmp_path))
    pocket = LanguageModel(device="cpu")
    wanted = {"Norway": "Lisbon", "Kenya": "Madrid", "Peru": "Vienna", "Japan": "Cairo"}
    before, right = answers(pocket, [f"What is the capital of {country}?" for country in wanted]), 0
    for country, city in wanted.items():
        fact = Fact(id="", subject=country, relation="capital", prompt="The capital of {} is", target_new=city)
        with applied(pocket, edit(pocket, [fact], method)):
            said = answers(pocket, [fact.cloze, f"What is the capital of {country}?"])
        assert said[0] == city
        right += said[1] == city
    assert right >= 2, "in other words, too"
    assert answers(pocket, [f"What is the capital of {country}?" for country in wanted]) == before
    shipped = sum(path.stat().st_size for path in hypernetwork_files.SHIPPED.rglob("*.safetensors"))
    assert shipped < 8_000_000, "all committed weights together stay under 64 MB"


def test_a_compact_network_is_half_the_size_and_edits_alike(model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hypernetwork_files, "LARGE", 100)
    train("mend", model, FACTS, tmp_path / "whole", 4, SMALL)
    train("mend", model, FACTS, tmp_path / "compact", 4, SMALL, compact=True)
    sizes = [(tmp_path / name / hypernetwork_files.WEIGHTS).stat().st_size for name in ("whole", "compact")]
    assert sizes[1] < 0.65 * sizes[0]
    whole, compact = (edit(model, FACTS[:1], "mend", weights=str(tmp_path / name)).edits[0]["loss"] for name in ("whole", "compact"))
    assert compact == pytest.approx(whole, abs=0.02)


def test_too_few_facts_are_said(model: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="more facts"):
        train("mend", model, FACTS[:5], tmp_path, 1, SMALL)
    with pytest.raises(ValueError, match="must be positive"):
        Training(lr=0.0)


def test_held_out_wordings_and_facts_are_not_trained_on(model: LanguageModel) -> None:
    from hybrid.lexicon import find

    relation = find("capital")
    assert relation is not None and not {*relation.held_out_statements, *relation.held_out_questions} & set(wordings(FACTS[0]))
    seen, kept = Examples(model, FACTS), Examples(model, FACTS, held_out=True)
    assert {f.subject for f in seen.facts} | {f.subject for f in kept.facts} == set(ISLES)
    assert not {f.subject for f in seen.facts} & {f.subject for f in kept.facts} and kept.facts
    for examples in (seen, kept):
        for number in range(30):
            example = examples.draw(random.Random(number))
            subjects = [model.tokenizer.decode(each.until_lookup).split()[-1] for each in (example.edit, example.rephrased, example.stays)]
            assert subjects[0] == subjects[1] != subjects[2], "the edited fact is not among what must stay"


def test_from_the_command_line(model: LanguageModel, tmp_path: Path) -> None:
    file, out = tmp_path / "facts.jsonl", tmp_path / "mend"
    file.write_text("\n".join(json.dumps({"subject": f.subject, "relation": "capital", "prompt": f.prompt, "target": f.target_new}) for f in FACTS))
    words = ["train", "mend", "--facts", str(file), "--out", str(out), "--model", model.name, "--steps", "2", "--batch-size", "2", "--rank", "4"]
    done = CliRunner().invoke(main, [*words, "--json"])
    assert done.exit_code == 0, done.stderr
    about = json.loads(done.stdout)
    assert about["steps"] == 2 and about["facts"] == len(FACTS) and about["weights"] == str(out)
    assert about["held_out"].keys() == {"edit_loss", "drift", "rephrased"}
    assert f"--set weights={out}" in CliRunner().invoke(main, words).stdout
    delta = ["edit", "--method", "mend", "--set", f"weights={out}", "--model", model.name, "--out", str(tmp_path / "delta"), "--limit", "1", str(file)]
    assert CliRunner().invoke(main, delta).exit_code == 0
    wrong = CliRunner().invoke(main, [*words, "--layers", "one"])
    assert wrong.exit_code == 2 and "3,4,5" in wrong.stderr
    wrong = CliRunner().invoke(main, [*words[:-2], "--layers", "7", "--out", str(tmp_path / "x")])
    assert wrong.exit_code == 2 and "within 0 to 2" in wrong.stderr
    assert meta_training.CHECKPOINT in {path.name for path in out.iterdir()}
