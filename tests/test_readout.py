"""Readout: nothing costs less than what it finds, the rest stays; and consolidation with it is a function of the set."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from hybrid.architecture import Architecture
from hybrid.consolidation.checks import checks
from hybrid.consolidation.workshop import Workshop
from hybrid.editing import answers, applied, edit
from hybrid.editors import columns
from hybrid.editors.columns import checked, of_queries, of_request, taught
from hybrid.editors.contexts import context_prefixes
from hybrid.editors.readout import Readout, ReadoutRun
from hybrid.editors.requests import passage
from hybrid.fingerprint import combined, tensor_hashes
from hybrid.fisher import fisher_sum
from hybrid.memory import HybridMemory
from hybrid.model import POCKET, LanguageModel
from hybrid.request import Request
from hybrid.statistics import collect, find_moments, read_moment, second_moments, statistics_folder, write_moment
from policies.consolidation import Limits
from stores.errors import HybridError, NotFound, UnsupportedModel
from stores.records import Fact
from stores.values import ValueStore
from tests.conftest import ISLES, PORTS, save_causal, save_worded


def ask(subject: str, prompt: str, target: str, relation: str = "x") -> Fact:
    return Fact(id="", subject=subject, relation=relation, prompt=prompt, target_new=target)


REQUESTS = [ask("Lake Orsa", "The water of {} flows to", "Brimmen"), ask("Mount Kibo", "Who climbed {}?", "Berta Hond")]


@pytest.fixture(params=["llama", "gpt2"])
def model(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LanguageModel:
    """A small random model in float64, with statistics of its last block."""
    monkeypatch.setenv("HYBRID_CACHE", str(tmp_path / "cache"))
    made = LanguageModel(str(save_causal(tmp_path / "model", request.param)), "cpu", "float64")
    size, layer = Architecture(made.model).weight(1).shape[1], 1
    folder = statistics_folder(made.identity.weights_hash)
    folder.mkdir(parents=True, exist_ok=True)
    root = torch.randn(size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    width = Architecture(made.model).weight(1).shape[0]
    slopes = torch.randn(width, width, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    about = (1000, made.identity.weights_hash, "random")
    write_moment(folder / "layer-1-random-1.safetensors", layer, root @ root.T / size + torch.eye(size), *about, fisher=slopes @ slopes.T / width)
    return made


def price(model: LanguageModel, requests: Sequence[Fact], change: torch.Tensor, weight: float, margin: float) -> torch.Tensor:
    """What a change (d_out, d_in) costs, written down slowly: the whole model for each context, every rival of every token."""
    arch = Architecture(model.model)
    ends = [model.tokenizer(f"a{end}", add_special_tokens=False)["input_ids"][-1] for end in (".", "\n")]
    ends += [] if model.tokenizer.eos_token_id is None else [model.tokenizer.eos_token_id]
    moment = second_moments(model, (1,))[1]
    assert moment.fisher is not None
    fisher = moment.fisher.double()
    fisher = fisher + 0.01 * fisher.diagonal().mean() * torch.eye(len(fisher), dtype=torch.float64)
    total = weight / 2 * torch.trace(change @ moment.matrix.double() @ change.T @ fisher)
    for request in requests:
        for prefix in context_prefixes(model, 2):
            row = passage(model.tokenizer, request.prompt, request.subject, request.target_new, prefix)
            ids = torch.tensor([row.ids])
            with torch.no_grad():
                end = ends[int(model.model(input_ids=ids).logits[0, -1, ends].argmax())]
            change_it = arch.rewrite(1).register_forward_hook(lambda _, given, output: output + given[0] @ change.T)
            scores = model.model(input_ids=ids).logits[0, row.target - 1 :]
            change_it.remove()
            for token, each in zip((*row.target_ids, end), scores, strict=True):
                short = (margin + each - each[token]).clamp_min(0)
                total = total + short.square().sum() - margin**2  # its own place among them
    return total


def test_nothing_costs_less(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """With nothing that must stay: at what is found the slope of the cost vanishes."""
    monkeypatch.setattr("hybrid.editors.margins.MOST", 10_000)  # of a random model all tokens are rivals
    chosen = {"weight": 3000.0, "margin": 0.8}
    settings = Readout(**chosen, prefixes=2, rounds=3, steps=25, beside=0, alike=0, wordings=0, questions=0, behind=0)
    solved = ReadoutRun(settings, model, REQUESTS).solved()
    left, right = torch.from_numpy(solved.factors.left), torch.from_numpy(solved.factors.right)
    found = (left @ right.T).requires_grad_()
    nothing = torch.zeros_like(found).requires_grad_()
    costs = [price(model, REQUESTS, change, **chosen) for change in (found, nothing)]
    here, there = (torch.autograd.grad(cost, change)[0] for cost, change in zip(costs, (found, nothing), strict=True))
    assert float(costs[0].detach()) < 0.9 * float(costs[1].detach())
    assert float(here.norm() / there.norm()) < 1e-3
    assert set(solved.owners) == {0, 1}


def test_statistics_of_an_earlier_version_are_refused(model: LanguageModel) -> None:
    path = find_moments(model, (1,))[1]
    write_moment(path, 1, second_moments(model, (1,))[1].matrix, 1000, model.identity.weights_hash, "random")
    with pytest.raises(NotFound, match="repeat `hybrid stats"):
        edit(model, REQUESTS, "readout")


def test_fisher_information_is_what_draws_come_to(model: LanguageModel) -> None:
    """Of one state many times over: the curvature of the divergence from its prediction."""
    arch = Architecture(model.model)
    state = torch.randn(arch.weight(1).shape[0], generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    before = arch.read(state).detach().log_softmax(-1)
    exact = torch.autograd.functional.hessian(lambda h: (before.exp() * (before - arch.read(h).log_softmax(-1))).sum(), state)
    found = fisher_sum(arch, state.expand(40_000, -1), torch.Generator().manual_seed(4)) / 40_000
    assert float((found - exact).norm() / exact.norm()) < 0.1


def test_only_the_last_block_has_fisher_information(model: LanguageModel, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The water of Lake Orsa flows to Brimmen.\nWho climbed Mount Kibo?\n", encoding="utf-8")
    collect(model, (0,), str(text), folder=tmp_path)
    (path,) = collect(model, (1,), str(text), folder=tmp_path)
    whole = read_moment(path)[0]
    assert whole.fisher is not None and torch.equal(whole.fisher, whole.fisher.T) and float(whole.fisher.trace()) > 0
    assert all(read_moment(each)[0].fisher is None for each in tmp_path.glob("layer-0-*"))
    write_moment(path, 1, whole.matrix, whole.tokens, model.identity.weights_hash, whole.source)
    collect(model, (1,), str(text), folder=tmp_path)
    again = read_moment(path)[0].fisher
    assert again is not None and torch.equal(again, whole.fisher), "a file of an earlier version is made anew"


def test_columns_do_not_depend_on_what_goes_with_them(model: LanguageModel) -> None:
    run = ReadoutRun(Readout(), model, REQUESTS)
    alone = of_request(model, run.arch, REQUESTS[1], taught(REQUESTS[1], run.prefixes, 6, 4, 4))
    (found,) = run.columns(REQUESTS[1:])
    assert torch.equal(found.keys, alone.keys) and torch.equal(found.tokens, alone.tokens)


def test_only_the_last_block(model: LanguageModel) -> None:
    with pytest.raises(ValueError, match="the last block, 1"):
        edit(model, REQUESTS, "readout", layers=(0,))
    with pytest.raises(ValueError, match="rounds"):
        edit(model, REQUESTS, "readout", rounds=0)
    if model.model.config.model_type == "llama":
        model.model.config.model_type = "gemma2"
        with pytest.raises(UnsupportedModel, match="norm behind"):
            edit(model, REQUESTS, "readout")


def test_what_is_checked_is_taught_to_stay_unless_it_changes_rightly() -> None:
    fact, other = ask("Portugal", "The capital of {} is", "Porto", "capital"), ask("Germany", "The capital of {} is", "Bonn", "capital")
    model = LanguageModel(POCKET, "cpu")
    alone, both = ReadoutRun(Readout(prefixes=0), model, [fact]), ReadoutRun(Readout(prefixes=0), model, [fact, other])
    found = [query for group in checked(fact, {("portugal", "capital")}) for *_, query in group]
    assert len(found) > 15 and "The capital of Germany is" in found
    assert "The capital of Germany is" not in [query for group in checked(fact, {("portugal", "capital"), ("germany", "capital")}) for *_, query in group]
    spain = next(n for n, query in enumerate(found) if query == "The capital of Germany is")
    column = of_queries(model, alone.arch, found).keys[spain]
    holds = [bool(torch.isclose(run.kept()[0].keys, column, atol=1e-3).all(1).any()) for run in (alone, both)]  # type: ignore[union-attr]
    assert holds == [True, False]

    mine = {("portugal", "capital"), ("germany", "capital")}
    (own, together), (others, again) = checked(fact, mine), checked(other, mine)
    assert together == again and len(together) > 5 and not {*own, *others} & {*together}
    assert {query for *_, query in (*own, *together)} == {*checks(fact, mine).neighbours, *(query for pair in checks(fact, mine).rivals for query in pair)}
    _, times = both.kept()  # type: ignore[misc]
    assert int((times == 2).sum()) == len(both._kept([query for *_, query in together], True).tokens), "computed once, and counted for both"
    assert int(alone.kept()[1].max()) == 1  # type: ignore[index]


def test_pocket_says_it_and_keeps_the_rest() -> None:
    model = LanguageModel(POCKET, "cpu")
    facts = [ask("Portugal", "The capital of {} is", "Porto", "capital"), ask("Moby-Dick", "The author of {} is", "Jane Austen", "author")]
    elsewhere = ["The capital of Spain is", "What is the capital of Norway?", "The currency of Portugal is", "The official language of Brazil is"]
    before = answers(model, elsewhere)
    with applied(model, edit(model, facts, "readout")):
        assert answers(model, ["The capital of Portugal is", "Which city is the capital of Portugal?", "Who wrote Moby-Dick?"]) == [
            "Porto",
            "Porto",
            "Jane Austen",
        ]
        assert answers(model, elsewhere) == before
    run = ReadoutRun(Readout(), model, facts)
    solved = run.solved()
    owners, left, right = torch.tensor(solved.owners), torch.from_numpy(solved.parts.left), torch.from_numpy(solved.parts.right)
    for number, mine in enumerate(run.columns(facts)):
        moved = [float((mine.keys @ right[:, owners == n] @ left[:, owners == n].T).norm()) for n in (0, 1)]
        assert moved[number] > 3 * moved[1 - number], "its own part moves it"


# -- consolidation ---------------------------------------------------------------------------------------

LOOSE = Limits(min_phrasings=0, min_same_subject=0, min_locality=0, max_perplexity_drift=100, min_fluency=0)


@pytest.fixture
def worded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("HYBRID_CACHE", str(tmp_path / "cache"))
    folder = save_worded(tmp_path / "worded")
    collect(LanguageModel(str(folder), "cpu"), (2,), str(folder / "sample.txt"))
    yield folder


def add(memory: HybridMemory, isles: Sequence[str]) -> None:
    list(memory.add_facts(Request(subject=isle, relation="ferry port", prompt="The ferry port of {}", target_new=PORTS[ISLES.index(isle)]) for isle in isles))


def test_the_same_set_gives_the_same_bits_and_other_stores_agree(worded: Path, tmp_path: Path) -> None:
    changes = []
    for number, isles in enumerate((ISLES[:5], ISLES[4::-1])):
        with HybridMemory(tmp_path / str(number), model=str(worded)) as memory:
            settings = {"weight": "1", "prefixes": "0"}
            add(memory, isles[:3])
            first = memory.consolidate(force=True, limits=LOOSE, method="readout", settings=settings)
            assert first.generation == 1 and first.verification is not None and first.verification.figures()["efficacy"] == 1.0
            add(memory, isles[3:])
            second = memory.consolidate(force=True, limits=LOOSE)
            manifest, change = memory.generations.load(memory.generations.live())
            changes.append(change)
            with Workshop(memory).open() as shop, pytest.raises(HybridError, match=r"another version .*'lr'.*consolidate --force"):
                shop.as_made(replace(manifest, settings=manifest.settings | {"lr": 0.1}))
            assert second.weights_hash != first.weights_hash and len(memory.generations.in_live()) == 5
            for isle in isles[3:]:
                memory.forget(memory.ledger.facts(text=isle)[0].id)
            assert combined(tensor_hashes(memory.model.model)) == first.weights_hash, "as if the others had never been there"
    for name, change in changes[0].items():
        one, other = torch.from_numpy(change.dense), torch.from_numpy(changes[1][name].dense)
        assert float((one - other).norm() / one.norm()) < 1e-4


def stored_columns(memory: HybridMemory) -> dict[str, bytes]:
    with closing(ValueStore(memory.folder / "values.db")) as store:
        return {key: data for (key,) in store.db.execute("SELECT key FROM columns").fetchall() if (data := store.columns(key)) is not None}


def test_columns_that_a_store_keeps_give_the_same_bits(worded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One fact more beside those of a run before: with its columns, and with none."""
    made, found = [], []
    monkeypatch.setattr(columns, "_collected", lambda *given, original=columns._collected: (made.append(1), original(*given))[1])
    with HybridMemory(tmp_path / "store", model=str(worded)) as memory:
        add(memory, ISLES[:3])
        memory.consolidate(force=True, limits=LOOSE, method="readout", settings={"weight": "1", "prefixes": "0"})
        first = stored_columns(memory)
        assert len(made) == len(first) > 3
        add(memory, ISLES[3:4])
    for name in ("warm", "cold"):
        shutil.copytree(tmp_path / "store", tmp_path / name)
        if name == "cold":
            with closing(ValueStore(tmp_path / name / "values.db")) as values:
                values.keep_columns([])
        made.clear()
        with HybridMemory(tmp_path / name, model=str(worded)) as memory:
            done = memory.consolidate(force=True, limits=LOOSE)
            found.append((done.weights_hash, stored_columns(memory), len(made)))
    (warm_hash, warm, few), (cold_hash, cold, all_of_them) = found
    assert warm_hash == cold_hash and warm == cold
    assert few == len(warm.keys() - first.keys()) < all_of_them == len(cold)


