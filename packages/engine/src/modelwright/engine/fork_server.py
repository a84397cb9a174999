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
# By default glibc maps every tensor above 32 MB anew and unmaps it when it is freed, so that each step faults in the
# same pages again. That is half the time of a step on 16,384 tokens. With these (man 3 mallopt) a rank keeps freed
# memory.
_KEEP_FREED_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}


def start_method() -> Literal["forkserver", "spawn"]:
    """Return how ranks are started on this machine: from the fork server, or with a GPU each as a new interpreter."""
    return "spawn" if any(Path(device).exists() for device in _GPU_DEVICES) else "forkserver"


def start_fork_server(environment: Mapping[str, str], *modules: str) -> None:
    """Start the fork server if ranks are forked here, and return at once, while it imports torch and the engine.

    A server that is running is used as it is. It ends with this process.

    Args:
        environment: Defaults of environment variables for the ranks. Variables that are set take precedence.
        *modules: Further modules to import in the server.
    """
    if start_method() == "spawn":
        return
    forkserver.set_forkserver_preload([_PRELOADED, *modules])
    missing = {name: value for name, value in environment.items() if name not in os.environ}
    os.environ.update(missing)
    try:
        with hold_interrupts():
            forkserver.ensure_running()
    finally:
        for name in missing:
            del os.environ[name]


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
    """Return defaults of the environment variables of a rank.

    `PYTHONSAFEPATH` keeps a new interpreter from importing modules of the working folder.

    Args:
        threads: CPU threads of the rank.
    """
    environment = {"OMP_NUM_THREADS": str(threads), "PYTHONSAFEPATH": "1"}
    return environment | (_KEEP_FREED_MEMORY if start_method() == "forkserver" else {})
