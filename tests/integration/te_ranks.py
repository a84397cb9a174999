"""Processes whose Transformer Engine is the stand-in of `te_stand_in`.

They are new interpreters: this process and its ranks have imported Megatron-Core without Transformer Engine, and the
engine decides at its import what there is.
"""

import multiprocessing
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

STAND_IN = Path(__file__).with_name("te_stand_in")
TIMEOUT = 120.0
"""Longest time for which a test waits for a job, in seconds."""


class StandInRanks:
    """Two processes that run one job of one rank each, or one job of two ranks; a context manager."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(2, mp_context=context, initializer=_begin, initargs=(str(STAND_IN),))
        self._stores: list[Any] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A rank that waits for one that failed would be waited for until the end of the tests.
        for process in [*(self._pool._processes or {}).values()]:
            process.kill()
        self._pool.shutdown(cancel_futures=True)
        self._stores.clear()

    def alone[ResultT](
        self, function: Callable[..., ResultT], *args: Any, environment: Mapping[str, str] | None = None
    ) -> "Future[ResultT]":
        """Run a function as a job of one rank, with these environment variables."""
        return self._pool.submit(_as_rank, dict(environment or {}), function, args)

    def together[ResultT](self, function: Callable[..., ResultT], *args: Any) -> "list[Future[ResultT]]":
        """Run a function on both ranks of a job."""
        from modelwright.engine import LocalStore

        store = LocalStore()
        self._stores.append(store)  # it serves as long as it exists
        return [self._pool.submit(_as_rank, store.environment(rank, 2), function, args) for rank in range(2)]


def _begin(stand_in: str) -> None:
    sys.path.insert(0, stand_in)
    import torch

    torch.set_num_threads(1)


def _as_rank(environment: dict[str, str], function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    from unittest.mock import patch

    from modelwright.distributed import finalize
    from modelwright.engine import device_runtime
    from modelwright.layers.stack import backends
    from tests.integration.jobs import quiet

    quiet()
    # Only a GPU is missing, which the stand-in does not need.
    here = patch.object(backends, "missing_for_te", list)
    with patch.dict("os.environ", environment), device_runtime(), here:
        try:
            return function(*args)
        finally:
            finalize()