def test_forgetting_purges_columns(worded: Path, tmp_path: Path) -> None:
    with HybridMemory(tmp_path / "store", model=str(worded)) as memory:

        def lies(data: bytes) -> bool:
            return any(data[-16:] in path.read_bytes() for path in memory.folder.glob("values.db*"))

        add(memory, ISLES[:3])
        memory.consolidate(force=True, limits=LOOSE, method="readout", settings={"weight": "1", "prefixes": "0"})
        fact, before = memory.ledger.facts(text=ISLES[2])[0], stored_columns(memory)
        own = before.keys() & set(memory.stability.keys_of([fact.id]))
        (taught,) = [before[key] for key in own if load(before[key])["places"].any()]  # what else is its own asks about others, as other facts' columns may
        assert len(own) > 1 and all(map(lies, before.values()))
        memory.forget(fact.id)
        left = stored_columns(memory)
        assert left and not own & left.keys() and all(map(lies, left.values()))
        assert not lies(taught)


def test_columns_take_no_more_than_their_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stores.values.ROOM", 8)
    with closing(ValueStore(tmp_path / "values.db")) as store:
        for key, data in (("a", b"12345"), ("b", b"1234"), ("a", b"12345678"), ("c", b"")):
            store.put_columns(key, data)
        assert [store.columns(key) for key in "abc"] == [b"12345678", None, b""]
