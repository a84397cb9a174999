"""Local processes by torch's own process starter, and one readable error when one of them fails.

Under `torchrun`, or any launcher that sets `RANK`, nothing is started: this process is one rank of the job already.
"""

import json
import logging
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.distributed.elastic.multiprocessing import start_processes
from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from modelwright.engine import LocalStore
from modelwright.protocols import ModelwrightError

_LOOK_EVERY = 0.2
# The launcher reports the rank that it first sees dead. One that fails because another was killed must not be that one.
_AFTER_THE_CAUSE = 5 * _LOOK_EVERY
# glibc maps every tensor above 32 MB anew and gives it back when it is freed, so that each step faults in the same
# pages again: half the time of a sequence of 16,384 tokens. With these (man 3 mallopt) a rank keeps what it freed.
_KEEP_FREED_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}


@dataclass(frozen=True)
class RankFailure:
    """How one rank ended."""

    rank: int
    """Of the whole job."""
    message: str
    """One line, or an error of modelwright."""
    trace: str
    """The traceback, empty when the process was killed."""
    mendable: bool
    """Whether the message is about what the user wrote."""


class LaunchError(Exception):
    """A rank failed; `failures` says how, the first cause first."""

    def __init__(self, failures: list[RankFailure]) -> None:
        super().__init__(failures[0].message)
        self.failures = failures


def is_launched() -> bool:
    """Whether a launcher has started this process as a rank."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def launched_ranks() -> int:
    """How many ranks that launcher started, 1 without one."""
    return int(os.environ["WORLD_SIZE"]) if is_launched() else 1


def launch(function: Callable[..., None], *args: Any, ranks: int, threads: int | None = None) -> None:
    """Run a function as every rank of a job on this machine and wait for it.

    Without a GPU a rank keeps the memory that it freed for its next tensors, unless the environment already says what
    glibc's allocator shall do (`MALLOC_MMAP_MAX_`, `MALLOC_TRIM_THRESHOLD_`).

    Args:
        function: Importable by name; called once per rank with `args`.
        *args: Picklable.
        ranks: How many processes.
        threads: CPU threads of each; the cores are divided when None.

    Raises:
        LaunchError: A rank failed; the others have been ended.
        KeyboardInterrupt: Ctrl-C; the ranks have been ended.
        SystemExit: Another signal that ends processes; the ranks have been ended.
    """
    threads = threads or max(1, (os.cpu_count() or 1) // ranks)
    for name, value in _rank_environment(threads).items():
        os.environ.setdefault(name, value)
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="modelwright-") as folder, LocalStore() as store:
        # torch's launcher (`elastic_launch`) is not used: it serves a store on every interface and unpickles what
        # others write there. One machine needs no rendezvous; these are the processes that it would start.
        processes = start_processes(
            name="modelwright",
            entrypoint=_guarded,
            args=dict.fromkeys(range(ranks), (function, args, folder)),
            envs={rank: store.environment(rank, ranks) for rank in range(ranks)},
            logs_specs=DefaultLogsSpecs(log_dir=folder),
            start_method="spawn",
        )
        try:
            ended = processes.wait(period=_LOOK_EVERY)
        except SignalException as error:
            processes.close(error.sigval)
            raise (KeyboardInterrupt if error.sigval == signal.SIGINT else SystemExit(128 + error.sigval)) from None
        if ended is not None and ended.is_failed():
            raise LaunchError(_failures(ended.failures, Path(folder)))


def _rank_environment(threads: int) -> dict[str, str]:
    """What a rank finds in its environment where the user has not said otherwise."""
    return {"OMP_NUM_THREADS": str(threads)} | ({} if torch.cuda.is_available() else _KEEP_FREED_MEMORY)


def _guarded(function: Callable[..., None], args: tuple[Any, ...], errors: str) -> None:
    """One rank: run the function, and leave word of what it raised where the parent finds it."""
    try:
        function(*args)
    except Exception as error:  # noqa: BLE001 - reported by the parent
        word = {
            "message": str(error) or type(error).__name__,
            "trace": traceback.format_exc(),
            "mendable": isinstance(error, ModelwrightError),
        }
        if not word["mendable"]:
            word["message"] = f"{type(error).__name__}: {word['message']}"
        Path(errors, f"{os.environ['RANK']}.json").write_text(json.dumps(word))
        sys.stderr.flush()
        if not word["mendable"]:
            time.sleep(_AFTER_THE_CAUSE)
        os._exit(1)


def _failures(ended: dict[int, ProcessFailure], errors: Path) -> list[RankFailure]:
    """What the ranks left word of, in order of time; then the ones that could not."""
    words = sorted(errors.glob("*.json"), key=lambda path: path.stat().st_mtime)
    told = [RankFailure(rank=int(path.stem), **json.loads(path.read_text())) for path in words]
    spoken = {failure.rank for failure in told}
    silent = [
        RankFailure(rank, _ending(rank, failure.exitcode), "", mendable=False)
        for rank, failure in ended.items()
        if rank not in spoken and failure.exitcode != -signal.SIGTERM
    ]
    # A killed rank is the cause; what the others then say about a closed connection is its consequence.
    return silent + told or [
        RankFailure(rank, _ending(rank, failure.exitcode), "", mendable=False) for rank, failure in ended.items()
    ]


def _ending(rank: int, exitcode: int) -> str:
    if exitcode < 0:
        name = signal.Signals(-exitcode).name
        return f"rank {rank} was killed by {name}; the other ranks have been ended."
    return f"rank {rank} ended with exit code {exitcode} and no message; the other ranks have been ended."
