"""The processes of one attempt and what they say to each other. What a model does with them is in engine.py."""

import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from rlhf_operator.api.plan import PlanCompute

from .errors import ConfigError, PeerLost, TrainerError

T = TypeVar("T")

# What gloo and NCCL say when the other side is gone; their exception is a plain RuntimeError.
_PEER_WORDS = (
    "connection closed by peer",
    "connection reset by peer",
    "connection refused",
    "broken pipe",
    "socket closed",
    "gloo",
    "nccl",
    "read error",
    "write error",
    "timed out waiting",
    "timed out after",
    "recvvalue failed",
    "sendbytes failed",
    "the client socket has",
    "failed to recv",
)


def is_peer_lost(error: BaseException) -> bool:
    """Whether an exception says that another rank vanished rather than that this one failed."""
    if isinstance(error, dist.DistError | ConnectionError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _PEER_WORDS)


@contextmanager
def _collective(what: str) -> Iterator[None]:
    try:
        yield
    except TrainerError:
        raise
    except Exception as error:
        if is_peer_lost(error):
            raise PeerLost(f"another rank vanished during {what}: {_first_line(error)}") from error
        raise


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")[:300]


@dataclass
class Waited:
    """Seconds that this rank has spent in exchanges with its peers."""

    seconds: float = 0.0


@dataclass(frozen=True)
class Group:
    """This rank and its peers. With one process every exchange is the identity and needs no process group."""

    rank: int
    world_size: int
    local_rank: int
    device: torch.device
    waited: Waited = field(default_factory=Waited, compare=False)

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which alone writes the workspace's shared files."""
        return self.rank == 0

    @contextmanager
    def _exchange(self, what: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            with _collective(what):
                yield
        finally:
            self.waited.seconds += time.monotonic() - started

    def barrier(self, what: str) -> None:
        """Wait until every rank is here."""
        if self.world_size > 1:
            with self._exchange(what):
                dist.barrier()

    def sum(self, values: Tensor, what: str = "a sum") -> Tensor:
        """Return the element-wise sum over ranks; same shape."""
        if self.world_size == 1:
            return values
        with self._exchange(what):
            total = values.detach().clone()
            dist.all_reduce(total)
            return total

    def maximum(self, value: int, what: str = "a maximum") -> int:
        """Return the largest of one integer per rank."""
        if self.world_size == 1:
            return value
        with self._exchange(what):
            found = torch.tensor([value], dtype=torch.int64, device=self.device)
            dist.all_reduce(found, op=dist.ReduceOp.MAX)
            return int(found.item())

    def gather_rows(self, rows: Tensor, what: str = "a gather") -> Tensor:
        """Join equally shaped [rows, …] of every rank in rank order: [world × rows, …]."""
        if self.world_size == 1:
            return rows
        with self._exchange(what):
            parts = [torch.empty_like(rows) for _ in range(self.world_size)]
            dist.all_gather(parts, rows.contiguous())
            return torch.cat(parts)

    def gather_list(self, items: Sequence[T], what: str = "a gather") -> list[T]:
        """Join the lists of every rank in rank order."""
        if self.world_size == 1:
            return list(items)
        with self._exchange(what):
            parts: list[Any] = [None] * self.world_size
            dist.all_gather_object(parts, list(items))
            return [item for part in parts for item in part]

    def broadcast(self, value: T, what: str = "a broadcast") -> T:
        """Return rank 0's value on every rank."""
        if self.world_size == 1:
            return value
        with self._exchange(what):
            box = [value]
            dist.broadcast_object_list(box, src=0)
            return box[0]

    def share(self, count: int) -> range:
        """The part of `count` rows, in blocks by rank, that is this rank's; `count` divides by the world size."""
        part = count // self.world_size
        return range(self.rank * part, (self.rank + 1) * part)


def join(compute: PlanCompute, timeout_seconds: float) -> Group:
    """Join the other ranks and hold the world against the plan.

    The time-out is the longest silence of a collective: it must be longer than timeouts.progress, so that a hang is
    found by the watchdog, which keeps stacks, and not by a peer.
    """
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if world != compute.world_size:
        raise ConfigError(
            f"the plan asks for {compute.world_size} ranks ({compute.workers} workers of "
            f"{compute.procs_per_worker}), but {world} were started",
            reason="WorldSize",
        )
    device = _device(compute, local_rank)
    if world > 1 or compute.zero_stage > 0:
        if world == 1 and "MASTER_ADDR" not in os.environ:
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(_free_port()), RANK="0", WORLD_SIZE="1")
            os.environ["LOCAL_RANK"] = "0"
        with _collective("the start of the process group"):
            dist.init_process_group(
                "nccl" if device.type == "cuda" else "gloo", timeout=timedelta(seconds=timeout_seconds)
            )
    return Group(rank=rank, world_size=world, local_rank=local_rank, device=device)


def leave() -> None:
    """Leave the process group, if one was joined."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def _device(compute: PlanCompute, local_rank: int) -> torch.device:
    if compute.gpus_per_worker == 0:
        return torch.device("cpu")
    if torch.cuda.device_count() <= local_rank:
        raise ConfigError(
            f"compute.gpusPerWorker is {compute.gpus_per_worker}, but this pod sees {torch.cuda.device_count()} GPUs",
            reason="NoGPU",
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
