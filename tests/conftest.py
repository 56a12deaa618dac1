"""Small random models of real architectures, saved to disk as users have them; stores in temporary folders."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("unhurried", deadline=None)  # a busy machine fails no test
settings.load_profile("unhurried")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models are tiny: threads would only wait for each other


def save_tokenizer(folder: Path, chat: bool = False) -> int:
    """A byte-level tokenizer without merges; returns its size."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(["<s>", "</s>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    if chat:
        fast.chat_template = (
            "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}{% if add_generation_prompt %}<s>assistant: {% endif %}"
        )
    fast.save_pretrained(folder)
    return len(vocabulary)


def save_causal(folder: Path, kind: str, chat: bool = False, layers: int = 2) -> Path:
    """A small random Llama or GPT-2."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    size = save_tokenizer(folder, chat)
    torch.manual_seed(3)
    if kind == "llama":
        config = LlamaConfig(
            vocab_size=size, hidden_size=32, intermediate_size=48, num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=2,
            max_position_embeddings=512, bos_token_id=0, eos_token_id=1, initializer_range=0.1,
        )  # fmt: skip
        LlamaForCausalLM(config).save_pretrained(folder)
    else:
        config2 = GPT2Config(vocab_size=size, n_embd=32, n_layer=layers, n_head=4, n_positions=512, bos_token_id=0, eos_token_id=1, initializer_range=0.1)
        GPT2LMHeadModel(config2).save_pretrained(folder)
    return folder


ISLES = ("Orsa", "Belm", "Quay", "Tirn", "Wolf", "Mare", "Fenn", "Gulf")
PORTS = ("Nim", "Ott", "Pax", "Rue", "Sol", "Ume", "Vik", "Wex")


def save_worded(folder: Path, kind: str = "llama") -> Path:
    """A small random model whose tokens are whole words, among them `ISLES` and `PORTS`.

    Where a prompt ends with its subject and the target is one word, an editor can teach it any fact within milliseconds.
    """
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from hybrid.consolidation.checks import prose, subjects
    from hybrid.lexicon import relations

    splitter = pre_tokenizers.Whitespace()
    texts = [
        *ISLES,
        *PORTS,
        *prose(),
        *(each for several in subjects().values() for each in several),
        *relations()["P36"].statements,
        "Q : A The ferry port of {} ?",
    ]
    words = sorted({word for text in texts for word, _ in splitter.pre_tokenize_str(text)})
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["<unk>", "</s>", *words])}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = splitter
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>").save_pretrained(folder)
    torch.manual_seed(3)
    size = len(words) + 2
    if kind == "llama":
        config = LlamaConfig(
            vocab_size=size, hidden_size=48, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
            max_position_embeddings=256, bos_token_id=None, eos_token_id=1, initializer_range=0.1,
        )  # fmt: skip
        LlamaForCausalLM(config).save_pretrained(folder)
    else:
        config2 = GPT2Config(vocab_size=size, n_embd=48, n_layer=3, n_head=4, n_positions=256, bos_token_id=None, eos_token_id=1, initializer_range=0.1)
        GPT2LMHeadModel(config2).save_pretrained(folder)
    (folder / "sample.txt").write_text("\n".join([*prose(), *(f"The ferry port of {isle}" for isle in ISLES)]), encoding="utf-8")
    return folder


@pytest.fixture(scope="session", params=["llama", "gpt2"])
def causal_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small random model."""
    return save_causal(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="session")
def chat_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small random chat model."""
    return save_causal(tmp_path_factory.mktemp("chat"), "llama", chat=True)


@pytest.fixture(scope="session")
def embedder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random sentence-transformers model with 24 dimensions."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer
    from transformers import BertConfig, BertModel

    body = tmp_path_factory.mktemp("bert")
    torch.manual_seed(5)
    from transformers import AutoTokenizer

    from hybrid.embedder import minilm_folder

    tokenizer = AutoTokenizer.from_pretrained(minilm_folder())
    tokenizer.save_pretrained(body)
    BertModel(BertConfig(vocab_size=len(tokenizer), hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)).save_pretrained(body)
    folder = tmp_path_factory.mktemp("embedder")
    SentenceTransformer(modules=[Transformer(str(body)), Pooling(24)], device="cpu").save(str(folder))
    return folder


@pytest.fixture(scope="session")
def facts_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small table of triples for trainers, made of the project's own examples."""
    import random

    from hybrid.lexicon import plentiful
    from hybrid.pocket.names import invent

    rng = random.Random(0)
    lines = ["relation_id\trelation\tsubject\tobject\tsource"]
    lines += [f"P36\tcapital\tCountry{i}\tTown{i}\tcountries" for i in range(30)]
    for key in ("P19", "P159", "P50", "P37", "P740", "P169"):
        relation = plentiful()[key]
        lines += [f"{key}\t{relation.name}\t{invent(relation.subject_type, rng)} {i}\t{invent(relation.target_type, rng)}\ttrex" for i in range(60)]
    path = tmp_path_factory.mktemp("facts") / "facts.tsv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def prose_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some prose of the project's own."""
    path = tmp_path_factory.mktemp("prose") / "prose.txt"
    lines = [f"On day {i} the keeper of the lighthouse wrote a short note about the weather and the ships." for i in range(60)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A folder for a store."""
    return tmp_path / "store"


@pytest.fixture(scope="session")
def shared_memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """The defaults, with one fact in memory; tests must not change it."""
    from hybrid.memory import HybridMemory

    with HybridMemory(tmp_path_factory.mktemp("shared") / "store", author="tester") as memory:
        memory.add_fact("Australia capital", "Canberra")
        yield memory
