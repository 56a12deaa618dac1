"""Knowledge neurons: attributions are integrals, the neurons that wordings share are kept, and only their value slots change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hybrid.architecture import Architecture, frozen
from hybrid.editing import applied
from hybrid.editors.fine_tune import Batch, target_losses
from hybrid.editors.knowledge_neurons import KnowledgeNeurons, activations, attributions, others, query
from hybrid.editors.requests import passage
from hybrid.lexicon import find
from hybrid.model import LanguageModel
from stores.records import Fact
from tests.conftest import save_worded

FACT = Fact(id="", subject="Orsa", relation="capital", prompt="The capital of {} is", target_new="Wex Pax")


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    """A random model that knows whole words."""
    folder: Path = tmp_path_factory.mktemp(request.param)
    return LanguageModel(str(save_worded(folder, request.param)), "cpu")


def test_attributions_add_up(model: LanguageModel) -> None:
    """Integrated gradients are complete: over a layer they sum to the difference between all of its neurons and none (Sundararajan et al. 2017)."""
    arch = Architecture(model.model)
    (row, *_), old, *_ = query(model, arch, FACT, 0, 0) or pytest.fail("nothing is wrong")
    with frozen(model.model):
        found = attributions(arch, (0, 2), row, old, 400)
    for layer, scores in found.items():
        neurons = activations(arch, (layer,), row)[layer]
        chances = []
        for share in (1.0, 0.0):

            def scaled(_: object, given: tuple[torch.Tensor, ...], share: float = share) -> tuple[torch.Tensor]:
                states = given[0].clone()
                states[0, -1] *= share
                return (states,)

            handle = arch.rewrite(layer).register_forward_pre_hook(scaled)
            with torch.no_grad():
                chances.append(float(model.model(input_ids=torch.tensor([row])).logits[0, -1].softmax(-1)[old]))
            handle.remove()
        assert neurons.shape == scores.shape
        assert float(scores.sum()) == pytest.approx(chances[0] - chances[1], rel=0.05, abs=1e-5)
        assert abs(chances[0] - chances[1]) > 1e-4
    assert all(not module._forward_pre_hooks for module in model.model.modules())


def test_each_token_that_the_model_would_not_say_is_asked_for(model: LanguageModel) -> None:
    arch = Architecture(model.model)
    fact, decode = replace(FACT, questions=("What is the capital of Orsa?",)), model.tokenizer.decode
    rows, old, new, after = query(model, arch, fact, 1, 3) or pytest.fail("nothing is wrong")
    assert len(rows) == len(set(rows)) == 5
    assert decode(rows[0]) == "The capital of Orsa is" and decode([new]) == "Wex" and after == 1
    said = passage(model.tokenizer, fact.prompt, fact.subject, f"{decode([old])} Pax")
    assert said.target_ids[0] == old != new
    longer, second, last, after = query(model, arch, fact, 1, 3, after) or pytest.fail("nothing is wrong")
    assert decode(longer[0]) == "The capital of Orsa is Wex" and decode([last]) == "Pax" != decode([second]) and after == 2
    assert query(model, arch, fact, 1, 3, after) is None
    rows, second, new, after = query(model, arch, replace(fact, target_new=f"{decode([old])} Pax"), 0, 0) or pytest.fail("nothing is wrong")
    assert decode(rows[0]) == f"The capital of Orsa is {decode([old])}" and decode([new]) == "Pax" != decode([second]) and after == 2


def test_neurons_that_wordings_share_are_kept() -> None:
    scores = [
        {0: torch.tensor([1.0, 0.5, 0.0, -3.0]), 1: torch.tensor([0.1, 0.3])},
        {0: torch.tensor([0.4, 0.1, 0.0, 0.9]), 1: torch.tensor([0.0, 0.8])},
        {0: torch.tensor([0.6, 0.05, 0.0, 0.0]), 1: torch.tensor([0.0, 0.1])},
    ]
    editor = KnowledgeNeurons(threshold=0.3, shared=0.6, least=1)
    assert editor.refine(scores) == [(0, 0), (1, 1)]
    assert KnowledgeNeurons(threshold=0.3, shared=1.0, least=1).refine(scores) == [(0, 0)]
    assert KnowledgeNeurons(threshold=0.3, shared=1.0, least=3).refine(scores) == [(0, 0), (1, 1), (0, 3)]
    assert KnowledgeNeurons(threshold=0.3, shared=0.1, most=2).refine(scores) == [(0, 0), (1, 1)]


def test_neurons_of_other_facts_are_left_alone() -> None:
    scores = [{0: torch.tensor([1.0, 0.8, 0.6, 0.0])}] * 2
    editor = KnowledgeNeurons(shared=1.0, least=1)
    assert editor.refine(scores, {(0, 0): 0.1}) == [(0, 0), (0, 1), (0, 2)]
    assert editor.refine(scores, {(0, 0): 0.2}) == [(0, 1), (0, 2)]
    assert KnowledgeNeurons(shared=1.0, least=3).refine(scores, {(0, 0): 0.2}) == [(0, 1), (0, 2), (0, 0)]


def test_other_facts_are_those_of_other_subjects(model: LanguageModel) -> None:
    arch, layers = Architecture(model.model), (0, 2)
    names, relation = others(FACT, 3), find(FACT.relation)
    assert relation
    assert len(set(names)) == 3 and "Orsa" not in names
    assert others(replace(FACT, subject=names[0].upper()), 3)[0] == names[1]
    with frozen(model.model):
        found = KnowledgeNeurons(others=3).in_others(model, arch, layers, FACT, known := {})
        row = passage(model.tokenizer, relation.statements[0], names[1]).ids
        said = int(model.model(input_ids=torch.tensor([row])).logits[0, -1].argmax())
        own = KnowledgeNeurons().peaks(attributions(arch, layers, row, said, 20))
    assert own and set(own) <= set(found) and known[row] == set(own)
    assert all(share in (pytest.approx(1 / 3), pytest.approx(2 / 3), 1.0) for share in found.values())


def test_value_slots_of_the_neurons_change_alone(model: LanguageModel) -> None:
    arch, fact = Architecture(model.model), replace(FACT, target_new="Wex")
    before = target_losses(model.model, Batch.of([passage(model.tokenizer, fact.prompt, fact.subject, "Wex")], arch.device)).item()
    delta = KnowledgeNeurons(wordings=2, away=0.5, towards=2.0).edit(model, [fact])
    neurons = {tuple(neuron) for neuron in delta.edits[0]["neurons"]}
    rows, old, new, _ = query(model, arch, fact, 2, 2) or pytest.fail("nothing is wrong")
    embeddings = arch.head.weight.detach()
    slot = (2.0 * embeddings[new] / embeddings[new].norm() - 0.5 * embeddings[old] / embeddings[old].norm()).numpy()
    changed = set()
    for layer in range(len(arch)):
        if arch.weight_name(layer) in delta.changes:
            dense = delta.dense(arch.weight_name(layer))
            for index in np.flatnonzero(dense.any(0)):
                sign = -1 if activations(arch, (layer,), rows[0])[layer][index] < 0 else 1
                norm = float(arch.weight(layer)[:, index].norm())
                assert np.allclose(dense[:, index], sign * norm * slot, atol=1e-6)
                changed.add((layer, int(index)))
    assert changed == neurons and 2 <= len(neurons) <= 5
    with torch.no_grad(), applied(model, delta):
        after = float(target_losses(model.model, Batch.of([passage(model.tokenizer, fact.prompt, fact.subject, "Wex")], arch.device)))
    assert after == pytest.approx(delta.edits[0]["loss"], abs=1e-3) and after < before


def test_later_tokens_are_asked_of_what_the_first_one_left(model: LanguageModel) -> None:
    editor, arch = KnowledgeNeurons(wordings=0, questions=0, least=3, most=3), Architecture(model.model)
    first, both = (editor.edit(model, [replace(FACT, target_new=target)]) for target in ("Wex", "Wex Pax"))
    assert [len(delta.edits[0]["neurons"]) for delta in (first, both)] == [3, 6]
    names = [arch.weight_name(layer) for layer in range(len(arch)) if arch.weight_name(layer) in both.changes]
    rest = {name: both.dense(name) - (first.dense(name) if name in first.changes else 0) for name in names}
    with applied(model, first):
        _, old, new, _ = query(model, arch, FACT, 0, 0, 1) or pytest.fail("nothing is wrong")
    embeddings = arch.head.weight.detach()
    slot = (editor.towards * embeddings[new] / embeddings[new].norm() - editor.away * embeddings[old] / embeddings[old].norm()).numpy()
    moved = [
        (layer, index) for layer, name in enumerate(map(arch.weight_name, range(len(arch)))) if name in rest for index in np.flatnonzero(rest[name].any(0))
    ]
    assert len(moved) == 3
    for layer, index in moved:
        column = rest[arch.weight_name(layer)][:, index] / float(arch.weight(layer)[:, index].norm())
        assert np.allclose(abs(column), abs(slot), atol=1e-5)


def test_wrong_settings() -> None:
    for wrong in ({"steps": 0}, {"least": 0}, {"least": 6}, {"wordings": -1}, {"others": -1}):
        with pytest.raises(ValueError, match="steps must"):
            KnowledgeNeurons(**wrong)
    with pytest.raises(ValueError, match="threshold"):
        KnowledgeNeurons(threshold=0.0)
    with pytest.raises(ValueError, match="common"):
        KnowledgeNeurons(common=1.5)
