"""Train pocket: `python -m hybrid.pocket.train --facts facts.tsv --text prose.txt --out run`.

Checkpoints are safetensors; a run that is started again goes on where it stopped, batch for batch. The learning
rate warms up, stays, and falls to zero over the last share of the steps, so that a run can be extended
(`--documents` larger) from a checkpoint taken before the fall. On a processor, `--workers` processes of one
thread each, every one with its rows of the batch, train twice as fast as one process of as many threads. On one
that multiplies in bfloat16 (AMX, AVX512-BF16), `--bfloat16 --compile` takes a third
to a half of the time (of one core; less is gained where cores share their units).
"""

from __future__ import annotations

import json
import logging
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from hybrid.parallel import leave_with_parent, share_gradients, together
from hybrid.pocket.corpus import Corpus, Document, read_sentences
from hybrid.pocket.facts import split_facts
from hybrid.pocket.muon import Muon
from hybrid.pocket.tokenizer import END, PAD, START, save_tokenizer, train_tokenizer

log = logging.getLogger(__name__)

CHUNK = 48
"""Batches that are made, sorted by length and shuffled together."""
AT_ONCE = 4096
"""Tokens whose activations a process keeps at a time; on a processor, where memory is what several of them share."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a run depends on; stored beside its checkpoints."""

    facts: int = 6100
    vocabulary: int = 4096
    width: int = 256
    feed_forward: int = 1536
    layers: int = 6
    heads: int = 8
    rows: int = 128
    lr: float = 3e-3
    adam_lr: float = 2e-3
    fall: float = 0.35
    seed: int = 7


def make_corpus(facts: Path, text: Path, settings: Settings, kind: type[Corpus] = Corpus) -> Corpus:
    """The corpus that the settings describe."""
    split = split_facts(facts, settings.facts, settings.seed)
    prose = " ".join(text.read_text(encoding="utf-8", errors="ignore").replace("\ufffd", " ").split())
    return kind(split, prose, read_sentences(text), seed=settings.seed)


def make_model(settings: Settings) -> LlamaForCausalLM:
    """A fresh model of the settings' size."""
    torch.manual_seed(settings.seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=settings.vocabulary,
            hidden_size=settings.width,
            intermediate_size=settings.feed_forward,
            num_hidden_layers=settings.layers,
            num_attention_heads=settings.heads,
            num_key_value_heads=settings.heads,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=2,
        )
    )


@dataclass(frozen=True)
class Batch:
    """Rows padded on the right: tokens (rows, length) int16, learnt (rows, length) bool."""

    tokens: Tensor
    learnt: Tensor


def encode(documents: list[Document], tokenizer: Tokenizer, rows: int, limit: int = 320) -> list[Batch]:
    """Tokenize, sort by length, and cut into batches of `rows` documents of like length."""
    texts = [text for document in documents for text, _ in document]
    pieces = iter(tokenizer.encode_batch(texts, add_special_tokens=False))
    encoded = []
    for document in documents:
        tokens, learnt = [0], [False]
        for _, flag in document:
            ids = next(pieces).ids
            tokens += ids
            learnt += [flag] * len(ids)
        encoded.append((tokens[:limit], learnt[:limit]))
    encoded.sort(key=lambda item: len(item[0]))
    batches = []
    for at in range(0, len(encoded), rows):
        group = encoded[at : at + rows]
        length = len(group[-1][0])
        batches.append(
            Batch(
                torch.tensor([t + [2] * (length - len(t)) for t, _ in group], dtype=torch.int16),
                torch.tensor([f + [False] * (length - len(f)) for _, f in group]),
            )
        )
    return batches


