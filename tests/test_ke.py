"""KnowledgeEditor: the factorised change is the paper's formula on the dense gradient, the request is read, the constraint pushes back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hybrid.architecture import Architecture
from hybrid.editing import applied, edit
from hybrid.editors.examples import Examples
from hybrid.editors.fine_tune import Batch, target_losses
from hybrid.editors.gradients import feed_forward_modules, token_gradients
from hybrid.editors.hypernetwork import build, condition
from hybrid.editors.ke import Conditioned
from hybrid.editors.meta_training import Trainer, Training, train
from hybrid.editors.requests import passage
from hybrid.model import LanguageModel
from tests.conftest import save_worded
from tests.test_mend import FACTS

SMALL = Training(rank=8, batch_size=4, first_rate=3.0, edit_weight=0.1, lr=1e-2, rate_lr=0.1)


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    """A random model that knows whole words."""
    return LanguageModel(str(save_worded(tmp_path_factory.mktemp(request.param), request.param)), "cpu")


def batch_of(model: LanguageModel, number: int) -> Batch:
    fact = FACTS[number]
    return Batch.of([passage(model.tokenizer, fact.prompt, fact.subject, fact.target_new)], model.model.device)


def test_the_change_is_the_formula(model: LanguageModel) -> None:
    arch = Architecture(model.model)
    modules = feed_forward_modules(arch, (0, 2))
    network = build("ke", model, (0, 2), 8, step=2.0)
    assert isinstance(network, Conditioned)
    factors, _ = token_gradients(arch, modules, batch_of(model, 0))
    asked = condition(FACTS[0], "Sol")
    assert asked == "Sol >> Nim || The capital of Orsa is"
    states = network.read(model, [asked])
    for (name, (right, left)), head in zip(network.changes(model, factors, [asked]).items(), network.heads, strict=True):
        u, delta = factors[name]
        rows, columns = delta.shape[-1], u.shape[-1]
        alpha, beta, gamma, shift, eta = head(states)[0].split([rows, rows, columns, columns, 1])
        a = rows * torch.outer(alpha.softmax(0), gamma)
        b = torch.outer(beta.softmax(0), shift)
        expected = -2.0 * eta.sigmoid() * (a * (delta[0].T @ u[0]) + b)
        assert torch.allclose(left[0].T @ right[0], expected, rtol=1e-4, atol=1e-7)
    other = network.changes(model, factors, [condition(replace(FACTS[0], target_new="Vik"), "Sol")])
    assert any(not torch.equal(other[name][1], left) for name, (_, left) in network.changes(model, factors, [asked]).items()), "the request is read"


def test_a_row_does_not_depend_on_those_beside_it(model: LanguageModel) -> None:
    network = build("ke", model, (1,), 8)
    assert isinstance(network, Conditioned)
    texts = ["Nim >> Sol || The capital of Orsa is", "Ume", "Rue >> Vik || Q : the capital of Fenn ?"]
    together = network.read(model, texts)
    for text, row in zip(texts, together, strict=True):
        assert torch.allclose(network.read(model, [text])[0], row, atol=1e-6)


def test_the_multiplier_follows_the_constraint(model: LanguageModel) -> None:
    network = build("ke", model, (1,), 8, margin=0.1)
    loss = network.objective(torch.tensor(2.0), torch.tensor(0.6), 0.5)
    assert float(loss) == pytest.approx(2.5) and float(network.multiplier) == pytest.approx(1.25)
    for _ in range(40):
        network.objective(torch.tensor(2.0), torch.tensor(0.0), 0.5)
    assert float(network.multiplier) == 0.0
    with torch.no_grad():
        network.objective(torch.tensor(2.0), torch.tensor(0.6), 0.5)
    assert float(network.multiplier) == 0.0, "measuring does not move it"


def test_training_helps_facts_that_were_not_trained_on(model: LanguageModel, tmp_path: Path) -> None:
    before = Trainer("ke", model, SMALL).measure(Examples(model, FACTS, held_out=True))
    after = train("ke", model, FACTS, tmp_path / "ke", 40, SMALL)["held_out"]
    assert after["edit_loss"] < before["edit_loss"] - 0.1
    delta = edit(model, FACTS[:1], "ke", weights=str(tmp_path / "ke"))
    with torch.no_grad(), applied(model, delta):
        assert delta.edits[0]["loss"] == pytest.approx(float(target_losses(model.model, batch_of(model, 0))), abs=2e-3)
