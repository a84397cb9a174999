"""Guards around the import of torch by the command and the fork server.

- torch is executed with the root folder as the working folder. A library that comes with it (cuSPARSELt) has an empty
  entry in its search path, which means the working folder: a file `libcuda.so.1` there would be loaded and executed.
- Ctrl-C takes effect when the import is over. An exception in the middle of torch's C++ code aborts the process.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from functools import partial
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import override


class _GuardedTorch(PathFinder):
    """Finds torch, and nothing else; it is executed under the guards."""

    @classmethod
    @override
    def find_spec(
        cls, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = super().find_spec(fullname, path, target) if fullname == "torch" else None
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = partial(_guarded, spec.loader.exec_module)  # type: ignore[method-assign]
        return spec


def _guarded(execute: Callable[[ModuleType], None], module: ModuleType) -> None:
    with _interrupts_later(), _root_folder():
        execute(module)


@contextlib.contextmanager
def _root_folder() -> Generator[None]:
    working = os.open(".", os.O_RDONLY | os.O_CLOEXEC)
    os.chdir("/")
    try:
        yield
    finally:
        os.fchdir(working)
        os.close(working)


@contextlib.contextmanager
def _interrupts_later() -> Generator[None]:
    """Let Ctrl-C take effect at the end of the block, unless this process ignores it."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    arrived: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: arrived.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if arrived:
            signal.raise_signal(signal.SIGINT)


def guard_torch_import() -> None:
    """Put the guards around the import of torch, if it has not been imported yet."""
    if _GuardedTorch not in sys.meta_path:
        sys.meta_path.insert(0, _GuardedTorch)
