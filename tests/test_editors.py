"""Editors: the papers' equations, the promises that every editor keeps, and the parts that they share."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.architecture import Architecture, changed_output, frozen
from hybrid.editing import applied, apply, edit, revert, revert_folder, write_edited
from hybrid.editors import EDITORS
from hybrid.editors.contexts import context_prefixes
from hybrid.editors.hypernetwork_files import default_folder
from hybrid.editors.meta_training import Training, train
from hybrid.editors.requests import contexts, passage, refuse_known
from hybrid.editors.rows import common_length
from hybrid.editors.solve import Covariance, equality_constrained, least_squares, null_space_least_squares, rank_one
from hybrid.editors.values import ValueSettings, optimise_values
from hybrid.lexicon import relations
from hybrid.model import POCKET, LanguageModel, Prompt
from hybrid.prompts import query_text
from hybrid.statistics import collect, read_moment, second_moments, statistics_folder, write_moment
from stores.deltas import Delta
from stores.errors import BadRequest, Conflict, HybridError, NotFound, UnsupportedModel
from stores.records import Fact
from stores.values import ValueStore
from tests import reference
from tests.conftest import save_causal

SOLVED = ("rome", "memit", "alphaedit", "emmet")
META = ("mend", "ke")
LOCATED = {
    "rome": {"layers": (1,), "steps": 8, "lr": 0.2, "clamp": 3.0, "decay": 0.001},
    "memit": {"layers": (0, 1), "steps": 8, "lr": 0.2, "clamp": 3.0, "decay": 0.001, "weight": 10.0},
    "alphaedit": {"layers": (0, 1), "steps": 8, "lr": 0.2, "clamp": 3.0, "decay": 0.001, "threshold": 0.2, "ridge": 0.1},
    "emmet": {"layers": (0, 1), "steps": 8, "lr": 0.2, "clamp": 3.0, "decay": 0.001},
    "readout": {"weight": 10.0},
    "ft": {"steps": 4, "lr": 5e-3},
    "ft-l": {"steps": 4, "lr": 5e-3, "epsilon": 5e-3},
    "lora": {"steps": 4},
    "sparse-ft": {"steps": 4, "share": 0.02},
    "kn": {"away": 0.1, "towards": 0.5},
    "mend": {},
    "ke": {},
}


def ask(subject: str, prompt: str, target: str) -> Fact:
    """A request."""
    return Fact(id="", subject=subject, relation="x", prompt=prompt, target_new=target)


REQUESTS = [
    ask("Lake Orsa", "The water of {} flows to", "Brimmen"),
    ask("Ada", "{} is a", "pilot"),
    ask("Tom Tom", "Tom Tom and {} live in", "Vell"),
    ask("Mount Kibo", "Who climbed {}?", "Berta Hond"),
]


def covariance_of(size: int, seed: int = 0) -> torch.Tensor:
    """A random second moment with a wide spectrum."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q
    return basis @ torch.diag(torch.logspace(-3, 1, size, dtype=torch.float64)) @ basis.T


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def deep_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three blocks: above the rewrite layers there must be one, or a value at the subject cannot reach the target."""
    return save_causal(tmp_path_factory.mktemp(request.param), request.param, layers=3)


@pytest.fixture(scope="module")
def networks(deep_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the meta-learned editors need, barely trained."""
    folder = tmp_path_factory.mktemp("networks")
    facts = [ask(f"Cape {name}", "The keeper of {} is", f"{name}son") for name in ("Ann", "Bo", "Cid", "Dot", "Eve", "Flo", "Gus", "Hal", "Ida")]
    for method in META:
        train(method, LanguageModel(str(deep_folder), "cpu"), facts, folder / method, 2, Training(rank=4, batch_size=4, first_rate=0.01))
    return folder


