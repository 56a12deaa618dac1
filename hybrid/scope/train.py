"""Train the scope classifier: `python -m hybrid.scope.train --facts facts.tsv --text prose.txt --out run`.

Relations and subjects are split: nine relations and the pocket model's unseen subjects are never
trained on; some of them are for `hybrid.scope.calibrate`, which has to follow, the others for `hybrid.scope.evaluate`.
Two in five pairs are drawn from the lexicon, the others from `hybrid.scope.authored`.
"""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import click
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from hybrid.lexicon import Relation, phrased, plentiful, relations
from hybrid.parallel import share_gradients, together
from hybrid.pocket.corpus import read_sentences
from hybrid.pocket.facts import split_facts
from hybrid.pocket.train import Settings
from hybrid.scope.authored import Author
from hybrid.scope.pairs import Pair, PairMaker
from hybrid.scope.scorer import CrossEncoder, ScopeScorer, save, tokenize, tokenizer

log = logging.getLogger(__name__)
P = TypeVar("P", bound=tuple[Any, ...])

CALIBRATE = ("P57", "P169", "P246", "price")
SCORE = ("P50", "P84", "P166", "P463", "deadline")
"""Relations that are never trained on."""


@dataclass(frozen=True)
class Makers:
    """Pair makers over disjoint subjects, and relations (but for `familiar`)."""

    train: PairMaker
    calibrate: PairMaker
    familiar: PairMaker
    """Relations that are trained on, in other words and about other subjects."""
    score: PairMaker


def makers(facts: Path, text: Path) -> Makers:
    """Split relations, subjects and prose between training, calibration and scoring."""
    split = split_facts(facts, Settings.facts, Settings.seed)
    sentences = read_sentences(text)
    held = {*CALIBRATE, *SCORE}
    half, part = len(split.unseen) // 2, len(sentences) // 10
    lexicon = plentiful()
    familiar = [key for key in phrased() if key not in held and _held_out(relations()[key])]
    return Makers(
        PairMaker((*split.taught, *split.practice), [key for key in phrased() if key not in held], sentences[2 * part :], broad=True),
        PairMaker(split.unseen[:half], CALIBRATE, sentences[:part], held_out=True, others=[key for key in lexicon if key not in held]),
        PairMaker(split.unseen[:half], familiar, sentences[:part], held_out=True, broad=True),
        PairMaker(split.unseen[half:], SCORE, sentences[part : 2 * part], held_out=True),
    )


def _held_out(relation: Relation) -> bool:
    return bool(relation.held_out_statements and relation.held_out_questions and relation.held_out_oblique)


def _save_state(path: Path, model: CrossEncoder, optimizer: torch.optim.Optimizer, step: int) -> None:
    tensors = {f"model.{k}": v.detach().contiguous() for k, v in model.named_parameters() if v.requires_grad}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"opt.{index}.{key}": torch.as_tensor(value).clone().contiguous() for key, value in state.items()}
    save_file(tensors, path.with_suffix(".partial"))
    path.with_suffix(".partial").replace(path)
    path.with_suffix(".json").write_text(json.dumps({"step": step}))


def _load_state(path: Path, model: CrossEncoder, optimizer: torch.optim.Optimizer) -> int:
    if not path.exists():
        return 0
    tensors = load_file(path)
    model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")}, strict=False)
    saved = optimizer.state_dict()
    for key, value in tensors.items():
        if key.startswith("opt."):
            _, index, name = key.split(".")
            saved["state"].setdefault(int(index), {})[name] = value
    optimizer.load_state_dict(saved)
    return int(json.loads(path.with_suffix(".json").read_text())["step"])


def batched(pairs: Iterable[P], rows: int, rng: random.Random) -> list[list[P]]:
    """Pairs in batches whose two texts are of like length together, the batches in any order."""
    found = sorted(pairs, key=lambda pair: len(pair[0]) + len(pair[1]))
    batches = [found[at : at + rows] for at in range(0, len(found), rows)]
    rng.shuffle(batches)
    return batches


class Drawer(Protocol):
    """What pairs come from."""

    def draw(self, rng: random.Random) -> Pair:
        """A pair for training."""


