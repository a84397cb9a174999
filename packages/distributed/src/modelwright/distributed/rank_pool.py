"""`RankPool`: processes that run distributed functions, one after another.

Starting a process and importing the engine costs more than most tests, so a pool starts its processes once, and
forks them where there is no GPU. Each `run`
makes a new store for them, runs a function on every rank (inside the CPU runtime where there is no GPU), and destroys
the process groups that the function made.
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

from modelwright.protocols import ModelwrightError

DEFAULT_TIMEOUT = 300.0


class RankError(AssertionError):
    """A rank raised, died or timed out. The message contains the tracebacks."""


@dataclass(frozen=True)
class _Task:
    function: Callable[..., Any]
    args: tuple[Any, ...]
    environment: dict[str, str]


class RankPool:
    """Processes that are ready to be the ranks of a job; a context manager.

    Args:
        ranks: Number of processes.
        threads: CPU threads per process.
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
            function: A function that can be imported by name; called once per rank with `args`, before there are
                process groups. Its result must be picklable, with tensors on the CPU.
            *args: Picklable arguments of the function.
            ranks: Number of processes of the pool that take part. None: all.
            timeout: Longest time without an answer from any rank, in seconds. After it the pool is ended.

        Returns:
            The result of each rank, by rank.

        Raises:
            ModelwrightError: `ranks` is out of range.
            RankError: A rank failed or timed out. After a failure the pool starts new processes at the next run.
        """
        count = self.ranks if ranks is None else ranks
        if not 1 <= count <= self.ranks:
            raise ModelwrightError(
                f"`ranks` must be from 1 to {self.ranks}, the size of the pool, but is {count}; use a larger pool."
            )
        if not self._workers:
            self._workers = [_start(self.threads) for _ in range(self.ranks)]
        from modelwright.engine import LocalStore

        with LocalStore() as store:
            for rank, (_, pipe) in enumerate(self._workers[:count]):
                with contextlib.suppress(ConnectionError):  # of a dead process, which `_collect` reports
                    pipe.send(_Task(function, args, store.environment(rank, count)))
            answers = self._collect(count, timeout)
        failed = [f"rank {rank}:\n{text}" for rank, (ok, text) in sorted(answers.items()) if not ok]
        if failed or len(answers) < count:
            self.close()
            silent = sorted(set(range(count)) - set(answers))
            late = f"within the `timeout` of {timeout:.0f} s, but did not"
            remedy = "look for a collective that not every rank calls, or raise `timeout`"
            raise RankError("\n".join(failed or [f"rank {rank} must answer {late}; {remedy}." for rank in silent]))
        return [answers[rank][1] for rank in range(count)]

    def _collect(self, count: int, timeout: float) -> dict[int, tuple[bool, Any]]:
        """Return answers by rank, up to the first failure, because other ranks may wait forever for the failed one."""
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
    from modelwright.engine import rank_environment, start_fork_server

    method = start_fork_server(rank_environment(threads))
    context: Any = multiprocessing.get_context(method)  # declared without the class of its processes
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, threads), daemon=False)
    process.start()
    theirs.close()
    return process, ours


def _answer(worker: tuple[BaseProcess, Connection]) -> tuple[bool, Any]:
    """Return the answer of a worker, or the exit code of one that died."""
    process, pipe = worker
    try:
        answer: tuple[bool, Any] = pipe.recv()
    except (EOFError, ConnectionError):
        process.join(timeout=10)
        return False, f"the process died with exit code {process.exitcode}"
    return answer


def _serve(pipe: Connection, threads: int) -> None:
    """Run tasks in a worker process until the pipe is closed."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch

    torch.set_num_threads(threads)
    while True:
        try:
            task: _Task = pipe.recv()
        except EOFError:
            return
        try:
            answer: tuple[bool, Any] = (True, _as_rank(task, pipe))
        except BaseException:  # noqa: BLE001 - reported to the caller
            answer = (False, traceback.format_exc())
        try:
            pipe.send(answer)
        except Exception as error:  # noqa: BLE001 - whatever pickling the answer raises
            pipe.send((False, f"the result of a rank must be picklable, but is not: {error}"))


def _as_rank(task: _Task, pipe: Connection) -> Any:
    from modelwright.distributed import finalize
    from modelwright.engine import device_runtime

    os.environ.update(task.environment)
    with device_runtime():
        try:
            return task.function(*task.args)
        except BaseException:
            # Now, because the other ranks fail too as soon as the groups are gone, and the cause must arrive first.
            pipe.send((False, traceback.format_exc()))
            raise
        finally:
            finalize()


def run_ranks[ResultT](
    function: Callable[..., ResultT], *args: Any, ranks: int = 2, timeout: float = DEFAULT_TIMEOUT
) -> list[ResultT]:
    """Run a function as every rank of a job, on new processes.

    Args:
        function: A function that can be imported by name; called once per rank with `args`.
        *args: Picklable arguments of the function.
        ranks: Number of processes.
        timeout: Longest time without an answer from any rank, in seconds. After it the processes are ended.

    Returns:
        The result of each rank, by rank.

    Raises:
        RankError: A rank failed or timed out.
    """
    with RankPool(ranks) as pool:
        return pool.run(function, *args, timeout=timeout)