@pytest.fixture
def model(deep_folder: Path, networks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LanguageModel]:
    """A small random model in float64 with statistics, prefixes and networks of its own."""
    monkeypatch.setenv("HYBRID_CACHE", str(tmp_path / "cache"))
    made = LanguageModel(str(deep_folder), "cpu", "float64")
    for method in META:
        shutil.copytree(networks / method, default_folder(method, made))
    folder = statistics_folder(made.identity.weights_hash)
    folder.mkdir(parents=True, exist_ok=True)
    for layer in range(3):
        size = Architecture(made.model).weight(layer).shape[1]
        about = (layer, covariance_of(size, layer), 1000, made.identity.weights_hash, "random")
        write_moment(folder / f"layer-{layer}-random-1.safetensors", *about, fisher=covariance_of(Architecture(made.model).weight(layer).shape[0]))
    yield made


def weights(model: LanguageModel) -> dict[str, torch.Tensor]:
    """A copy of everything."""
    return {name: tensor.clone() for name, tensor in model.model.state_dict().items()}


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    """Bit-identical."""
    return one.keys() == two.keys() and all(torch.equal(value, two[name]) for name, value in one.items())


def hooks(model: LanguageModel) -> int:
    """Hooks left on any module."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.model.modules())


def log_probability(model: LanguageModel, request: Fact) -> float:
    """Of the target after the bare prompt."""
    ids = passage(model.tokenizer, request.prompt, request.subject, request.target_new)
    with torch.no_grad():
        scores = model.model(input_ids=torch.tensor([ids.ids])).logits[0].log_softmax(-1)
    return sum(float(scores[ids.target - 1 + k, token]) for k, token in enumerate(ids.target_ids))


# -- equivalence with the papers' equations --------------------------------------------------------


def transcribed(model: LanguageModel, method: str, requests: Sequence[Fact], prefixes: int, chosen: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The dense changes that the plain transcription of the papers makes."""
    layers = chosen["layers"]
    covariance = {layer: moment.matrix.double() for layer, moment in second_moments(model, layers).items()}
    s = reference.ValueSettings(layer=layers[-1], **{name: chosen[name] for name in ("steps", "lr", "clamp", "decay")})
    arguments: tuple[Any, ...] = (model.model, model.tokenizer, requests, context_prefixes(model, prefixes), covariance)
    if method == "rome":
        return reference.rome(*arguments, s)
    if method == "memit":
        return reference.memit(*arguments, layers, chosen["weight"], s)
    if method == "alphaedit":
        return reference.alphaedit(*arguments, layers, chosen["threshold"], chosen["ridge"], s)
    return reference.emmet(*arguments, layers, s)


def assert_close(delta: Delta, wanted: dict[str, torch.Tensor]) -> None:
    """Equal changes to 1e-4 relative."""
    assert wanted.keys() == delta.changes.keys()
    for name, expected in wanted.items():
        difference = torch.from_numpy(delta.dense(name)) - expected
        assert float(difference.norm() / expected.norm()) < 1e-4


@pytest.mark.parametrize("method", SOLVED)
def test_deltas_are_those_of_the_equations(model: LanguageModel, method: str) -> None:
    requests = REQUESTS[:1] if method == "rome" else REQUESTS
    assert_close(edit(model, requests, method, **LOCATED[method]), transcribed(model, method, requests, 5, LOCATED[method]))


@pytest.mark.parametrize("method", SOLVED)
def test_deltas_on_pocket_are_those_of_the_equations(method: str) -> None:
    model = LanguageModel(POCKET, "cpu", "float64")
    chosen = LOCATED[method] | {"steps": 3, "threshold": 0.01} if method == "alphaedit" else LOCATED[method] | {"steps": 3}
    requests = [ask("Canada", "The capital of {} is", "Lisbon"), ask("Oslo", "{} is a town in", "Peru")][: 1 if method == "rome" else 2]
    delta = edit(model, requests, method, **chosen, prefixes=2, questions=0, wordings=0)
    assert_close(delta, transcribed(model, method, requests, 2, chosen))


