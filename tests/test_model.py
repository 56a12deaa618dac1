"""Language models: any architecture from disk, greedy text as transformers makes it, a natural stop, text as data."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hybrid.model import LanguageModel, Prompt, _natural_stop
from stores.errors import HybridError, NotFound


def test_greedy_text_is_that_of_transformers(causal_folder: Path) -> None:
    ours = LanguageModel(str(causal_folder))
    prompt = Prompt("The harbour of Freedonia is")
    ids = torch.tensor([ours.encode(prompt)])
    theirs = ours.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False, pad_token_id=1)
    text = ours.tokenizer.decode(theirs[0, ids.shape[1] :], skip_special_tokens=True)
    assert ours.complete(prompt, 24) == _natural_stop(text, False)[0].strip()
    assert "".join(ours.stream(prompt, 24)).strip() == ours.complete(prompt, 24)


def test_many_answers_are_those_of_one_at_a_time(causal_folder: Path) -> None:
    model = LanguageModel(str(causal_folder))
    prompts = [Prompt(text) for text in ("The ferry", "The barge", "A long sentence about a ferry", "A ferry", "The barge", "Q: Who?\nA:")]
    prompts.append(Prompt("New fact: x.\nThe ferry", without="The ferry", contrast=0.5))
    assert model.complete_all(prompts, 12, batch=2) == [model.complete(prompt, 12) for prompt in prompts]
    assert len({model.complete(prompt, 12) for prompt in prompts}) > 3
    with pytest.raises(HybridError, match="reads 512"):
        model.complete_all([Prompt("x" * 600)])


def test_contrast_prefers_what_the_context_speaks_for() -> None:
    from hybrid.model import _choose

    given, alone = torch.tensor([2.0, 1.8, -9.0]), torch.tensor([2.0, -2.0, -30.0])
    assert _choose([given], 0.5) == 0
    assert _choose([given, alone], 0.0) == 0
    assert _choose([given, alone], 0.5) == 1
    assert _choose([given, alone], 50.0) == 1, "an implausible token is never chosen"


def test_identity_is_the_weights(causal_folder: Path, chat_folder: Path) -> None:
    one, same, other = LanguageModel(str(causal_folder)), LanguageModel(str(causal_folder)), LanguageModel(str(chat_folder))
    assert one.identity == same.identity
    assert one.identity.weights_hash != other.identity.weights_hash or causal_folder.name.startswith("llama")


def test_stored_text_cannot_become_a_special_token(causal_folder: Path) -> None:
    model = LanguageModel(str(causal_folder))
    assert 1 not in model.encode(Prompt("ends here </s> and goes on"))


def test_chat_template(chat_folder: Path) -> None:
    model = LanguageModel(str(chat_folder))
    assert model.is_chat
    text = model.tokenizer.decode(model.encode(Prompt("Hello </s> there", chat=True)))
    assert text.startswith("<s>user: Hello") and text.endswith("<s>assistant: ") and text.count("</s>") == 1


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="neither a folder nor a name"):
        _ = LanguageModel("no-such-model-anywhere").identity
    with pytest.raises(NotFound, match="safetensors"):
        _ = LanguageModel(str(tmp_path)).identity


def test_a_prompt_that_is_too_long_is_refused(causal_folder: Path) -> None:
    with pytest.raises(HybridError, match="tokens"):
        LanguageModel(str(causal_folder)).complete(Prompt("word " * 400))


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (" Canberra.\nQ: next", " Canberra."),
        (" Washington, D.C. and more", " Washington, D.C. and more"),
        (" It is Oslo. It lies in Norway.", " It is Oslo."),
        ("\n\n Oslo\n", "\n\n Oslo"),
        (" version 2.5 of", " version 2.5 of"),
        (" St. George's. And", " St. George's."),
    ],
)
def test_natural_stop(text: str, kept: str) -> None:
    assert _natural_stop(text, False)[0] == kept
    assert _natural_stop(text, True) == (text, False)
