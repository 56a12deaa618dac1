"""Causal tracing: what must hold of any model, one score worked out by hand, and the choice of layers."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from hybrid.model import LanguageModel
from hybrid.tracing import KINDS, Trace, locate, trace
from stores.errors import BadRequest, UnsupportedModel
from stores.records import Fact

PROMPT, SUBJECT = "By Ruri is", "Ruri"
DEPTH = 5


def deep(folder: Path, depth: int = DEPTH) -> LanguageModel:
    """The architecture of a folder with more blocks, and weights so large that noise on the subject matters."""
    from transformers import AutoModelForCausalLM

    shallow = LanguageModel(str(folder), device="cpu")
    config = shallow.model.config
    config.num_hidden_layers, config.layer_types, config.tie_word_embeddings, config.initializer_range = depth, None, False, 0.02
    torch.manual_seed(11)
    model = LanguageModel(str(folder), device="cpu")
    model.model = AutoModelForCausalLM.from_config(config).eval()  # type: ignore[misc]
    with torch.no_grad():
        for parameter in model.model.parameters():
            if parameter.dim() > 1:
                parameter *= 8
        model.model.lm_head.weight *= 4
    return model


@pytest.fixture(scope="module")
def model(causal_folder: Path) -> LanguageModel:
    """A random model of five blocks; tests leave it as it is."""
    return deep(causal_folder)


@pytest.fixture(scope="module")
def traced(model: LanguageModel) -> Trace:
    """One trace that several tests look at."""
    found = trace(model, PROMPT, SUBJECT, samples=2, window=3, seed=2)
    assert abs(found.high - found.low) > 0.01, "the noise must matter, or these tests could not fail"
    return found


def close(one: float, other: float) -> bool:
    """Equal but for rounding."""
    return math.isclose(one, other, abs_tol=1e-5)


def hooks(model: Any) -> int:
    """Hooks on all modules."""
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@torch.no_grad()
def test_shapes_and_names(model: LanguageModel, traced: Trace) -> None:
    start, end = traced.subject_range
    assert "".join(traced.tokens[start:end]) == SUBJECT and "".join(traced.tokens) == PROMPT
    assert set(traced.scores) == set(KINDS)
    for rows in traced.scores.values():
        assert len(rows) == len(traced.tokens) and {len(row) for row in rows} == {DEPTH}
    logits = model.model(torch.tensor([model.tokenizer(PROMPT)["input_ids"]])).logits[0, -1]
    assert traced.answer == model.tokenizer.decode([int(logits.argmax())])
    assert close(traced.high, float(logits.softmax(-1).max()))
    assert json.loads(json.dumps(traced.to_dict()))["subject_range"] == [start, end]
    with pytest.raises(dataclasses.FrozenInstanceError):
        traced.low = 0.0  # type: ignore[misc]


def test_without_noise_nothing_changes(model: LanguageModel) -> None:
    found = trace(model, PROMPT, SUBJECT, samples=2, noise=0.0)
    assert close(found.low, found.high)
    assert all(close(score, found.high) for rows in found.scores.values() for row in rows for score in row)


def test_the_last_state_decides(traced: Trace) -> None:
    assert close(traced.scores["block"][-1][-1], traced.high)
    assert not close(traced.scores["block"][-1][0], traced.high)


def test_restoring_all_that_was_blurred_is_the_clean_run(model: LanguageModel) -> None:
    found = trace(model, "R is", "R", samples=2)
    assert found.subject_range == (0, 1)
    assert close(found.scores["block"][0][-1], found.low), "too late: nothing reads the last block at an earlier token"
    assert not close(found.scores["block"][0][0], found.low)


def test_before_the_subject_there_is_nothing_to_restore(traced: Trace) -> None:
    for rows in traced.scores.values():
        assert all(close(score, traced.low) for row in rows[: traced.subject_range[0]] for score in row)
        assert any(not close(score, traced.low) for row in rows[traced.subject_range[0] :] for score in row)


def by_hand(model: LanguageModel, found: Trace, kind: str, token: int, layers: range) -> float:
    """One score, sample by sample, through input embeddings and plain hooks."""
    net = model.model
    blocks = net.model.layers if hasattr(net, "model") else net.transformer.h
    attention = "self_attn" if hasattr(net, "model") else "attn"
    modules = [block if kind == "block" else block.mlp if kind == "mlp" else getattr(block, attention) for block in blocks]
    ids = torch.tensor([model.tokenizer(PROMPT)["input_ids"]])
    start, end = found.subject_range
    clean: list[torch.Tensor] = []
    handles = [module.register_forward_hook(lambda _, __, out: clean.append(out[0] if isinstance(out, tuple) else out)) for module in modules]
    answer = int(net(ids).logits[0, -1].argmax())
    for handle in handles:
        handle.remove()
    embedded = net.get_input_embeddings()(ids)
    samples = int(found.settings["samples"])
    size = (samples, end - start, embedded.shape[-1])
    draws = torch.randn(size, generator=torch.Generator().manual_seed(int(found.settings["seed"])))

    def restore(layer: int) -> Any:
        def hook(_: Any, __: Any, out: Any) -> None:
            (out[0] if isinstance(out, tuple) else out)[0, token] = clean[layer][0, token]

        return hook

    total = 0.0
    for draw in draws * found.settings["noise"] * found.settings["deviation"]:
        blurred = embedded.clone()
        blurred[0, start:end] += draw
        handles = [modules[layer].register_forward_hook(restore(layer)) for layer in layers]
        total += float(net(inputs_embeds=blurred).logits[0, -1].softmax(-1)[answer]) / samples
        for handle in handles:
            handle.remove()
    return total


@torch.no_grad()
def test_scores_are_those_worked_out_by_hand(model: LanguageModel, traced: Trace) -> None:
    last = traced.subject_range[1] - 1
    assert traced.low == pytest.approx(by_hand(model, traced, "block", 0, range(0)), abs=1e-5)
    for token in (last - 1, last, len(traced.tokens) - 1):
        assert traced.scores["block"][token][1] == pytest.approx(by_hand(model, traced, "block", token, range(1, 2)), abs=1e-5)
        for kind in ("mlp", "attention"):
            for layer, window in ((0, range(2)), (2, range(1, 4)), (4, range(3, 5))):
                assert traced.scores[kind][token][layer] == pytest.approx(by_hand(model, traced, kind, token, window), abs=1e-5)


def test_the_deviation_is_that_of_the_embeddings(model: LanguageModel, traced: Trace) -> None:
    weight = model.model.get_input_embeddings().weight.detach()
    assert len(weight) <= 4096
    assert traced.settings["deviation"] == pytest.approx(float(weight.std()), rel=1e-5)


def test_the_window_is_cut_to_the_model(model: LanguageModel) -> None:
    assert trace(model, "R is", "R", samples=1).settings["window"] == 1
    assert trace(model, "R is", "R", samples=1, window=99).settings["window"] == DEPTH


def test_a_seed_decides_and_a_batch_does_not(model: LanguageModel, traced: Trace) -> None:
    assert trace(model, PROMPT, SUBJECT, samples=2, window=3, seed=2) == traced
    assert trace(model, PROMPT, SUBJECT, samples=2, window=3, seed=1).low != traced.low
    small = trace(model, PROMPT, SUBJECT, samples=2, window=3, seed=2, batch=7)
    for kind in KINDS:
        assert torch.allclose(torch.tensor(small.scores[kind]), torch.tensor(traced.scores[kind]), atol=1e-5)


def test_the_model_stays_as_it_is(causal_folder: Path) -> None:
    fresh = deep(causal_folder, 2)
    net = fresh.model.train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    flags, hooked = [parameter.requires_grad for parameter in net.parameters()], hooks(net)
    trace(fresh, "R is", "R", samples=1)
    with pytest.raises(BadRequest):
        trace(fresh, "R is", "Sylvania")
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert hooks(net) == hooked and net.training
    assert flags == [parameter.requires_grad for parameter in net.parameters()]


def test_the_subject_is_found(model: LanguageModel) -> None:
    plain, template = (trace(model, prompt, "R", samples=1) for prompt in ("of R is", "of {} is"))
    assert plain == template
    twice = trace(model, "R of R", "R", samples=1)
    assert twice.subject_range == (0, 1)
    question = trace(model, "is {}?", "Zürich", samples=1)
    assert "".join(question.tokens).startswith("Q: is ") and question.subject_range == (6, 6 + len("Zürich".encode()))


@pytest.mark.parametrize(("prompt", "subject"), [(PROMPT, "Sylvania"), (PROMPT, ""), (PROMPT, " "), ("R" * 600, "R")])
def test_what_cannot_be_traced_is_refused(model: LanguageModel, prompt: str, subject: str) -> None:
    with pytest.raises(BadRequest):
        trace(model, prompt, subject)


@pytest.mark.parametrize("wrong", [{"samples": 0}, {"window": 0}, {"batch": 0}, {"noise": -1.0}])
def test_settings_out_of_range_are_refused(model: LanguageModel, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        trace(model, PROMPT, SUBJECT, **wrong)


def test_the_heat_map_is_a_png(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    tokens = ["$", "$x_$", "\n", "漢", "\x03"]  # what a font or a formula parser would stumble over
    scores = {kind: [[0.1 * layer for layer in range(DEPTH)] for _ in tokens] for kind in KINDS}
    settings = {"samples": 1, "noise": 3.0, "deviation": 1.0, "window": 1, "seed": 0, "batch": 64}
    found = Trace(tokens=tokens, subject_range=(1, 3), answer="$漢\x03$", high=0.5, low=0.1, scores=scores, settings=settings)
    found.plot(tmp_path / "trace.png")
    data = (tmp_path / "trace.png").read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n") and data.endswith(b"IEND\xaeB`\x82")


def fact(number: int, prompt: str = "{}:is") -> Fact:
    """A request about an invented country, with no space in its prompt (see `knowing`)."""
    return Fact(id=str(number), subject=f"Land{number}", relation="capital", prompt=prompt, target_new="Town")


UNKNOWN = fact(0, "In{}it")


@torch.no_grad()
def knowing(folder: Path) -> LanguageModel:
    """A model whose answer to `fact` begins with a space, and its answer to `UNKNOWN` does not.

    The tokenizer has no merges, so that the first token of every target is the space before it; its output row is set.
    """
    model = deep(folder)
    net, space = model.model, model.tokenizer(" ")["input_ids"][0]

    def state(each: Fact) -> torch.Tensor:
        found: torch.Tensor = net.base_model(torch.tensor([model.tokenizer(each.cloze)["input_ids"]])).last_hidden_state[0, -1]
        return found

    states = torch.stack([state(fact(number)) for number in range(3)])
    towards = states.mean(0) - state(UNKNOWN)
    head = net.get_output_embeddings().weight
    head[space] = towards * ((states @ head.T).max() + 1) / (states @ towards).min()
    return model


def test_layers_are_located(causal_folder: Path) -> None:
    model = knowing(causal_folder)
    hooked = hooks(model.model)
    facts = [fact(number) for number in range(3)]
    found = locate(model, facts, count=2, samples=2)
    assert (found.known, found.asked, len(found.effect)) == (3, 3, DEPTH)
    peak = max(range(DEPTH - 1), key=found.effect.__getitem__)
    assert found.layers == tuple(range(max(0, peak - 1), peak + 1))
    assert abs(found.effect[peak]) > 1e-4, "the noise must matter"
    assert locate(model, facts, count=2, samples=2) == found
    wide = locate(model, facts, count=99, samples=2)
    assert wide.layers == tuple(range(peak + 1)), "cut at the first layer, and not the last block"
    assert json.loads(json.dumps(found.to_dict()))["layers"] == list(found.layers)
    assert hooks(model.model) == hooked


def test_the_effect_is_that_of_traces(causal_folder: Path) -> None:
    model = knowing(causal_folder)
    facts = [fact(number) for number in range(2)]
    total = torch.zeros(DEPTH)
    for seed, each in enumerate(facts):
        traced = trace(model, each.cloze, each.subject, samples=2, seed=seed)
        assert traced.answer == " "
        total += torch.tensor(traced.scores["mlp"][traced.subject_range[1] - 1]) - traced.low
    assert torch.allclose(torch.tensor(locate(model, facts, samples=2).effect), total / 2, atol=1e-5)


def test_locating_needs_known_facts(causal_folder: Path) -> None:
    teller = knowing(causal_folder)
    assert locate(teller, [UNKNOWN, fact(0)], samples=1).known == 1
    for facts in ([], [UNKNOWN]):
        with pytest.raises(BadRequest, match="knows none"):
            locate(teller, facts, samples=1)
    with pytest.raises(ValueError, match="at least 1"):
        locate(teller, [fact(0)], count=0)
    with pytest.raises(UnsupportedModel, match="one block"):
        locate(deep(causal_folder, 1), [fact(0)])