@pytest.mark.parametrize("batch", [1, 2, 64])
def test_a_value_does_not_depend_on_the_batch(model: LanguageModel, batch: int) -> None:
    arch, chosen = Architecture(model.model), ValueSettings(steps=10, lr=0.2, clamp=3.0, decay=0.001)
    reached = optimise_values(model, arch, REQUESTS, ["", "So it was. "], 0, chosen).losses
    chosen = replace(chosen, stop=float(reached.median()) + 0.05)
    many = optimise_values(model, arch, REQUESTS * 3, ["", "So it was. "], 0, chosen, batch_size=batch)
    assert len(set(many.steps.tolist())) > 1, "facts should finish at different steps, or the test shows little"
    for number, request in enumerate(REQUESTS):
        alone = optimise_values(model, arch, [request], ["", "So it was. "], 0, chosen)
        for copy in range(3):
            at = number + copy * len(REQUESTS)
            assert torch.allclose(many.targets[at], alone.targets[0], rtol=1e-6, atol=1e-8)
            assert int(many.steps[at]) == int(alone.steps[0])


# -- promises of every editor -------------------------------------------------------------------------


@pytest.mark.parametrize("method", EDITORS)
def test_the_model_is_left_alone_and_the_delta_works(model: LanguageModel, method: str, tmp_path: Path) -> None:
    before, requests = weights(model), REQUESTS[:2]
    chosen = LOCATED[method] | ({"steps": 40, "kl": 0.0} if method in SOLVED else {})
    flags = {name: parameter.requires_grad for name, parameter in model.model.named_parameters()}
    delta = edit(model, requests, method, **chosen)
    assert same(weights(model), before) and hooks(model) == 0
    assert {name: parameter.requires_grad for name, parameter in model.model.named_parameters()} == flags
    chances = [log_probability(model, request) for request in requests]
    with applied(model, delta):
        assert not same(weights(model), before)
        assert all(log_probability(model, request) > chance for request, chance in zip(requests, chances, strict=True))
    assert same(weights(model), before)
    again = edit(model, requests, method, **chosen)
    assert all((again.dense(name) == delta.dense(name)).all() for name in delta.changes)
    delta.save(tmp_path / "delta")
    loaded = Delta.load(tmp_path / "delta")
    assert loaded.settings == dict(delta.settings) and loaded.model == delta.model
    assert all((loaded.dense(name) == delta.dense(name)).all() for name in delta.changes)


