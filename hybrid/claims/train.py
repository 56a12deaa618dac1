"""Train the verifier: `python -m hybrid.claims.train --out run`, from the scope classifier, on claims written one by one and on the lexicon's wordings."""

from __future__ import annotations

import logging
import random
from pathlib import Path

import click
import torch
import torch.distributed as dist

from hybrid.claims.pairs import OPEN, Drawer, Pair, records
from hybrid.claims.verifier import WEIGHTS, Network, Verifier, save
from hybrid.parallel import share_gradients, together
from hybrid.scope.scorer import ScopeScorer, tokenize
from hybrid.scope.train import CALIBRATE, SCORE, batched

log = logging.getLogger(__name__)

SOFT = 0.05
"""Of a label's probability that goes to the others."""


def work(rank: int, workers: int, weights: Path, pairs: int, rows: int, lr: float, bfloat16: bool) -> None:
    """One process of a run: its rows of every batch; the first one logs and saves."""
    torch.set_num_threads(1 if workers > 1 else torch.get_num_threads())
    torch.manual_seed(0)
    start, tok = ScopeScorer().network
    network, drawer = Network(start), Drawer((*CALIBRATE, *SCORE))
    network.body.set_attn_implementation("eager" if bfloat16 else "sdpa")
    trained = [each for _, each in network.trained()]
    optimizer = torch.optim.AdamW(trained, lr=lr, weight_decay=0.01)
    step, steps, smooth = 0, pairs // rows, 0.0
    network.train()
    while step < steps:
        rng = random.Random(f"claims/{step // 16}")
        for batch in batched([drawer.draw(rng) for _ in range(16 * rows)], rows, rng)[: steps - step]:
            for group in optimizer.param_groups:
                group["lr"] = lr * min(1.0, (step + 1) / 100, (steps - step) / (0.9 * steps))
            mine = batch[rank::workers]
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                logits = network(tokenize(tok, [pair.statement for pair in mine], [pair.claim for pair in mine]))
            labels = torch.tensor([pair.label for pair in mine])
            loss = torch.nn.functional.cross_entropy(logits.float(), labels, label_smoothing=SOFT, reduction="sum") / rows
            loss.backward()  # type: ignore[no-untyped-call]
            if workers > 1:
                share_gradients(network, loss)
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            smooth = loss.item() if not smooth else 0.98 * smooth + 0.02 * loss.item()
            if step % 50 == 0:
                log.info("step %d/%d  loss %.3f", step, steps, smooth)
    if workers > 1:
        dist.destroy_process_group()
    if rank == 0:
        save(network, weights, {"pairs": pairs})


def accuracy(verifier: Verifier, pairs: list[Pair]) -> dict[str, float]:
    """Share of pairs that are told right: among three labels, and of those that are decided, among two."""
    said = verifier.verdicts([pair.statement for pair in pairs], [pair.claim for pair in pairs])
    decided = [(verdict.supported > verdict.refuted) == bool(pair.label) for verdict, pair in zip(said, pairs, strict=True) if pair.label != OPEN]
    three = [verdict.index(max(verdict)) == pair.label for verdict, pair in zip(said, pairs, strict=True)]
    return {"yes_or_no": round(sum(decided) / len(decided), 4), "three_ways": round(sum(three) / len(three), 4)}


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the run.")
@click.option("--weights", type=click.Path(path_type=Path), default=WEIGHTS, help="Where the result goes.")
@click.option("--pairs", default=80_000, show_default=True)
@click.option("--rows", default=32, show_default=True, help="Pairs in a batch.")
@click.option("--lr", default=2e-3, show_default=True, help="Highest learning rate.")
@click.option("--workers", default=1, show_default=True, help="Processes that share each batch; use as many as there are free cores.")
@click.option("--bfloat16/--float32", default=False, show_default=True, help="Multiply in bfloat16 (for processors that can).")
def main(out: Path, weights: Path, pairs: int, rows: int, lr: float, workers: int, bfloat16: bool) -> None:
    """Train the verifier."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    out.mkdir(parents=True, exist_ok=True)
    together(workers, out, work, (workers, weights, pairs, rows, lr, bfloat16))
    click.echo(accuracy(Verifier(weights), [pair for each in records() if each.apart for pair in each.pairs]))


if __name__ == "__main__":
    main()
