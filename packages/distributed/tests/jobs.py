"""Functions that the ranks of the tests run. They can be imported by name and import only torch."""

import os
import signal
import time

import torch
from torch.distributed import ReduceOp

from modelwright.config import Parallelism
from modelwright.distributed import initialize


def whoami(word: str = "") -> tuple[int, int, str]:
    """Rank, ranks and the argument."""
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), word


def pid() -> int:
    """The process."""
    return os.getpid()


def unpicklable() -> object:
    """A function that has no name to be found by."""
    return lambda: None


def threads() -> int:
    """The threads that torch uses."""
    return torch.get_num_threads()


def summed(tensor: int = 1) -> tuple[list[float], int, int]:
    """Return the sum over all ranks, and the sizes of two groups."""
    groups = initialize(Parallelism(tensor=tensor))
    value = torch.tensor([float(os.environ["RANK"]), 1.0])
    torch.distributed.all_reduce(value, op=ReduceOp.SUM)
    return value.tolist(), groups.tp.size(), groups.dp.size()


def initialized() -> bool:
    """Return True if an earlier function left its groups behind."""
    return torch.distributed.is_initialized()


def one_raises() -> None:
    """Rank 1 raises while rank 0 waits for it."""
    initialize(Parallelism(tensor=2))
    if os.environ["RANK"] == "1":
        raise ValueError("the loss of rank 1 is nan")
    torch.distributed.barrier()


def one_is_killed() -> None:
    """Rank 1 is killed while rank 0 waits for it."""
    initialize(Parallelism(tensor=2))
    if os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(600)


def one_sleeps() -> None:
    """Rank 1 does not end."""
    if os.environ["RANK"] == "1":
        time.sleep(600)