@pytest.mark.parametrize("method", SOLVED)
def test_an_interruption_leaves_every_bit(model: LanguageModel, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from hybrid.editors import keys

    before, calls = weights(model), []
    original = keys.Walk.current

    def interrupted(self: keys.Walk, layer: int, at: str) -> torch.Tensor:
        calls.append(layer)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(self, layer, at)

    monkeypatch.setattr(keys.Walk, "current", interrupted)
    with pytest.raises(KeyboardInterrupt):
        edit(model, REQUESTS, method, **LOCATED[method])
    assert len(calls) == 2 and same(weights(model), before) and hooks(model) == 0


@pytest.mark.parametrize("method", EDITORS)
def test_bad_requests_are_refused_before_any_work(model: LanguageModel, method: str) -> None:
    bad: list[tuple[Sequence[Fact], str]] = [
        ([], "nothing to edit"),
        ([ask("Ada", "She is a", "pilot")], "exactly one"),
        ([ask("Ada", "{} is a", "  ")], "empty target"),
        ([ask("", "{} is a", "pilot")], "empty subject"),
        ([ask("Ada", "{} is a", "pilot"), ask("Ada", "{} is a", "diver")], "both"),
    ]
    for requests, reason in bad:
        with pytest.raises(BadRequest, match=reason):
            edit(model, requests, method)


def test_layers_settings_and_methods_are_checked(model: LanguageModel) -> None:
    with pytest.raises(ValueError, match="layers must ascend"):
        edit(model, REQUESTS, "memit", layers=(0, 7))
    with pytest.raises(ValueError, match="no setting 'step'"):
        edit(model, REQUESTS, "memit", step=3)
    with pytest.raises(NotFound, match="did you mean 'memit'"):
        edit(model, REQUESTS, "memitt")
    with pytest.raises(ValueError, match="one layer"):
        edit(model, REQUESTS, "rome", layers=(0, 1))
    for path in statistics_folder(model.identity.weights_hash).glob("layer-*"):
        path.unlink()
    with pytest.raises(NotFound, match="hybrid stats"):
        edit(model, REQUESTS, "memit", layers=(0, 1))


def test_what_the_model_says_already_is_refused() -> None:
    pocket = LanguageModel()
    said = pocket.complete(Prompt(query_text("The capital of France is")))
    with pytest.raises(BadRequest, match=r"request 2 .*already"):
        refuse_known(pocket, enumerate([ask("France", "The capital of {} is", "Lyon"), ask("France", "The capital of {} is", said)], start=1))
    refuse_known(pocket, [(1, ask("France", "The capital of {} is", said[:-1]))])


# -- deltas ---------------------------------------------------------------------------------------------


def test_a_delta_is_written_into_a_folder_and_taken_back(model: LanguageModel, tmp_path: Path) -> None:
    delta = edit(model, REQUESTS, "memit", **LOCATED["memit"])
    write_edited(model, delta, tmp_path / "edited")
    edited = LanguageModel(str(tmp_path / "edited"), "cpu")
    with applied(model, delta):
        assert same(weights(model), weights(edited))
    with pytest.raises(Conflict, match="not empty"):
        write_edited(model, delta, tmp_path / "edited")
    revert_folder(tmp_path / "edited")
    assert same(weights(model), weights(LanguageModel(str(tmp_path / "edited"), "cpu")))
    with pytest.raises(NotFound, match="reverted already"):
        revert_folder(tmp_path / "edited")


def test_a_delta_for_other_weights_is_refused(model: LanguageModel) -> None:
    delta = edit(model, REQUESTS, "memit", **LOCATED["memit"])
    kept = apply(model, delta)
    revert(model, kept)
    other = Delta(method="memit", model=delta.model.__class__("other", "local", "0" * 64), settings={}, changes=delta.changes)
    with pytest.raises(Conflict, match="was made for"):
        apply(model, other)


def test_values_are_computed_once(model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hybrid.editors import locate_and_edit

    asked: list[int] = []
    original = locate_and_edit.optimise_values

    def counted(*arguments: Any, **named: Any) -> Any:
        asked.append(len(arguments[2]))
        return original(*arguments, **named)

    monkeypatch.setattr(locate_and_edit, "optimise_values", counted)
    cache = ValueStore(tmp_path / "values.db")
    plain = edit(model, REQUESTS, "memit", **LOCATED["memit"])
    first = edit(model, REQUESTS[:3], "memit", cache=cache, **LOCATED["memit"])
    second = edit(model, REQUESTS, "memit", cache=cache, **LOCATED["memit"])
    assert asked == [4, 3, 1] and len(first.edits) == 3
    for name in plain.changes:
        assert abs(plain.dense(name) - second.dense(name)).max() < 1e-5 * abs(plain.dense(name)).max()
    edit(model, REQUESTS, "memit", cache=cache, **(LOCATED["memit"] | {"clamp": 2.0}))
    assert asked == [4, 3, 1, 4], "other settings, other values"
    cache.close()


# -- closed forms ------------------------------------------------------------------------------------------

sizes = st.tuples(st.integers(2, 6), st.integers(2, 9), st.integers(1, 12), st.integers(0, 10_000))


def draw(size: tuple[int, int, int, int]) -> tuple[torch.Tensor, torch.Tensor, Covariance]:
    """R (d_out, n), K (d_in, n), C (d_in, d_in)."""
    rows, columns, count, seed = size
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(rows, count, generator=generator, dtype=torch.float64),
        torch.randn(columns, count, generator=generator, dtype=torch.float64),
        Covariance(covariance_of(columns, seed)),
    )


@settings(max_examples=60, deadline=None)
@given(sizes, st.floats(0.01, 1000))
def test_memit_sits_at_the_minimum(size: tuple[int, int, int, int], weight: float) -> None:
    residual, keys, c = draw(size)
    left, right = least_squares(residual, keys, c, weight)
    change = (left @ right.T).requires_grad_()
    ((change @ keys - residual) ** 2).sum().add(weight * torch.trace(change @ c.matrix @ change.T)).backward()  # type: ignore[no-untyped-call]
    assert change.grad is not None and float(change.grad.norm()) < 1e-7 * (1 + float((residual @ keys.T).norm()))


@settings(max_examples=60, deadline=None)
@given(sizes)
def test_alphaedit_stays_in_the_null_space(size: tuple[int, int, int, int]) -> None:
    residual, keys, c = draw(size)
    values, vectors = c.spectrum
    threshold = float((values[0] + values[1]) / 2 / values[-1])
    basis = c.null_space(threshold)
    projector = basis @ basis.T
    assert torch.allclose(projector @ projector, projector, atol=1e-10)
    old = vectors[:, values >= threshold * values[-1]]
    assert float((projector @ old).abs().max()) < 1e-10
    left, right = null_space_least_squares(residual, keys, c, threshold, 0.5)
    assert float((left @ right.T @ old).abs().max()) < 1e-8
    direct = torch.linalg.solve(projector @ keys @ keys.T + 0.5 * torch.eye(len(keys), dtype=torch.float64), projector @ keys @ residual.T).T
    assert torch.allclose(left @ right.T, direct, atol=1e-8)
    with pytest.raises(HybridError, match="no direction is free"):
        c.null_space(float(values[0] / values[-1]) / 2)


@settings(max_examples=60, deadline=None)
@given(sizes)
def test_emmet_and_rome_meet_their_constraints(size: tuple[int, int, int, int]) -> None:
    residual, keys, c = draw((size[0], size[1], min(size[2], size[1] - 1), size[3]))
    left, right = equality_constrained(residual, keys, c)
    assert torch.allclose(left @ right.T @ keys, residual, atol=1e-6)
    value, current = residual[:, 0], torch.zeros_like(residual[:, 0])
    left, right = rank_one(value, current, keys[:, 0], keys.mean(1), c)
    assert torch.allclose(left @ right.T @ keys[:, 0], value, atol=1e-6)


def test_equal_keys_contradict_each_other() -> None:
    residual, keys, c = draw((3, 6, 2, 1))
    keys[:, 1] = keys[:, 0]
    with pytest.raises(HybridError, match="same key"):
        equality_constrained(residual, keys, c)


# -- statistics ---------------------------------------------------------------------------------------------


def test_streamed_statistics_are_those_of_one_batch(model: LanguageModel, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"The keeper wrote line {i} " + "and went on " * (i % 5) for i in range(40)), encoding="utf-8")
    paths = collect(model, (0, 1), str(text), samples=30, tokens_a_batch=200)
    arch = Architecture(model.model)
    for layer, path in enumerate(paths):
        sums, tokens = 0, 0
        for line in text.read_text(encoding="utf-8").splitlines()[:30]:
            ids = model.tokenizer(line.strip(), return_tensors="pt")["input_ids"]
            with torch.no_grad(), _inputs(arch.rewrite(layer)) as seen:
                model.model(input_ids=ids)
            sums, tokens = sums + seen[0][0].T @ seen[0][0], tokens + ids.shape[1]
        moment, _ = read_moment(path)
        assert moment.tokens == tokens
        assert torch.allclose(moment.matrix.double(), sums / tokens, rtol=1e-4, atol=1e-6)
    assert second_moments(model, [0])[0].tokens == max(1000, tokens)


