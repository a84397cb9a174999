"""`RankPool`: real processes that run one distributed function after another.

Starting a process and importing the engine costs more than most tests, so a pool starts its processes once; each `run`
gives them a fresh store and fresh process groups, runs a function on every rank inside the CPU runtime where there is
no GPU, and takes everything down again.
"""

import contextlib
import multiprocessing
import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Self

DEFAULT_TIMEOUT = 300.0


class RankError(AssertionError):
    """A rank raised, died or did not answer in time; the message holds what each of them said."""


@dataclass(frozen=True)
class _Task:
    function: Callable[..., Any]
    args: tuple[Any, ...]
    environment: dict[str, str]


class RankPool:
    """Processes that stand ready to be the ranks of a job; a context manager.

    Args:
        ranks: How many processes.
        threads: CPU threads of each.
    """

    def __init__(self, ranks: int = 2, *, threads: int = 1) -> None:
        self.ranks, self.threads = ranks, threads
        self._workers: list[tuple[BaseProcess, Connection]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run[ResultT](
        self,
        function: Callable[..., ResultT],
        *args: Any,
        ranks: int | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> list[ResultT]:
        """Run a function as every rank of a job.

        Args:
            function: Importable by name; called once per rank with `args`, process groups not yet made.
            *args: Picklable.
            ranks: How many of the pool's processes take part; all when None.
            timeout: Seconds after which the pool is ended.

        Returns:
            What each rank returned, by rank; picklable, tensors on the CPU.

        Raises:
            RankError: A rank failed; the pool starts anew at the next run.
        """
        count = self.ranks if ranks is None else ranks
        if not 1 <= count <= self.ranks:
            raise RankError(
                f"`ranks` must be from 1 to {self.ranks}, the size of the pool, but is {count}; use a larger pool."
            )
        if not self._workers:
            self._workers = [_start(self.threads) for _ in range(self.ranks)]
        from modelwright.engine import LocalStore

        with LocalStore() as store:
            for rank, (_, pipe) in enumerate(self._workers[:count]):
                with contextlib.suppress(ConnectionError):  # of a dead process; `_collect` finds that out
                    pipe.send(_Task(function, args, store.environment(rank, count)))
            answers = self._collect(count, timeout)
        failed = [f"rank {rank}:\n{text}" for rank, (ok, text) in sorted(answers.items()) if not ok]
        if failed or len(answers) < count:
            self.close()
            silent = sorted(set(range(count)) - set(answers))
            raise RankError("\n".join(failed or [f"rank {rank} did not answer in {timeout:.0f} s" for rank in silent]))
        return [answers[rank][1] for rank in range(count)]

    def _collect(self, count: int, timeout: float) -> dict[int, tuple[bool, Any]]:
        """Answers by rank; stops at the first failure, since the other ranks may wait for that one forever."""
        answers: dict[int, tuple[bool, Any]] = {}
        waiting = {rank: pipe for rank, (_, pipe) in enumerate(self._workers[:count])}
        while waiting and all(ok for ok, _ in answers.values()):
            ready = wait(list(waiting.values()), timeout)
            if not ready:
                break
            for rank in [rank for rank, pipe in waiting.items() if pipe in ready]:
                answers[rank] = _answer(self._workers[rank])
                del waiting[rank]
        return answers

    def close(self) -> None:
        """End the processes."""
        for process, pipe in self._workers:
            pipe.close()
            process.kill()
            process.join()
        self._workers = []


def _start(threads: int) -> tuple[BaseProcess, Connection]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, threads), daemon=False)
    process.start()
    theirs.close()
    return process, ours


def _answer(worker: tuple[BaseProcess, Connection]) -> tuple[bool, Any]:
    """What a worker sent; a process that died sends nothing."""
    process, pipe = worker
    try:
        answer: tuple[bool, Any] = pipe.recv()
    except (EOFError, ConnectionError):
        process.join(timeout=10)
        return False, f"the process died with exit code {process.exitcode}"
    return answer


def _serve(pipe: Connection, threads: int) -> None:
    """A worker: answer tasks until the pipe is closed."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch

    torch.set_num_threads(threads)
    while True:
        try:
            task: _Task = pipe.recv()
        except EOFError:
            return
        try:
            answer: tuple[bool, Any] = (True, _as_rank(task))
        except BaseException:  # noqa: BLE001 - told to the caller
            answer = (False, traceback.format_exc())
        try:
            pipe.send(answer)
        except Exception as error:  # noqa: BLE001 - whatever pickling the answer raises
            pipe.send((False, f"what a rank returns must be picklable, but its answer is not: {error}"))


def _as_rank(task: _Task) -> Any:
    from modelwright.distributed import finalize
    from modelwright.engine import device_runtime

    os.environ.update(task.environment)
    with device_runtime():
        try:
            return task.function(*task.args)
        finally:
            finalize()


def run_ranks[ResultT](
    function: Callable[..., ResultT], *args: Any, ranks: int = 2, timeout: float = DEFAULT_TIMEOUT
) -> list[ResultT]:
    """Run a function as every rank of a job on processes of its own.

    Args:
        function: Importable by name; called once per rank with `args`.
        *args: Picklable.
        ranks: How many processes.
        timeout: Seconds after which they are ended.

    Returns:
        What each rank returned, by rank.

    Raises:
        RankError: A rank failed.
    """
    with RankPool(ranks) as pool:
        return pool.run(function, *args, timeout=timeout)
