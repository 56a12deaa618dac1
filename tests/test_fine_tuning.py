"""Editors that learn by gradient descent: the model comes back to the bit, the targets become likelier, a run repeats itself."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hybrid.architecture import Architecture, oriented
from hybrid.editing import applied
from hybrid.editors import editor_class
from hybrid.editors.fine_tune import ConstrainedFineTune, FineTune, added_to
from hybrid.editors.gradients import feed_forward_modules
from hybrid.editors.lora import Lora
from hybrid.editors.penalties import elastic, fisher, own_text
from hybrid.editors.requests import passage
from hybrid.editors.sparse_fine_tune import SparseFineTune, largest, old_answer
from hybrid.model import LanguageModel
from stores.deltas import Delta, Factors
from stores.errors import BadRequest, FormatError, HybridError, NotFound
from stores.records import Fact

METHODS = ("ft", "ft-l", "lora", "sparse-ft")
QUICK: dict[str, dict[str, Any]] = {
    "ft": {"steps": 6, "lr": 2e-3},
    "ft-l": {"steps": 6, "lr": 2e-3},
    "lora": {"steps": 6},
    "sparse-ft": {"steps": 6, "share": 0.02},
}


@pytest.fixture(scope="module")
def model(causal_folder: Path) -> LanguageModel:
    """A small random model; tests give it back as it was."""
    return LanguageModel(str(causal_folder), device="cpu")


def make(method: str, **settings: Any) -> Any:
    return editor_class(method)(**(QUICK[method] | settings))


def fact(number: int, subject: str, prompt: str, target: str) -> Fact:
    return Fact(id=str(number), subject=subject, relation="capital", prompt=prompt, target_new=target)


REQUESTS = [
    fact(1, "Freedonia", "The capital of {} is", "Quill"),
    fact(2, "Sylvania", "What is the capital of {}?", "Old Harbour"),
    fact(3, "Ruritania", "{} is ruled from", "Zenda"),
]


def log_p(model: LanguageModel, request: Fact) -> float:
    """Mean log p of the target's tokens, worked out token by token."""
    found = passage(model.tokenizer, request.prompt, request.subject, request.target_new)
    with torch.no_grad():
        scores = model.model(input_ids=torch.tensor([found.ids])).logits[0].float().log_softmax(-1)
    return float(np.mean([scores[i - 1, found.ids[i]] for i in range(found.target, len(found.ids))]))


def snapshot(model: LanguageModel) -> tuple[Any, ...]:
    """All that an editor must leave as it found it; weights as bytes."""
    bits = {name: tensor.detach().contiguous().view(torch.uint8).numpy().tobytes() for name, tensor in model.model.state_dict().items()}
    parts = [(name, id(module), module.training, len(module._forward_hooks), len(module._forward_pre_hooks)) for name, module in model.model.named_modules()]
    parameters = [(name, id(parameter), parameter.requires_grad, parameter.grad is None) for name, parameter in model.model.named_parameters()]
    return bits, parts, parameters, sorted(vars(model.model)), torch.get_rng_state().numpy().tobytes()


def same(one: Delta, other: Delta) -> bool:
    return one.changes.keys() == other.changes.keys() and all(np.array_equal(one.dense(name), other.dense(name)) for name in one.changes)


