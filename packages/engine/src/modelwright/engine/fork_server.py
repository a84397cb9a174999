"""Ranks that are forked from a process that has imported torch and the engine once.

A new interpreter takes seconds to import both, and every rank of a local job needs them. A fork server (Python's
`multiprocessing`) imports them once and forks the ranks. It has no threads and no groups, so a fork is safe. CUDA does
not survive a fork: where there is a GPU, each rank is a new interpreter ("spawn").
"""

import os
import signal
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from typing import Literal

# Device files of NVIDIA's and AMD's drivers. Asking torch would import it, which the fork server is there to avoid.
_GPU_DEVICES = ("/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
_PRELOADED = "modelwright.engine.preload"
_THREADS = "OMP_NUM_THREADS"
# By default glibc maps every tensor above 32 MB anew and unmaps it when it is freed, so that each step faults in the
# same pages again. That is half the time of a step on 16,384 tokens. With these (man 3 mallopt) a rank keeps freed
# memory.
_KEEP_FREED_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}


type StartMethod = Literal["forkserver", "spawn"]
"""Start method of `multiprocessing`."""

# What the running server was started with, apart from the number of threads, which each rank sets itself.
_started_with: dict[str, str] = {}


def can_fork() -> bool:
    """Return True if there is no GPU on this machine, so that ranks can be forked."""
    return not any(Path(device).exists() for device in _GPU_DEVICES)


def start_fork_server(environment: Mapping[str, str], *modules: str) -> StartMethod:
    """Start the fork server if ranks can be forked, and return at once, while it imports torch and the engine.

    A server that is running is used again, unless its ranks would have other environment variables, which glibc reads
    when a program starts. The server ends with this process.

    Args:
        environment: Environment variables of the ranks.
        *modules: Further modules to import in the server.

    Returns:
        How to start the ranks: from the server, or each as a new interpreter.
    """
    wanted = {name: value for name, value in environment.items() if name != _THREADS}
    if not can_fork() or (_started_with and _started_with != wanted):
        return "spawn"
    forkserver.set_forkserver_preload([_PRELOADED, *modules])
    with environment_variables(environment), hold_interrupts():
        forkserver.ensure_running()
    _started_with.update(wanted)
    return "forkserver"


@contextmanager
def environment_variables(values: Mapping[str, str]) -> Generator[None]:
    """Set environment variables for the processes that are started in the block.

    Args:
        values: Values by name.
    """
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def hold_interrupts() -> Generator[None]:
    """Hold back Ctrl-C until the end of the block. Processes that are started in it never receive it.

    A terminal sends it to every process of a command. Only the command reacts, and ends the others.
    """
    resource_tracker.ensure_running()  # of multiprocessing: when it starts, it unblocks the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def rank_environment(threads: int) -> dict[str, str]:
    """Return environment variables of a rank. Those that are set here have the values that they have here.

    `PYTHONSAFEPATH` keeps a new interpreter from importing modules of the working folder. Without
    `TORCH_CPP_LOG_LEVEL` torch's sockets warn that the loopback address has no name.

    Args:
        threads: CPU threads of the rank.
    """
    defaults = {_THREADS: str(threads), "PYTHONSAFEPATH": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    if can_fork():
        defaults |= _KEEP_FREED_MEMORY
    return {name: os.environ.get(name, value) for name, value in defaults.items()}