class _inputs:  # noqa: N801
    """Keeps a module's inputs."""

    def __init__(self, module: Any):
        self.module, self.seen = module, []

    def __enter__(self) -> list[torch.Tensor]:
        self.handle = self.module.register_forward_hook(lambda _, given, __: self.seen.append(given[0].double()))
        return self.seen

    def __exit__(self, *_: object) -> None:
        self.handle.remove()


def test_interrupted_statistics_go_on(model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hybrid import statistics

    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"The ferry left pier {i} at noon" for i in range(900)), encoding="utf-8")
    whole, _ = read_moment(collect(model, (1,), str(text), samples=900, tokens_a_batch=40)[0])
    other = tmp_path / "other.txt"
    other.write_text(text.read_text(encoding="utf-8"), encoding="utf-8")
    (statistics_folder(model.identity.weights_hash) / f"layer-1-{statistics.corpus_hash(str(text))[:12]}-900.safetensors").unlink()
    original, calls = statistics._add, []

    def interrupted(*arguments: Any) -> int:
        calls.append(1)
        if len(calls) == 450:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(statistics, "_add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        collect(model, (1,), str(text), samples=900, tokens_a_batch=40)
    path = collect(model, (1,), str(text), samples=900, tokens_a_batch=40)[0]
    assert len(calls) < 1200, "what was done before is not done again"
    resumed, _ = read_moment(path)
    assert resumed.tokens == whole.tokens and torch.allclose(resumed.matrix, whole.matrix, rtol=1e-5)


# -- where things are -----------------------------------------------------------------------------------------


def test_a_compact_moment_is_close_and_keeps_its_signs(tmp_path: Path) -> None:
    moment = covariance_of(48, 3)
    write_moment(tmp_path / "a.safetensors", 0, moment, 10, "w", "text")
    write_moment(tmp_path / "b.safetensors", 0, moment, 10, "w", "text", compact=True)
    plain, compact = (read_moment(tmp_path / name)[0].matrix for name in ("a.safetensors", "b.safetensors"))
    scale = moment.diagonal().sqrt()
    assert torch.allclose(plain.double(), moment.double(), rtol=1e-6)
    assert ((compact - plain) / torch.outer(scale, scale)).abs().max() < 2e-3
    assert torch.linalg.eigvalsh(compact.double()).min() > -1e-6 * moment.diagonal().max()
    assert (tmp_path / "b.safetensors").stat().st_size < 0.6 * (tmp_path / "a.safetensors").stat().st_size


def test_the_subjects_last_token_is_found(model: LanguageModel) -> None:
    for prompt, subject, prefix in [
        ("The water of {} flows to", "Lake Orsa", ""),
        ("{}, the", "Ada", "So it was. "),
        ("Tom Tom and {} live in", "Tom Tom", ""),
        ("Who climbed {}?", "Éléonore Ü", "Yes. "),
    ]:
        found = passage(model.tokenizer, prompt, subject, "Vell", prefix)
        text = model.tokenizer.decode(found.until_lookup, skip_special_tokens=True)
        before = prefix + ("Q: " if prompt.endswith("?") else "") + prompt.partition("{}")[0]
        assert text == before + subject
        assert model.tokenizer.decode(found.target_ids) == " Vell"
    with pytest.raises(BadRequest, match="not in the prompt"):
        passage(model.tokenizer, "She is a", "Ada")


KINDS = ("gpt2", "gptj", "gpt_neox", "opt", "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi", "phi3", "falcon")


def tiny(kind: str, **more: Any) -> Any:
    """A random model of an architecture, in float64."""
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes: dict[str, Any] = {
        "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128},
        "gptj": {"n_embd": 32, "n_layer": 3, "n_head": 4, "rotary_dim": 4, "n_positions": 128},
        "opt": {"hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "word_embed_proj_dim": 32},
        "falcon": {"hidden_size": 32, "ffn_hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4},
    }.get(kind, {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8})
    tokens = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 1}
    torch.manual_seed(1)
    config = AutoConfig.for_model(kind, vocab_size=258, **sizes, **tokens, **more)
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager").double().eval()


@pytest.mark.parametrize("kind", KINDS)
def test_every_architecture_runs_in_parts(kind: str) -> None:
    model = tiny(kind)
    arch = Architecture(model)
    assert len(arch) == 3 and arch.weight(1).shape[0] == 32
    ids = torch.randint(2, 250, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = model(input_ids=ids).logits
        states: dict[int, torch.Tensor] = {}
        for layer in range(3):
            handle = arch.part(layer, "block").register_forward_pre_hook(lambda _, given, layer=layer: states.__setitem__(layer, given[0]))
            model(input_ids=ids)
            handle.remove()
        for first in range(3):
            with arch.only(first, 2, states[first]):
                found = arch.logits(model.base_model(input_ids=ids, use_cache=False).last_hidden_state)
            assert torch.allclose(found, whole, atol=1e-9), first
        assert torch.allclose(model(input_ids=ids).logits, whole)
        before = arch.weight(1).clone()
        arch.weight(1).add_(torch.randn(before.shape, generator=torch.Generator().manual_seed(2), dtype=before.dtype))
        assert not torch.allclose(model(input_ids=ids).logits, whole)
        arch.weight(1).copy_(before)
    assert model.get_parameter(arch.weight_name(1)) is arch.rewrite(1).weight


@pytest.mark.parametrize("kind", KINDS)
def test_values_of_every_architecture_are_those_of_the_full_model(kind: str, causal_folder: Path) -> None:
    """The loss that the shortened pass reports is the loss of the whole model with the value put in."""
    outer = LanguageModel(str(causal_folder), "cpu")
    outer.__dict__["model"] = tiny(kind)
    arch = Architecture(outer.model)
    chosen = ValueSettings(steps=3, lr=0.1, clamp=5.0, kl=0.0, decay=0.0)
    at = "block" if arch.layout.plain else "rewrite_in_block"
    found = optimise_values(outer, arch, REQUESTS, ["", "So it was. "], 1, chosen, at=at)
    module = arch.part(1, "block") if at == "block" else arch.rewrite(1)
    for number, request in enumerate(REQUESTS):
        losses = []
        initial: torch.Tensor | None = None
        for prefix in ("", "So it was. "):
            ids = passage(outer.tokenizer, request.prompt, request.subject, request.target_new, prefix)

            def put(hidden: torch.Tensor, ids: Any = ids) -> torch.Tensor:
                nonlocal initial
                changed = hidden.clone()
                initial = hidden[0, ids.lookup] if initial is None else initial
                changed[0, ids.lookup] += found.targets[number] - initial  # noqa: B023
                return changed

            with torch.no_grad(), frozen(outer.model), changed_output(module, put):
                scores = outer.model(input_ids=torch.tensor([ids.ids])).logits[0].log_softmax(-1)
            losses.append(-sum(scores[ids.target - 1 + k, t] for k, t in enumerate(ids.target_ids)) / len(ids.target_ids))
        assert float(sum(losses) / 2) == pytest.approx(float(found.losses[number]), rel=1e-6)


def test_experts_and_unknown_architectures_are_refused() -> None:
    with pytest.raises(UnsupportedModel, match="experts"):
        Architecture(tiny("mixtral", num_local_experts=4))
    model = tiny("llama")
    model.config.model_type = "llama_of_tomorrow"
    assert Architecture(model).layout.rewrite == "mlp.down_proj"
    model.config.num_hidden_layers = 7
    with pytest.raises(UnsupportedModel, match="pass a `Layout`"):
        Architecture(model)


# -- pocket, with what ships ------------------------------------------------------------------------------------


def test_pocket_is_edited_from_memory_and_given_back(tmp_path: Path) -> None:
    """The shipped statistics and settings serve; the store's own questions are contexts; neither model nor store change."""
    from hybrid.memory import HybridMemory

    with HybridMemory(tmp_path / "store", author="tester") as memory:
        fact = memory.add_fact("Portugal capital", "Helsinki").fact
        before, events = weights(memory.model), memory.ledger.verify()
        delta = memory.edit([fact], steps=30)
        assert same(weights(memory.model), before) and memory.ledger.verify() == events
        assert memory.ask("What is the capital of Spain?", route="base").text == "Madrid"
        with applied(memory.model, delta):
            assert memory.ask(fact.questions[0], route="base").text == "Helsinki"
            assert memory.ask("What is the capital of Spain?", route="base").text == "Madrid"
        assert same(weights(memory.model), before)
        assert delta.settings["questions"] == 2 and delta.edits[0]["target_new"] == "Helsinki"


def test_a_requests_own_questions_are_contexts(model: LanguageModel) -> None:
    request = replace(REQUESTS[0], questions=("Where does Lake Orsa drain?", "Lake Orsa, Lake Orsa?", "Which town drinks from Lake Orsa?"))
    assert contexts(request, ["", "Yes. "], 2) == [
        (request.prompt, ""),
        (request.prompt, "Yes. "),
        ("Where does {} drain?", ""),
        ("Which town drinks from {}?", ""),
    ]
    assert contexts(REQUESTS[1], [""], 1) == [(REQUESTS[1].prompt, ""), (REQUESTS[1].prompt, "")]
    arch, chosen = Architecture(model.model), ValueSettings(steps=3, lr=0.1, clamp=5.0, kl=0.0, decay=0.0, questions=2)
    with_questions = optimise_values(model, arch, [request], [""], 0, chosen)
    alone = [
        optimise_values(model, arch, [replace(request, prompt=form, questions=())], [""], 0, replace(chosen, questions=0, steps=1)).losses
        for form, _ in contexts(request, [""], 2)
    ]
    first = optimise_values(model, arch, [request], [""], 0, replace(chosen, steps=1)).losses
    assert float(first) == pytest.approx(float(torch.stack(alone).mean()), rel=1e-5), "the loss is the mean over contexts"
    assert not torch.allclose(with_questions.targets, optimise_values(model, arch, [request], [""], 0, replace(chosen, questions=0)).targets)


def test_what_else_is_said_of_a_subject_is_a_context(model: LanguageModel) -> None:
    arch, request, other = Architecture(model.model), REQUESTS[0], ("{} lies in", REQUESTS[1].target_new)
    chosen = ValueSettings(steps=1, lr=0.1, clamp=5.0, kl=0.0, decay=0.0)
    together = optimise_values(model, arch, [request], [""], 0, replace(chosen, keep=1), kept=[[other]]).losses
    target, kept = (optimise_values(model, arch, [each], [""], 0, chosen).losses for each in (request, replace(request, prompt=other[0], target_new=other[1])))
    assert float(together) == pytest.approx(float((target + kept) / 2), rel=1e-5)
    alone = optimise_values(model, arch, [request], [""], 0, replace(chosen, keep=2), kept=[[]]).losses
    assert float(alone) == pytest.approx(float(target), rel=1e-5), "where nothing is known, the prompt stands in"


def test_pocket_is_asked_what_it_knows_about_a_subject() -> None:
    from hybrid.editors.kept import agreed, known_about
    from hybrid.model import Prompt
    from hybrid.prompts import query_text

    pocket = LanguageModel("pocket")
    portugal = Fact(id="1", subject="Portugal", relation="capital", prompt="The capital of {} is", target_new="Helsinki")
    unknown = replace(portugal, id="2", relation="no such relation")
    known, nothing = known_about(pocket, [portugal, unknown], 4)
    assert nothing == [] and 0 < len(known) <= 4
    for form, answer in known:
        said = pocket.complete(Prompt(query_text(form.replace("{}", "Portugal"))), 12)
        assert said.rstrip(".").casefold() == answer.casefold() and "apital" not in form
    assert agreed({"a?": "Lisbon", "a": "lisbon"}, "a?", "a") == "Lisbon" and agreed({"a?": "Lisbon", "a": "Porto"}, "a?", "a") == ""


def test_components_keep_variances_and_what_is_correlated(tmp_path: Path) -> None:
    made = torch.randn(400, 3, generator=torch.Generator().manual_seed(1)).double() @ torch.randn(3, 20, generator=torch.Generator().manual_seed(2)).double()
    moment = made.T @ made / 400 + torch.diag(torch.linspace(0.1, 2, 20)).double()
    path = tmp_path / "layer-3-few-9.safetensors"
    write_moment(path, 3, moment, 400, "hash", "few", components=3)
    found, about = read_moment(path)
    assert torch.allclose(found.matrix.diagonal().double(), moment.diagonal(), rtol=1e-3) and (found.tokens, about["layer"]) == (400, "3")
    assert (found.matrix - moment).norm() < 0.15 * moment.norm() and torch.linalg.eigvalsh(found.matrix).min() > 0


def test_what_rows_have_in_common_is_found() -> None:
    assert common_length([(1, 2, 3), (1, 2, 4, 5), (1, 2)], 9) == 2
    assert common_length([(1, 2, 3), (1, 2, 3)], 2) == 2
    assert common_length([(7,), (8, 7)], 5) == 0


def test_the_lexicons_wordings_are_contexts() -> None:
    request = replace(REQUESTS[0], relation="capital", prompt="The capital of {} is", questions=("What is the capital of Lake Orsa?",))
    forms = [template for template, _ in contexts(request, ["", "So. "], questions=2, wordings=3)]
    others = [statement for statement in relations()["P36"].statements if statement != request.prompt][:3]
    assert forms == [request.prompt, request.prompt, "What is the capital of {}?", *others, request.prompt]
    unknown = replace(request, relation="flavour of the month")
    assert [template for template, _ in contexts(unknown, [""], wordings=2)] == [request.prompt] * 3
