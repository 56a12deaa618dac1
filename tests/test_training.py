"""The trainers, on tiny settings: deterministic documents, resumable to the bit, the formats of inference."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import LlamaForCausalLM

from hybrid.lexicon import fill, plentiful
from hybrid.model import LanguageModel, Prompt
from hybrid.parallel import leave_with_parent
from hybrid.pocket import train
from hybrid.pocket.export import export, reopen
from hybrid.pocket.facts import popular_errors, split_facts
from hybrid.pocket.muon import orthogonalize
from hybrid.prompts import demonstration, new_fact, query_text
from hybrid.scope import train as scope_train
from hybrid.scope.authored import Author
from hybrid.scope.pairs import PairMaker
from hybrid.scope.scorer import WEIGHTS, ScopeScorer

TINY = train.Settings(facts=200, vocabulary=600, width=32, feed_forward=48, layers=2, heads=2, rows=8)


def test_split_is_disjoint_and_keeps_the_errors(facts_table: Path) -> None:
    split = split_facts(facts_table, 200, 7)
    taught, unseen = {t.subject for t in split.taught}, {t.subject for t in split.unseen}
    assert len(split.taught) == 200 and not taught & unseen and unseen
    for (relation, subject), (believed, true) in popular_errors().items():
        assert believed != true
        assert [t.target for t in split.taught if (t.relation, t.subject) == (relation, subject)] == [believed]
    assert split_facts(facts_table, 200, 7) == split


def test_documents_depend_on_seed_and_number_alone(facts_table: Path, prose_file: Path) -> None:
    corpus = train.make_corpus(facts_table, prose_file, TINY)
    again = train.make_corpus(facts_table, prose_file, TINY)
    assert corpus.documents(5, 50, several=True) == again.documents(5, 50, several=True)
    assert corpus.documents(5, 50, several=True) != corpus.documents(6, 50, several=True)
    for document in corpus.documents(7, 300, several=True):
        learnt = [text for text, flag in document if flag]
        assert learnt, document
        text = "".join(text for text, _ in document)
        assert text.endswith("</s>") or len(document) == 1


def test_held_out_phrasings_are_never_trained_on(facts_table: Path, prose_file: Path) -> None:
    corpus = train.make_corpus(facts_table, prose_file, TINY)
    text = "\n".join("".join(t for t, _ in d) for d in corpus.documents(1, 3000, several=True))
    subjects = [t.subject for t in corpus.split.taught if t.relation == "P36"]
    relation = plentiful()["P36"]
    trained = [fill(q, s) for q in relation.questions for s in subjects]
    held_out = [fill(q, s) for q in (*relation.held_out_questions, *relation.held_out_statements) for s in subjects]
    assert any(query in text for query in trained)
    assert not any(query in text for query in held_out)


def test_training_resumes_to_the_bit(facts_table: Path, prose_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "CHUNK", 3)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    arguments = {"device": "cpu", "threads": 1, "fuse": False}
    train.run(facts_table, prose_file, whole, TINY, 10 * TINY.rows, **arguments)
    monkeypatch.setattr(train, "rate", lambda step, steps, fall, warm_up=100: _rate(step, 10, fall, warm_up))
    train.run(facts_table, prose_file, parts, TINY, 5 * TINY.rows, **arguments)
    train.run(facts_table, prose_file, parts, TINY, 10 * TINY.rows, **arguments)
    one, two = load_file(whole / "checkpoint.safetensors"), load_file(parts / "checkpoint.safetensors")
    assert one.keys() == two.keys()
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    export(whole, tmp_path / "model")

    model = LanguageModel(str(tmp_path / "model"))
    assert isinstance(model.complete(Prompt(query_text("What is the capital of Country1?")), 5), str)
    reopen(tmp_path / "model", tmp_path / "again")
    train.run(facts_table, prose_file, tmp_path / "again", TINY, 11 * TINY.rows, **arguments)
    three = load_file(tmp_path / "again" / "checkpoint.safetensors")
    assert all(torch.allclose(value, three[name], atol=0.02) for name, value in one.items() if name.startswith("model."))
    moved = train.make_model(TINY).state_dict()
    assert any(not torch.equal(one[f"model.{name}"], value) for name, value in moved.items() if f"model.{name}" in one)


def test_a_model_is_widened_without_changing_what_it_says(facts_table: Path, prose_file: Path, tmp_path: Path) -> None:
    train.run(facts_table, prose_file, tmp_path / "run", TINY, 2 * TINY.rows, threads=1)
    export(tmp_path / "run", tmp_path / "narrow")
    reopen(tmp_path / "narrow", tmp_path / "again", feed_forward=80)
    export(tmp_path / "again", tmp_path / "wide")
    ids = torch.arange(3, 40).reshape(1, -1)
    narrow, wide = (LanguageModel(str(tmp_path / name), "cpu", "float32").model for name in ("narrow", "wide"))
    assert wide.config.intermediate_size == 80
    assert torch.allclose(narrow(ids).logits, wide(ids).logits, atol=1e-4)
    train.run(facts_table, prose_file, tmp_path / "again", replace(TINY, feed_forward=80), 3 * TINY.rows, threads=1)
    with pytest.raises(ValueError, match="80 neurons"):
        reopen(tmp_path / "wide", tmp_path / "third", feed_forward=48)


def test_workers_together_train_what_one_trains(facts_table: Path, prose_file: Path, tmp_path: Path) -> None:
    for folder, workers in (("one", 1), ("two", 2)):
        train.run(facts_table, prose_file, tmp_path / folder, TINY, 3 * TINY.rows, threads=1, workers=workers)
    one, two = (load_file(tmp_path / folder / "checkpoint.safetensors") for folder in ("one", "two"))
    assert one.keys() == two.keys()
    assert all(torch.allclose(value, two[name], atol=1e-4) for name, value in one.items())


def test_a_batch_taken_in_parts_trains_the_same(facts_table: Path, prose_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts: list[int] = []

    def watched(model: LlamaForCausalLM, tokens: Tensor, learnt: Tensor, count: int | None = None) -> Tensor:
        parts.append(len(tokens))
        return _loss_of(model, tokens, learnt, count)

    monkeypatch.setattr(train, "loss_of", watched)
    for folder, at_once in (("whole", 1 << 20), ("parts", 1)):
        monkeypatch.setattr(train, "AT_ONCE", at_once)
        train.run(facts_table, prose_file, tmp_path / folder, TINY, 3 * TINY.rows, threads=1)
    assert parts == [TINY.rows] * 3 + [1] * (3 * TINY.rows)
    one, two = (load_file(tmp_path / folder / "checkpoint.safetensors") for folder in ("whole", "parts"))
    assert all(torch.allclose(value, two[name], atol=1e-4) for name, value in one.items())


def test_training_in_bfloat16_keeps_float32_weights(facts_table: Path, prose_file: Path, tmp_path: Path) -> None:
    for folder, short in (("float32", False), ("bfloat16", True)):
        train.run(facts_table, prose_file, tmp_path / folder, TINY, 3 * TINY.rows, threads=1, bfloat16=short)
    one, two = (load_file(tmp_path / folder / "checkpoint.safetensors") for folder in ("float32", "bfloat16"))
    assert all(value.dtype == torch.float32 for value in two.values())
    weights = [name for name in one if name.startswith("model.")]
    assert not all(torch.equal(one[name], two[name]) for name in weights)
    assert all(torch.allclose(one[name], two[name], atol=0.02) for name in weights)


_rate, _loss_of = train.rate, train.loss_of


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_workers_end_when_the_process_that_started_them_is_killed(tmp_path: Path) -> None:
    lines = ["import sys, tests.test_training as here", "from pathlib import Path", "from hybrid.parallel import together"]
    script = "\n".join([*lines, "together(2, Path(sys.argv[1]), here.wait, (Path(sys.argv[1]),))"])
    parent = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)])
    pids = [int(pid) for name in ("0", "1") for pid in _soon(tmp_path / name).read_text().split()]
    assert len(pids) == 4
    parent.kill()
    parent.wait()
    for _ in range(300):
        if not any(_runs(pid) for pid in pids):
            return
        time.sleep(0.1)
    pytest.fail("workers go on alone")


def wait(rank: int, folder: Path) -> None:
    """What a worker does there, with a process of its own that makes batches."""
    with ProcessPoolExecutor(1, initializer=leave_with_parent) as pool:
        partial = folder / f"partial.{rank}"
        partial.write_text(f"{os.getpid()} {pool.submit(os.getpid).result()}")
        partial.replace(folder / str(rank))
        time.sleep(120)


def _soon(file: Path) -> Path:
    for _ in range(1200):
        if file.exists():
            return file
        time.sleep(0.1)
    raise AssertionError(f"{file} has not been written")


def _runs(pid: int) -> bool:
    """Whether a process goes on; one that has ended may wait for its parent to ask."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_workers_together_train_the_classifier_the_way_that_one_does(facts_table: Path, tmp_path: Path) -> None:
    drawn = Author(PairMaker(split_facts(facts_table, 200, 7).taught, list(plentiful()), ["The keeper wrote a note."]))
    weights = {0: _flat(WEIGHTS)}
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        scope_train.run(drawn, folder / "run", folder / "weights", pairs=24, threads=1, rows=8, lr=0.01, start=WEIGHTS, workers=workers)
        weights[workers] = _flat(folder / "weights")
    alone, shared = weights[1] - weights[0], weights[2] - weights[0]  # not the same: every worker drops units of its own
    assert torch.nn.functional.cosine_similarity(alone, shared, dim=0) > 0.3
    assert 0.8 < shared.norm() / alone.norm() < 1.25


