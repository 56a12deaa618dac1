"""Pocket's tokenizer: byte-level BPE, learnt from the corpus and the names of all facts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from hybrid.pocket.corpus import Corpus

START, END, PAD = "<s>", "</s>", "<pad>"


def train_tokenizer(corpus: Corpus, vocabulary: int, documents: int = 60_000) -> Tokenizer:
    """Learn `vocabulary` tokens from documents at all stages of training."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()

    def texts() -> Iterator[str]:
        for chunk in range(documents // 1000):
            for document in corpus.documents(-1 - chunk, 1000, several=chunk % 10 > 5):
                yield "".join(text for text, _ in document).replace(END, "")

    tokenizer.train_from_iterator(
        texts(),
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=[START, END, PAD],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    start = tokenizer.token_to_id(START)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{START} $A", special_tokens=[(START, start)])
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write it as transformers loads it."""
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=START, eos_token=END, pad_token=PAD, model_max_length=1024)
    fast.save_pretrained(folder)
