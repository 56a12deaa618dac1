"""Training in several processes of one thread each: every one has its rows of a batch, and gradients are summed."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import start_processes

KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 28), "MALLOC_TRIM_THRESHOLD_": str(1 << 31)}
"""Tells glibc to keep what a step frees: to get it back from the system each time took longer than to compute, on a virtual machine."""


def together(workers: int, out: Path, work: Callable[..., None], arguments: tuple[object, ...]) -> None:
    """Run `work(rank, *arguments)` in as many processes of one thread, which can share gradients; a single one runs here."""
    if workers == 1:
        work(0, *arguments)
        return
    for name, value in KEEP_MEMORY.items():
        os.environ.setdefault(name, value)
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    (out / "rendezvous").unlink(missing_ok=True)
    start_processes(_join, (work, out, workers, *arguments), nprocs=workers, start_method="spawn")  # type: ignore[no-untyped-call]


def _join(rank: int, work: Callable[..., None], out: Path, workers: int, *arguments: object) -> None:
    """Join the group, then work."""
    leave_with_parent()
    logging.basicConfig(level=logging.WARNING if rank else logging.INFO, format="%(asctime)s %(message)s")
    dist.init_process_group("gloo", init_method=(out / "rendezvous").absolute().as_uri(), rank=rank, world_size=workers)
    work(rank, *arguments)


def leave_with_parent() -> None:
    """Have this process end when the one that started it has ended, however that came: nobody else would end it."""
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


def share_gradients(model: nn.Module, loss: Tensor) -> None:
    """Sum gradients, and the loss for the log, over the processes that train together."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([loss.detach().reshape(1), *(g.reshape(-1) for g in gradients)])
    dist.all_reduce(flat)
    loss.data.copy_(flat[0])
    for gradient, summed in zip(gradients, torch.split(flat[1:], [g.numel() for g in gradients]), strict=True):
        gradient.copy_(summed.view_as(gradient))