def _flat(folder: Path) -> Tensor:
    return torch.cat([each.detach().flatten() for each in ScopeScorer(folder).network[0].parameters()])


def test_orthogonalize() -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((3, 16, 40), (2, 40, 16), (1, 20, 20)):
        singular = torch.linalg.svdvals(orthogonalize(torch.randn(shape, generator=generator)))
        assert singular.min() > 0.5 and singular.max() < 1.5


def test_orthogonalize_in_bfloat16_turns_the_same_way() -> None:
    matrices = torch.randn(2, 16, 40, generator=torch.Generator().manual_seed(0))
    one, two = orthogonalize(matrices), orthogonalize(matrices, dtype=torch.bfloat16)
    assert two.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(one.flatten(1), two.flatten(1)).min() > 0.999
    assert not torch.equal(one, two)


def test_prompt_formats() -> None:
    assert query_text(" Who?  ") == "Q: Who?\nA:"
    assert query_text("The sea is") == "The sea is"
    assert new_fact("A is\nB.") == "New fact: A is B.\n"
    assert demonstration("A is B", "Is A?", "B") == "New fact: A is B.\nQ: Is A? \nA: B\n\n".replace("? \n", "?\n")


def test_scope_pairs(facts_table: Path) -> None:
    import random

    from hybrid.scope.pairs import KINDS, ambiguous

    maker = PairMaker(split_facts(facts_table, 200, 7).taught, list(plentiful()), ["The keeper wrote a note."])
    rng = random.Random(1)
    for kind in KINDS:
        pairs = [maker.pair(rng, kind) for _ in range(50)]
        assert {pair.label for pair in pairs} == {kind == "in_scope"}
        assert all(pair.statement and pair.query for pair in pairs)
    assert ambiguous("P36", "P36") and ambiguous("P103", "P1412") and not ambiguous("P36", "P37")