class Feeder:
    """Makes chunks of batches ahead of the trainer, in a process of its own."""

    kind: type[Corpus] = Corpus
    corpus: Corpus
    tokenizer: Tokenizer
    rows: int

    @classmethod
    def start(cls, facts: Path, text: Path, tokenizer: str, settings: Settings) -> None:
        """Set up the worker process."""
        leave_with_parent()
        torch.set_num_threads(1)
        cls.corpus = make_corpus(facts, text, settings, cls.kind)
        cls.tokenizer = Tokenizer.from_str(tokenizer)
        cls.rows = settings.rows

    @classmethod
    def chunk(cls, number: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Chunk `number`, its batches in random order."""
        batches = encode(cls.corpus.documents(number, CHUNK * cls.rows), cls.tokenizer, cls.rows)
        order = torch.randperm(len(batches), generator=torch.Generator().manual_seed(number)).tolist()
        return [(batches[i].tokens.numpy(), batches[i].learnt.numpy()) for i in order]


def loss_of(model: LlamaForCausalLM, tokens: Tensor, learnt: Tensor, count: int | None = None) -> Tensor:
    """Cross-entropy of the learnt tokens over `count` (their number, unless told); the head runs at their positions only.

    Padding is on the right, so a causal model needs no attention mask.
    """
    hidden = model.model(input_ids=tokens, use_cache=False).last_hidden_state[:, :-1]
    wanted = learnt[:, 1:]
    logits = model.lm_head(hidden[wanted])
    total = torch.nn.functional.cross_entropy(logits.float(), tokens[:, 1:][wanted], reduction="sum")
    return total / (count or max(1, int(wanted.sum())))


def optimizers(model: LlamaForCausalLM, settings: Settings, dtype: torch.dtype = torch.float32) -> list[torch.optim.Optimizer]:
    """Muon (on a processor: orthogonalising in `dtype`) for the matrices of the blocks, AdamW for embeddings and norms."""
    blocks = [p for p in model.model.layers.parameters() if p.ndim == 2]
    inside = {id(p) for p in blocks}
    rest = [p for p in model.parameters() if id(p) not in inside]
    muon: torch.optim.Optimizer
    if next(model.parameters()).is_cuda:
        muon = torch.optim.Muon(blocks, lr=settings.lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    else:
        muon = Muon(blocks, lr=settings.lr, dtype=dtype)
    return [muon, torch.optim.AdamW(rest, lr=settings.adam_lr, betas=(0.9, 0.98), weight_decay=0.0)]


def rate(step: int, steps: int, fall: float, warm_up: int = 100) -> float:
    """Share of the learning rate at a step: warm-up, plateau, linear fall."""
    return min(1.0, (step + 1) / warm_up, max(0.0, (steps - step) / (fall * steps)))


def save_checkpoint(folder: Path, step: int, model: LlamaForCausalLM, opts: list[torch.optim.Optimizer]) -> None:
    """Write model and optimizer state to one safetensors file, replacing the last atomically."""
    tensors = {f"model.{k}": v.detach().cpu().contiguous() for k, v in model.named_parameters()}
    for number, optimizer in enumerate(opts):
        for index, state in optimizer.state_dict()["state"].items():
            for key, value in state.items():
                tensors[f"opt.{number}.{index}.{key}"] = torch.as_tensor(value).detach().cpu().contiguous().clone()
    partial = folder / "checkpoint.partial"
    save_file(tensors, partial, metadata={"step": str(step)})
    partial.replace(folder / "checkpoint.safetensors")
    (folder / "progress.json").write_text(json.dumps({"step": step}))


def load_checkpoint(folder: Path, model: LlamaForCausalLM, opts: list[torch.optim.Optimizer]) -> int:
    """Restore the last checkpoint and return its step; 0 if there is none."""
    path = folder / "checkpoint.safetensors"
    if not path.exists():
        return 0
    tensors = load_file(path)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[f"model.{name}"])
    for number, optimizer in enumerate(opts):
        saved = optimizer.state_dict()
        for key, value in tensors.items():
            if key.startswith(f"opt.{number}."):
                _, _, index, name = key.split(".")
                saved["state"].setdefault(int(index), {})[name] = value
        optimizer.load_state_dict(saved)
    return int(json.loads((folder / "progress.json").read_text())["step"])


def prepare(facts: Path, text: Path, out: Path, settings: Settings) -> None:
    """Write a run's settings and, where it has none yet, its tokenizer."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "settings.json").write_text(json.dumps(asdict(settings), indent=1))
    if not (out / "tokenizer.json").exists():
        log.info("learning a tokenizer")
        save_tokenizer(train_tokenizer(make_corpus(facts, text, settings), settings.vocabulary), out)
    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    assert [tokenizer.token_to_id(t) for t in (START, END, PAD)] == [0, 1, 2]


def run(
    facts: Path,
    text: Path,
    out: Path,
    settings: Settings,
    documents: int,
    device: str = "cpu",
    threads: int = 0,
    fuse: bool = False,
    workers: int = 1,
    feeder: type[Feeder] = Feeder,
    bfloat16: bool | None = None,
) -> None:
    """Train to `documents` documents in all, checkpointing every two minutes; `workers` processes share each batch.

    Args:
        bfloat16: multiply in it, the weights stay float32; unless told, on a GPU only.
    """
    prepare(facts, text, out, settings)
    if workers > 1 and device != "cpu":
        raise click.UsageError("--workers is for processors; a GPU is trained by one process")
    together(
        workers, out, work, (workers, facts, text, out, settings, documents, device, threads, fuse, feeder, device == "cuda" if bfloat16 is None else bfloat16)
    )


def work(
    rank: int,
    workers: int,
    facts: Path,
    text: Path,
    out: Path,
    settings: Settings,
    documents: int,
    device: str,
    threads: int,
    fuse: bool,
    feeder: type[Feeder] = Feeder,
    bfloat16: bool = False,
) -> None:
    """One process of a run: its rows of every batch; the first one logs and saves."""
    first = rank == 0
    if threads or workers > 1:
        torch.set_num_threads(threads or 1)
    model = make_model(settings).to(device)
    if device == "cpu":
        model.set_attn_implementation("eager")  # for rows this short, half the time of the fused kernel
    opts = optimizers(model, settings, torch.bfloat16 if bfloat16 else torch.float32)
    base = [[group["lr"] for group in optimizer.param_groups] for optimizer in opts]
    step = load_checkpoint(out, model, opts)
    steps = documents // settings.rows
    log.info("%.1fM parameters, step %d of %d", sum(p.numel() for p in model.parameters()) / 1e6, step, steps)
    model.train()
    if fuse:  # 1.7 times the tokens a second, after a minute and a half of compiling
        model.model.forward = torch.compile(model.model.forward, dynamic=True)
    started, saved, seen, smooth = time.monotonic(), time.monotonic(), 0, 0.0
    arguments = (facts, text, (out / "tokenizer.json").read_text(encoding="utf-8"), settings)
    with ProcessPoolExecutor(1, initializer=feeder.start, initargs=arguments) as pool:
        ahead = pool.submit(feeder.chunk, step // CHUNK)
        while step < steps:
            chunk = ahead.result()
            ahead = pool.submit(feeder.chunk, step // CHUNK + 1)
            for tokens, learnt in chunk[step % CHUNK :]:
                share = rate(step, steps, settings.fall)
                for optimizer, rates in zip(opts, base, strict=True):
                    for group, value in zip(optimizer.param_groups, rates, strict=True):
                        group["lr"] = value * share
                ids = torch.from_numpy(tokens[rank::workers]).to(device).long()
                wanted = torch.from_numpy(learnt[rank::workers]).to(device)
                count, loss = max(1, int(learnt[:, 1:].sum())), torch.zeros((), device=device)
                at_once = max(1, AT_ONCE // ids.shape[1] if device == "cpu" else len(ids))
                for some, asked in zip(torch.split(ids, at_once), torch.split(wanted, at_once), strict=True):
                    with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
                        part = loss_of(model, some, asked, count)
                    part.backward()  # type: ignore[no-untyped-call]
                    loss += part.detach()
                if workers > 1:
                    share_gradients(model, loss)
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                for optimizer in opts:
                    optimizer.step()
                    optimizer.zero_grad()
                step, seen = step + 1, seen + tokens.size
                smooth = loss.item() if smooth == 0 else 0.98 * smooth + 0.02 * loss.item()
                if step % 50 == 0:
                    spent = time.monotonic() - started
                    log.info("step %d/%d  loss %.3f  %.0f tokens/s  %.0f min", step, steps, smooth, seen / spent, spent / 60)
                if first and (time.monotonic() - saved > 120 or step == steps):
                    save_checkpoint(out, step, model, opts)
                    saved = time.monotonic()
                if step >= steps:
                    break
    if workers > 1:
        dist.destroy_process_group()


@click.command()
@click.option("--facts", type=click.Path(exists=True, path_type=Path), required=True, help="Tab-separated triples.")
@click.option("--text", type=click.Path(exists=True, path_type=Path), required=True, help="Plain prose.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the run; resumed if it exists.")
@click.option("--documents", default=500_000, show_default=True, help="Documents in all.")
@click.option("--taught", default=Settings.facts, show_default=True, help="Facts to learn by heart.")
@click.option("--width", default=Settings.width, show_default=True)
@click.option("--feed-forward", default=Settings.feed_forward, show_default=True)
@click.option("--layers", default=Settings.layers, show_default=True)
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu", show_default=True)
@click.option("--threads", default=0, help="CPU threads; 0 leaves it to torch.")
@click.option("--workers", default=1, show_default=True, help="Processes that share each batch; use as many as there are free cores.")
@click.option("--bfloat16/--float32", default=None, help="Multiply in bfloat16 (weights stay float32); unless told, on a GPU only.")
@click.option("--compile/--no-compile", "fuse", default=False, help="Fuse kernels with torch.compile (needs a C++ compiler).")
def main(
    facts: Path,
    text: Path,
    out: Path,
    documents: int,
    taught: int,
    width: int,
    feed_forward: int,
    layers: int,
    device: str,
    threads: int,
    workers: int,
    bfloat16: bool | None,
    fuse: bool,
) -> None:
    """Train the pocket model."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    settings = Settings(facts=taught, width=width, feed_forward=feed_forward, layers=layers)
    run(facts, text, out, settings, documents, device, threads, fuse, workers, bfloat16=bfloat16)


if __name__ == "__main__":
    main()