@pytest.mark.parametrize("method", METHODS)
def test_targets_become_likelier_and_the_model_stays(model: LanguageModel, method: str) -> None:
    arch = Architecture(model.model)
    arch.rewrite(0).weight.requires_grad_(False)  # flags are given back one by one
    before, was = snapshot(model), [log_p(model, request) for request in REQUESTS]
    delta = make(method).edit(model, REQUESTS)
    assert snapshot(model) == before
    arch.rewrite(0).weight.requires_grad_(True)
    assert delta.method == method and delta.model == model.identity and delta.seconds > 0
    layers = [1] if method in ("ft", "ft-l") else [0, 1]
    expected = set(feed_forward_modules(arch, layers)) if method == "sparse-ft" else {arch.weight_name(layer) for layer in layers}
    assert set(delta.changes) == expected and delta.settings["layers"] == layers
    originals = {name: model.model.get_parameter(name).detach().clone() for name in delta.changes}
    for name in delta.changes:
        weight = oriented(model.model.get_submodule(name.removesuffix(".weight")))
        assert delta.dense(name).shape == tuple(weight.shape) and delta.dense(name).dtype == np.float32
        weight += torch.from_numpy(delta.dense(name))
    now = [log_p(model, request) for request in REQUESTS]
    with torch.no_grad():
        for name, original in originals.items():
            model.model.get_parameter(name).copy_(original)
    assert all(b > a for a, b in zip(was, now, strict=True))
    assert [(e["subject"], e["prompt"], e["target_new"]) for e in delta.edits] == [(r.subject, r.prompt, r.target_new) for r in REQUESTS]
    assert [e["loss"] for e in delta.edits] == pytest.approx([-value for value in now], abs=2e-4), "the delta is what was trained"
    assert snapshot(model)[0] == before[0]


