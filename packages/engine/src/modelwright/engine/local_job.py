"""The job that this process belongs to, and jobs on one machine that no other machine can reach.

Two things listen while ranks work: the store through which they find each other, and the transport of their
collectives. By default the store accepts connections on every interface, and gloo listens on the address that the host
name resolves to. Here both are bound to the loopback interface: `LocalStore` serves a store on it, and `only_loopback`
tells gloo and NCCL to use that interface.
"""

import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self, final

import torch

LOOPBACK = "127.0.0.1"
"""Address on which everything of a local job listens."""
_INTERFACE_VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
# Options of name resolution in glibc (man 5 resolv.conf).
_RESOLVER = "RES_OPTIONS"
_TORCH_LEVEL = "TORCH_CPP_LOG_LEVEL"
# Environment variables that `only_loopback` replaced, with their earlier values, for `restore_interfaces`.
_replaced: dict[str, str | None] = {}


def loopback_interface() -> str:
    """Return the name of the loopback interface: `lo` on Linux, `lo0` on macOS and BSD."""
    names = {name for _, name in socket.if_nameindex()}
    return "lo" if "lo" in names else "lo0"


def is_launched() -> bool:
    """Return True if a launcher started this process as a rank."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def job_size() -> int:
    """Return the number of ranks of the job.

    That is the world size of the process group if there is one, else the `WORLD_SIZE` of the launcher, else 1.
    """
    if torch.distributed.is_initialized():
        return torch.distributed.get_world_size()
    return int(os.environ["WORLD_SIZE"]) if is_launched() else 1


def on_one_machine() -> bool:
    """Return True if the launcher's environment variables show that every rank of the job runs on this machine.

    Without a launcher this process is the whole job. `torchrun` sets `LOCAL_WORLD_SIZE`. A launcher that does not set
    it may have started ranks on other machines.
    """
    if not is_launched():
        return True
    return os.environ.get("LOCAL_WORLD_SIZE") == os.environ.get("WORLD_SIZE")


def only_loopback() -> None:
    """Restrict the collectives of this process to the loopback interface, until `restore_interfaces`."""
    for name in _INTERFACE_VARIABLES:
        _replaced.setdefault(name, os.environ.get(name))
        os.environ[name] = loopback_interface()


def restore_interfaces() -> None:
    """Restore the environment variables that `only_loopback` replaced."""
    for name, value in _replaced.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    _replaced.clear()


def without_name_service[StoreT](make: Callable[[], StoreT]) -> StoreT:
    """Make a store that connects to the loopback address, and wait for no name server.

    torch asks for the name of that address to log it. Where a name server is configured but does not answer, it waits
    20 seconds in each rank. Here it asks none if torch's warnings are off, because it would warn that there is no name.
    Otherwise it asks once and waits a second. A thread of the C library reads the options of name resolution once, so
    the store is made in a thread that ends.

    Args:
        make: Makes the store.
    """
    before = os.environ.get(_RESOLVER)
    os.environ[_RESOLVER] = "attempts:0" if _TORCH_LEVEL in os.environ else "timeout:1 attempts:1"
    try:
        with ThreadPoolExecutor(max_workers=1) as thread:
            return thread.submit(make).result()
    finally:
        if before is None:
            del os.environ[_RESOLVER]
        else:
            os.environ[_RESOLVER] = before


@final
class LocalStore:
    """The store of one local job, served by this process on the loopback address; a context manager."""

    def __init__(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
            listener.bind((LOOPBACK, 0))
            listener.listen(1024)
            self.port: int = listener.getsockname()[1]
            # The store owns the descriptor from here on, and closes it.
            dist: Any = torch.distributed  # re-exports the store without saying so
            descriptor = listener.detach()
            self._store: object = without_name_service(
                lambda: dist.TCPStore(
                    LOOPBACK, self.port, is_master=True, wait_for_workers=False, master_listen_fd=descriptor
                )
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._store = None

    def environment(self, rank: int, ranks: int) -> dict[str, str]:
        """Return the variables that `torch.distributed.init_process_group` reads in one rank of the job.

        Args:
            rank: Number of the rank.
            ranks: Number of ranks in the job.
        """
        interface = dict.fromkeys(_INTERFACE_VARIABLES, loopback_interface())
        return interface | {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(ranks),
            "LOCAL_WORLD_SIZE": str(ranks),
            "MASTER_ADDR": LOOPBACK,
            "MASTER_PORT": str(self.port),
            # With these two, torch's ranks connect to the store at that address instead of serving one on rank 0.
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "TORCHELASTIC_RESTART_COUNT": "0",
        }
