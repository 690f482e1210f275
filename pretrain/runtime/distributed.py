"""Ranks, and what crosses between them. Started by torchrun, by SLURM, or alone."""

from __future__ import annotations

import datetime
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from pretrain.runtime.errors import InputError, RunFailedError
from pretrain.runtime.files import write_text

log = logging.getLogger("fastmoco")

MEETING_TIMEOUT_S = 600


@dataclass(frozen=True)
class Ranks:
    """Where this process stands among those of the run: `rank` of `world_size`, `local_rank` on its machine."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """The one that writes files."""
        return self.rank == 0


ALONE = Ranks()


def ranks_from_environment() -> Ranks:
    """The ranks that torchrun (RANK, WORLD_SIZE, LOCAL_RANK) or SLURM (SLURM_PROCID, ...) tells; alone without either.

    A SLURM shell that runs one process has SLURM_NTASKS 1 or none and counts as alone.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    if "RANK" not in os.environ and int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_STEP_ID" in os.environ:
        names = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
    try:
        rank, world_size, local_rank = (
            int(os.environ.get(name, default)) for name, default in zip(names, "010", strict=True)
        )
    except ValueError as error:
        raise InputError(f"the launcher's variables {', '.join(names)} must be numbers: {error}") from None
    return Ranks(rank, world_size, local_rank)


@contextmanager
def process_group(device: torch.device, meeting_dir: Path, ranks: Ranks | None = None) -> Iterator[Ranks]:
    """Join the ranks of this run for the length of the block; does nothing for one that is alone.

    Under torchrun the ranks meet where MASTER_ADDR says. Elsewhere rank 0 opens a port (first one derived from the job
    id, then the next until one is free) and leaves its address in `meeting_dir`, which all ranks must see; so two jobs
    on a node never clash, nor does a requeued job with what is left of its predecessor.
    """
    ranks = ranks if ranks is not None else ranks_from_environment()
    if ranks.world_size == 1:
        yield ranks
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    store = None if "MASTER_ADDR" in os.environ else _meet(Path(meeting_dir), ranks)
    dist.init_process_group(backend, store=store, rank=ranks.rank, world_size=ranks.world_size)
    try:
        yield ranks
    finally:
        dist.destroy_process_group()


def gather(tensor: Tensor) -> Tensor:
    """(N, ...) on each rank -> (world_size * N, ...) on all, in the order of the ranks; no gradient."""
    if not _joined():
        return tensor
    tensor = tensor.contiguous()
    out = tensor.new_empty((dist.get_world_size() * tensor.shape[0], *tensor.shape[1:]))
    dist.all_gather_into_tensor(out, tensor)
    return out


def mean_over_ranks(tensor: Tensor) -> Tensor:
    """The mean over the ranks of a tensor of equal shape on each; no gradient."""
    if not _joined():
        return tensor
    out = tensor.detach().clone()
    dist.all_reduce(out)
    return out / dist.get_world_size()


def any_rank(flag: bool, device: torch.device) -> bool:
    """True on all ranks when it is True on one; every rank must call."""
    if not _joined():
        return flag
    out = torch.tensor([int(flag)], device=device)
    dist.all_reduce(out, op=dist.ReduceOp.MAX)
    return bool(out.item())


def barrier() -> None:
    """Wait until every rank is here."""
    if _joined():
        dist.barrier()


def _joined() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _meet(directory: Path, ranks: Ranks) -> dist.Store:
    timeout = datetime.timedelta(seconds=MEETING_TIMEOUT_S)
    job = os.environ.get("SLURM_JOB_ID", "local")
    # A requeued job keeps its id; its restart count tells its meeting from the one before.
    attempt = os.environ.get("SLURM_RESTART_COUNT", "0")
    place = directory / f".meeting-{job}-{os.environ.get('SLURM_STEP_ID', '0')}-{attempt}"
    if ranks.is_main:
        store = _open_port(
            ranks.world_size, timeout, start=20000 + (int(job) * 7 if job.isdigit() else os.getpid()) % 20000
        )
        write_text(place, f"{socket.gethostname()} {store.port}")
        return store
    deadline = time.monotonic() + MEETING_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            host, port = place.read_text(encoding="utf-8").split()
        except FileNotFoundError:
            time.sleep(0.2)
            continue
        return dist.TCPStore(host, int(port), ranks.world_size, is_master=False, timeout=timeout)
    raise RunFailedError(f"rank {ranks.rank} waited {MEETING_TIMEOUT_S} s for rank 0 to leave its address at {place}")


def _open_port(world_size: int, timeout: datetime.timedelta, start: int) -> dist.TCPStore:
    for port in range(start, start + 100):
        try:
            return dist.TCPStore("0.0.0.0", port, world_size, is_master=True, timeout=timeout, wait_for_workers=False)
        except (RuntimeError, dist.DistNetworkError):
            log.info("port %d is taken, trying the next", port)
    raise RunFailedError(f"no free port between {start} and {start + 99} for the ranks to meet")