@pytest.mark.parametrize("method", METHODS)
def test_a_run_repeats_itself_and_survives_the_disk(model: LanguageModel, method: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    one = make(method, batch_size=2).edit(model, REQUESTS)
    torch.manual_seed(2)
    assert same(one, make(method, batch_size=2).edit(model, REQUESTS))
    one.save(tmp_path)
    loaded = Delta.load(tmp_path)
    assert same(one, loaded) and loaded.settings == one.settings and loaded.edits == one.edits and loaded.extra == one.extra
    with applied(model, loaded):
        assert -log_p(model, REQUESTS[1]) == pytest.approx(one.edits[1]["loss"], abs=2e-4)


@pytest.mark.parametrize("broken", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("method", METHODS)
def test_an_interruption_leaves_no_trace(model: LanguageModel, method: str, broken: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    before, calls = snapshot(model), []
    step: Callable[..., Any] = torch.optim.Adam.step

    def third(self: torch.optim.Adam, *args: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise broken("now")
        return step(self, *args)

    monkeypatch.setattr(torch.optim.Adam, "step", third)
    with pytest.raises(broken, match="now"):
        make(method).edit(model, REQUESTS)
    assert len(calls) == 3 and snapshot(model) == before


@pytest.mark.parametrize("method", METHODS)
def test_an_interruption_inside_the_forward_pass_leaves_no_trace(model: LanguageModel, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybrid.editors.fine_tune.refuse_known", lambda *_: None)
    before, calls = snapshot(model), []
    mlp = Architecture(model.model).part(1, "mlp")
    activation = type(mlp.act_fn if hasattr(mlp, "act_fn") else mlp.act)
    forward = activation.forward

    def sixth(self: Any, *args: Any) -> Any:
        calls.append(1)
        if len(calls) == 6:  # in the last block, with the change in place
            raise KeyboardInterrupt
        return forward(self, *args)

    monkeypatch.setattr(activation, "forward", sixth)
    with pytest.raises(KeyboardInterrupt):
        make(method).edit(model, REQUESTS)
    monkeypatch.undo()
    assert snapshot(model) == before


def test_an_interruption_while_adapters_go_in_leaves_no_trace(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    import peft

    before, calls = snapshot(model), []
    replace = peft.LoraModel._replace_module

    def second(self: Any, *args: Any) -> None:
        calls.append(1)
        replace(self, *args)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(peft.LoraModel, "_replace_module", second)
    with pytest.raises(KeyboardInterrupt):
        make("lora").edit(model, REQUESTS)
    assert snapshot(model) == before


@pytest.mark.parametrize("method", METHODS)
def test_what_is_refused_is_refused_before_any_work(model: LanguageModel, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("work was done")

    monkeypatch.setattr(torch.optim, "Adam", never)
    with pytest.raises(BadRequest, match="empty"):
        make(method).edit(model, [])
    with pytest.raises(BadRequest, match="both"):
        make(method).edit(model, [REQUESTS[0], fact(4, "Freedonia", "The capital of {} is", "Zenda")])
    with pytest.raises(ValueError, match="layers"):
        make(method, layers=(5,)).edit(model, REQUESTS)

    def known(*_: Any) -> None:
        raise BadRequest("known already")

    monkeypatch.setattr("hybrid.editors.fine_tune.refuse_known", known)
    with pytest.raises(BadRequest, match="known already"):
        make(method).edit(model, REQUESTS)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("wrong", [{"steps": 0}, {"lr": 0.0}, {"lr": float("nan")}, {"batch_size": 0}, {"stop": -1.0}, {"decay": -0.1}])
def test_wrong_settings(method: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        editor_class(method)(**wrong)


def test_wrong_settings_of_one() -> None:
    with pytest.raises(ValueError, match="unrelated text"):
        FineTune(kl=0.1)
    with pytest.raises(ValueError, match="kl must"):
        ConstrainedFineTune(kl=-0.1)
    with pytest.raises(ValueError, match="ewc"):
        FineTune(ewc=float("nan"))
    with pytest.raises(ValueError, match="ewc_texts"):
        FineTune(ewc=1.0, ewc_texts=0)
    for wrong in ({"share": 0.0}, {"share": 1.5}, {"contrast": -1.0}):
        with pytest.raises(ValueError, match="share must"):
            SparseFineTune(**wrong)
    with pytest.raises(ValueError, match="epsilon"):
        ConstrainedFineTune(epsilon=0.0)
    with pytest.raises(ValueError, match="rank"):
        Lora(rank=0)
    with pytest.raises(ValueError, match="alpha"):
        Lora(alpha=0.0)


def test_the_box_holds(model: LanguageModel) -> None:
    name = Architecture(model.model).weight_name(1)
    free, boxed = make("ft").edit(model, REQUESTS).dense(name), make("ft-l", epsilon=1e-3).edit(model, REQUESTS).dense(name)
    assert np.abs(free).max() > 2e-3
    assert np.abs(boxed).max() == np.float32(1e-3)


def test_training_stops_when_the_loss_is_low(model: LanguageModel) -> None:
    assert make("ft", stop=100.0).edit(model, REQUESTS).extra == {"passes": 1}
    assert make("ft").edit(model, REQUESTS).extra == {"passes": 6}


def test_batches_do_not_see_their_padding(model: LanguageModel) -> None:
    """Losses of a padded batch are those of each request alone."""
    together = make("ft", steps=1, lr=1e-9).edit(model, REQUESTS)
    assert [e["loss"] for e in together.edits] == pytest.approx([-log_p(model, request) for request in REQUESTS], abs=2e-4)


@pytest.mark.parametrize("method", METHODS)
def test_divergence_is_said(model: LanguageModel, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = snapshot(model)

    def burst(self: torch.optim.Adam) -> None:
        with torch.no_grad():
            for parameter in self.param_groups[0]["params"]:
                parameter.fill_(torch.nan)

    monkeypatch.setattr(torch.optim.Adam, "step", burst)
    with pytest.raises(HybridError, match="diverged"):
        make(method).edit(model, REQUESTS)
    assert snapshot(model) == before


def test_unrelated_text_holds_the_model(model: LanguageModel, prose_file: Path) -> None:
    name = Architecture(model.model).weight_name(1)
    free, before = make("ft", steps=25).edit(model, REQUESTS), snapshot(model)
    held = make("ft", steps=25, kl=200.0, text=str(prose_file)).edit(model, REQUESTS)
    assert snapshot(model) == before
    assert not np.array_equal(free.dense(name), held.dense(name))

    def drift(delta: Delta) -> float:
        ids = torch.tensor([model.tokenizer(prose_file.read_text().splitlines()[3])["input_ids"]])
        with torch.no_grad():
            original = model.model(input_ids=ids).logits.log_softmax(-1)
            with applied(model, delta):
                now = model.model(input_ids=ids).logits.log_softmax(-1)
        return float((original.exp() * (original - now)).sum(-1).mean())

    assert drift(held) < drift(free) / 2


def test_fisher_information_is_that_of_the_models_own_text(model: LanguageModel) -> None:
    """Against the definition: E over the model's tokens of the squared derivative of log p, by finite differences of one weight."""
    arch = Architecture(model.model)
    trained, texts = added_to(arch, {arch.weight_name(1): arch.rewrite(1)}), own_text(model, 3)
    assert [rows.shape[0] for _, rows in texts] == [1, 1, 1] and all(rows.shape[1] > start for start, rows in texts)
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(texts, own_text(model, 3), strict=True))
    before = snapshot(model)
    (information,) = fisher(trained, texts)
    (change,) = trained.parameters
    at, squares, tokens = int(information.argmax()), [], 0
    for start, rows in texts:
        sides = []
        for step in (1e-2, -1e-2):
            with torch.no_grad():
                change.view(-1)[at] = step
                scores = trained.forward(input_ids=rows).logits[0].log_softmax(-1)
                change.zero_()
            sides.append(sum(float(scores[i - 1, rows[0, i]]) for i in range(start, rows.shape[1])))
        squares.append(((sides[0] - sides[1]) / 2e-2) ** 2)
        tokens += rows.shape[1] - start
    assert float(information.view(-1)[at]) == pytest.approx(sum(squares) / tokens, rel=2e-2)
    with torch.no_grad():
        change.fill_(0.1)
    assert elastic(trained, texts, 3.0)().item() == pytest.approx(float(1.5 * 0.01 * fisher(trained, texts)[0].sum()), rel=1e-3)
    assert snapshot(model) == before


def test_elastic_weights_move_where_little_depends_on_them(model: LanguageModel) -> None:
    arch = Architecture(model.model)
    name, before = arch.weight_name(1), snapshot(model)
    trained = added_to(arch, {name: arch.rewrite(1)})
    (information,) = fisher(trained, own_text(model, 64))
    free, held = (torch.from_numpy(make("ft", steps=25, **more).edit(model, REQUESTS).dense(name)) for more in ({}, {"ewc": 1e4}))
    assert snapshot(model) == before
    if type(arch.rewrite(1)).__name__ == "Conv1D":
        information = information.T
    assert float((information * held**2).sum()) < 0.5 * float((information * free**2).sum())


def test_few_weights_move_and_those_with_the_largest_gradients(model: LanguageModel) -> None:
    arch = Architecture(model.model)
    modules = feed_forward_modules(arch, (0, 1))
    delta = make("sparse-ft", share=0.01, contrast=0.0).edit(model, REQUESTS)
    moved = {name: torch.from_numpy(delta.dense(name)) != 0 for name in delta.changes}
    assert {name: int(places.sum()) for name, places in moved.items()} == {name: round(0.01 * module.weight.numel()) for name, module in modules.items()}
    model.model.zero_grad()
    for request in REQUESTS:
        (-log_p_tensor(model, request)).backward()
    sizes = {name: oriented_gradient(module).abs() for name, module in modules.items()}
    model.model.zero_grad()
    for name, places in moved.items():
        assert float(sizes[name][places].min()) >= float(sizes[name][~places].max()) * (1 - 1e-3)


def log_p_tensor(model: LanguageModel, request: Fact) -> torch.Tensor:
    found = passage(model.tokenizer, request.prompt, request.subject, request.target_new)
    scores = model.model(input_ids=torch.tensor([found.ids])).logits[0].log_softmax(-1)
    return torch.stack([scores[i - 1, found.ids[i]] for i in range(found.target, len(found.ids))]).mean()


def oriented_gradient(module: Any) -> torch.Tensor:
    gradient: torch.Tensor = module.weight.grad
    return gradient.T if type(module).__name__ == "Conv1D" else gradient


def test_the_largest_of_each() -> None:
    found = largest([torch.tensor([[1.0, -9.0], [3.0, 0.5]]), torch.tensor([0.8, -0.2, 0.7])], 0.5)
    assert [places.tolist() for places in found] == [[1, 2], [0, 2]]
    assert [len(places) for places in largest([torch.ones(3), torch.zeros(2)], 1e-9)] == [1, 1]


def test_the_old_answer_is_unlearnt(model: LanguageModel) -> None:
    requests = [replace(request, target_true=old) for request, old in zip(REQUESTS, ("Quince", "New Harbour", "Strelsau"), strict=True)]
    old = [replace(request, target_new=request.target_true or "") for request in requests]
    found = old_answer(model, requests[0])
    assert found is not None and model.tokenizer.decode(found.target_ids) == "nce", "what Quince and Quill share is not unlearnt"
    assert old_answer(model, replace(requests[0], target_true="Quill")) is None
    chances = []
    for contrast in (0.0, 100.0):  # these models give no answer more than a few hundredths
        with applied(model, make("sparse-ft", steps=15, contrast=contrast).edit(model, requests)):
            chances.append(sum(log_p(model, each) for each in old))
    assert chances[1] < chances[0] - 0.1


def test_the_text_must_be_there(model: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="nowhere"):
        make("ft", kl=1.0, text=str(tmp_path / "nowhere.txt")).edit(model, REQUESTS)
    (tmp_path / "blank.txt").write_text("\n \n")
    with pytest.raises(FormatError, match="no text"):
        make("ft", kl=1.0, text=str(tmp_path / "blank.txt")).edit(model, REQUESTS)


@pytest.mark.parametrize("method", METHODS)
def test_half_precision_is_trained_in_full(causal_folder: Path, method: str) -> None:
    """Steps that are too small for bfloat16 add up."""
    half = LanguageModel(str(causal_folder), device="cpu", dtype="bfloat16")
    before = snapshot(half)
    delta = make(method).edit(half, REQUESTS)
    assert snapshot(half) == before
    assert all(delta.dense(name).dtype == np.float32 for name in delta.changes)
    was = log_p(half, REQUESTS[0])
    with applied(half, delta):
        assert log_p(half, REQUESTS[0]) > was
    if method == "ft":
        name = next(iter(delta.changes))
        tiny = make(method, lr=1e-7).edit(half, REQUESTS).dense(name)
        assert 5e-7 < np.abs(tiny).max() < 7e-7


def test_adapters_are_low_rank_and_on_chosen_modules(model: LanguageModel) -> None:
    arch = Architecture(model.model)
    attention = "attn.c_proj" if model.model.config.model_type == "gpt2" else "self_attn.o_proj"
    delta = make("lora", layers=(1,), targets=(arch.layout.rewrite, attention), rank=2, alpha=3.0).edit(model, REQUESTS)
    assert set(delta.changes) == {arch.weight_name(1), f"{arch.layout.blocks}.1.{attention}.weight"}
    change = delta.changes[arch.weight_name(1)]
    assert isinstance(change, Factors)
    rows, columns = arch.weight(1).shape
    assert change.left.shape == (rows, 2) and change.right.shape == (columns, 2)
    assert delta.settings["targets"] == [arch.layout.rewrite, attention]
    assert not same(make("lora").edit(model, REQUESTS), make("lora", seed=1).edit(model, REQUESTS))


def test_a_target_that_is_not_there_is_said(model: LanguageModel) -> None:
    before = snapshot(model)
    for wrong in ("mlp.nothing", "mlp"):
        with pytest.raises(ValueError, match="targets can be"):
            make("lora", targets=(wrong,)).edit(model, REQUESTS)
    assert snapshot(model) == before


def test_a_missing_library_is_said(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(HybridError, match="pip install peft"):
        make("lora").edit(model, REQUESTS)