def run(
    maker: Drawer,
    out: Path,
    weights: Path,
    pairs: int,
    threads: int,
    fuse: bool = False,
    rows: int = 64,
    lr: float = 2e-4,
    start: Path | None = None,
    workers: int = 1,
    bfloat16: bool = False,
) -> None:
    """Train on `pairs` pairs, from MiniLM or from the classifier in the folder `start`, and write the weights; `hybrid.scope.calibrate` weighs them then.

    Args:
        workers: processes of one thread that share each batch of `rows`.
        bfloat16: multiply in it; the weights stay float32.
    """
    out.mkdir(parents=True, exist_ok=True)
    together(workers, out, work, (workers, maker, out, weights, pairs, threads, fuse, rows, lr, start, bfloat16))


def work(
    rank: int,
    workers: int,
    maker: Drawer,
    out: Path,
    weights: Path,
    pairs: int,
    threads: int,
    fuse: bool,
    rows: int,
    lr: float,
    start: Path | None,
    bfloat16: bool,
) -> None:
    """One process of a run: its rows of every batch; the first one logs and saves."""
    first_one = rank == 0
    if threads or workers > 1:
        torch.set_num_threads(threads or 1)
    torch.manual_seed(0)
    model, tok = ScopeScorer(start).network if start else (CrossEncoder(), tokenizer())
    model.body.set_attn_implementation("eager" if bfloat16 else "sdpa")  # the fused kernel's backward pass is slow in bfloat16, on rows this short
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr, weight_decay=0.01)
    state = out / "scope.safetensors"
    step, steps = _load_state(state, model, optimizer), pairs // rows
    started = saved = time.monotonic()
    smooth, first = 0.0, step
    model.train()
    if fuse:
        model.body.forward = torch.compile(model.body.forward, dynamic=True)
    while step < steps:
        rng = random.Random(f"scope/{step // 16}")
        batches = [batch[rank::workers] for batch in batched([maker.draw(rng) for _ in range(16 * rows)], rows, rng)]
        for batch in batches:
            share = min(1.0, (step + 1) / 60, (steps - step) / (0.7 * steps))
            for group in optimizer.param_groups:
                group["lr"] = lr * share
            labels = torch.tensor([float(pair.label) for pair in batch])
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                logits = model(tokenize(tok, [pair.statement for pair in batch], [pair.query for pair in batch]))
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), labels * 0.98 + 0.01, reduction="sum") / rows
            loss.backward()  # type: ignore[no-untyped-call]
            if workers > 1:
                share_gradients(model, loss)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            smooth = loss.item() if not smooth else 0.98 * smooth + 0.02 * loss.item()
            if step % 50 == 0:
                spent = time.monotonic() - started
                log.info("step %d/%d  loss %.3f  %.0f pairs/s", step, steps, smooth, (step - first) * rows / spent)
            if first_one and (time.monotonic() - saved > 120 or step == steps):
                _save_state(state, model, optimizer, step)
                saved = time.monotonic()
            if step >= steps:
                break
    if workers > 1:
        dist.destroy_process_group()
    if first_one:
        save(model, weights, {"pairs": pairs})


@click.command()
@click.option("--facts", type=click.Path(exists=True, path_type=Path), required=True, help="Tab-separated triples.")
@click.option("--text", type=click.Path(exists=True, path_type=Path), required=True, help="Plain prose.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the run; resumed if it exists.")
@click.option("--weights", type=click.Path(path_type=Path), default=Path(__file__).parent / "weights", help="Where the result goes.")
@click.option("--pairs", default=150_000, show_default=True)
@click.option("--threads", default=0, help="CPU threads; 0 leaves it to torch.")
@click.option("--lr", default=2e-4, show_default=True, help="Highest learning rate.")
@click.option("--start", type=click.Path(exists=True, path_type=Path), help="Go on from a trained classifier instead of MiniLM.")
@click.option("--rows", default=64, show_default=True, help="Pairs in a batch.")
@click.option("--workers", default=1, show_default=True, help="Processes that share each batch; use as many as there are free cores.")
@click.option("--bfloat16/--float32", default=False, show_default=True, help="Multiply in bfloat16 (for processors that can).")
@click.option("--compile/--no-compile", "fuse", default=False, help="Fuse kernels with torch.compile (needs a C++ compiler).")
def main(
    facts: Path,
    text: Path,
    out: Path,
    weights: Path,
    pairs: int,
    threads: int,
    lr: float,
    start: Path | None,
    rows: int,
    workers: int,
    bfloat16: bool,
    fuse: bool,
) -> None:
    """Train the scope classifier."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    run(Author(makers(facts, text).train), out, weights, pairs, threads, fuse, rows, lr, start, workers, bfloat16)


if __name__ == "__main__":
    main()
