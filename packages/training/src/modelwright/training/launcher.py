"""`launch`: the ranks of a job on this machine, and one readable error when one of them fails.

Under `torchrun`, or any launcher that sets `RANK`, this process is a rank already: call the function, not `launch`.
`modelwright.engine.is_launched` reports which case applies.
"""

import contextlib
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import torch

from modelwright.engine import LocalStore, environment_variables, hold_interrupts, is_launched
from modelwright.protocols import ModelwrightError
from modelwright.training.early_start import fork_ahead
from modelwright.training.report_folder import report_folder

_POLL_SECONDS = 0.2
_LOOK_SECONDS = 5.0
# How long ranks have to end after SIGTERM, before SIGKILL.
_END_SECONDS = 30.0
_TERMINATING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
# The rank that is seen dead first is reported as the cause. A rank with an unexpected error waits this long before it
# ends, since the error may be the consequence of another rank that was killed.
_CONSEQUENCE_SECONDS = 5 * _POLL_SECONDS
# A rank that was stopped, by SIGSTOP for instance, keeps all others waiting. After this time the job is ended.
_STOPPED_SECONDS = 60.0

# Exit code that `multiprocessing` gives a process when its fork server is gone.
_LOST = 255


@dataclass(frozen=True)
class RankFailure:
    """The failure of one rank."""

    rank: int
    """Number of the rank in the job."""
    message: str
    """One line, or the message of a `ModelwrightError`."""
    trace: str
    """The traceback. Empty: the process ended without reporting an error."""
    user_error: bool
    """True for a `ModelwrightError`, which is about something that the user wrote."""


class LaunchError(Exception):
    """A rank failed. `failures` contains the failure of each rank, the cause first."""

    def __init__(self, failures: list[RankFailure]) -> None:
        super().__init__(failures[0].message)
        self.failures = failures


def launch(function: Callable[..., None], *args: Any, ranks: int, threads: int | None = None) -> None:
    """Run a function as every rank of a job on this machine, and wait until all have ended.

    All ports of the job are bound to the loopback interface. Without a GPU a rank keeps freed memory for its next
    tensors, unless the environment sets glibc's allocator (`MALLOC_MMAP_MAX_`, `MALLOC_TRIM_THRESHOLD_`).

    Args:
        function: A function that can be imported by name; called once per rank with `args`.
        *args: Picklable arguments of the function.
        ranks: Number of processes.
        threads: CPU threads per process. None: the cores divided by `ranks`.

    Raises:
        ModelwrightError: A launcher started this process as a rank.
        LaunchError: A rank failed. The others have been ended.
        KeyboardInterrupt: Ctrl-C was pressed. The ranks have been ended.
        SystemExit: Another terminating signal arrived. The ranks have been ended.
    """
    if is_launched():
        raise ModelwrightError(
            f"`launch` must be called outside a job, but this process is rank {os.environ['RANK']} of "
            f"{os.environ['WORLD_SIZE']} that a launcher started; call the function itself, or remove `RANK` and "
            "`WORLD_SIZE` from the environment."
        )
    environment, method = fork_ahead(ranks, threads)
    context: Any = multiprocessing.get_context(method)  # declared without the class of its processes
    with report_folder() as folder, LocalStore() as store, _noted_signals() as arrived:
        # torch's launchers are not used: `elastic_launch` serves a store on every interface and unpickles what others
        # write there, and `start_processes` loses ranks when a signal arrives while it starts them.
        processes: list[BaseProcess] = []
        try:
            with hold_interrupts(), environment_variables(environment):
                for rank in range(ranks):
                    variables = environment | store.environment(rank, ranks)
                    process = context.Process(target=_guarded, args=(function, args, folder, variables))
                    process.start()
                    processes.append(process)
            exit_codes = _wait(processes, arrived)
        finally:
            _end(processes)
        if arrived:
            raise KeyboardInterrupt if arrived[0] == signal.SIGINT else SystemExit(128 + arrived[0])
        if exit_codes:
            raise LaunchError(_failures(exit_codes, Path(folder)))


@contextlib.contextmanager
def _noted_signals() -> Generator[list[int]]:
    """Put the terminating signals that arrive during the block in a list, and do nothing else about them.

    A handler that raised could do so between the start of a rank and the line that remembers it.
    """
    arrived: list[int] = []
    before: dict[int, Any] = {}
    try:
        if threading.current_thread() is threading.main_thread():  # another thread receives none
            for terminating in _TERMINATING:
                if signal.getsignal(terminating) not in (signal.SIG_IGN, None):  # `nohup` ignores one
                    before[terminating] = signal.signal(terminating, lambda number, _: arrived.append(number))
        yield arrived
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(processes: list[BaseProcess], arrived: list[int]) -> dict[int, int]:
    """Wait until all ranks have ended, one has failed or a signal has arrived. Return exit codes of those that failed.

    Args:
        processes: Ranks in order.
        arrived: Terminating signals that this process received.

    Raises:
        LaunchError: A rank was stopped.
    """
    stopped: dict[int, float] = {}
    looked = time.monotonic()
    while True:
        running = {rank: process for rank, process in enumerate(processes) if process.exitcode is None}
        failed = {rank: process.exitcode for rank, process in enumerate(processes) if process.exitcode}
        if failed or arrived or not running:
            return failed
        connection.wait([process.sentinel for process in running.values()], _POLL_SECONDS)
        if time.monotonic() - looked < _LOOK_SECONDS:
            continue
        looked = time.monotonic()
        for rank, process in running.items():
            stopped[rank] = stopped.get(rank, 0.0) + _LOOK_SECONDS if _is_stopped(process.pid) else 0.0
            if stopped[rank] >= _STOPPED_SECONDS:
                for other in running.values():
                    other.kill()
                raise LaunchError([RankFailure(rank, _stopped(rank), "", user_error=False)])


def _end(processes: list[BaseProcess]) -> None:
    """End the ranks that are running: with SIGTERM, and after a while with SIGKILL."""
    deadline = time.monotonic() + _END_SECONDS
    running = [process for process in processes if process.exitcode is None]
    for process in running:
        process.terminate()
    for process in running:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.exitcode is None:
            process.kill()
            process.join()


def _is_stopped(pid: int | None) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    except psutil.Error:
        return False


def _stopped(rank: int) -> str:
    return (
        f"rank {rank} has been stopped for {_STOPPED_SECONDS:.0f} s (SIGSTOP or SIGTSTP), and the others wait for it; "
        "all ranks have been ended."
    )


def _guarded(function: Callable[..., None], args: tuple[Any, ...], errors: str, environment: dict[str, str]) -> None:
    """Run the function in one rank, and write what it raised to a file for the parent."""
    os.environ.update(environment)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))  # a fork has the setting of its server
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        function(*args)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - reported by the parent
        report = {
            "message": str(error) or type(error).__name__,
            "trace": traceback.format_exc(),
            "user_error": isinstance(error, ModelwrightError),
        }
        if isinstance(error, SystemExit):
            report["message"] = f"a rank must return when it is done, but called `sys.exit({error.code!r})`"
        elif not report["user_error"]:
            report["message"] = f"{type(error).__name__}: {report['message']}"
        try:
            Path(errors, f"{os.environ['RANK']}.json").write_text(json.dumps(report))
        except OSError as failure:  # such as a full disk, which may be the error itself
            sys.stderr.write(f"rank {os.environ['RANK']}: {report['message']} (`{errors}`: {failure.strerror})\n")
        sys.stderr.flush()
        if not report["user_error"]:
            time.sleep(_CONSEQUENCE_SECONDS)
        os._exit(1)


def _end_with_parent() -> None:
    """Wait until the process that called `launch` has ended, or the one that forked this, and end this one.

    Nobody else would: who has lost the fork server cannot reach the ranks any more.
    """
    parent, started_by = multiprocessing.parent_process(), os.getppid()
    if parent is not None:
        while parent.is_alive() and os.getppid() == started_by:
            parent.join(_LOOK_SECONDS)
        os._exit(1)


def _failures(exit_codes: dict[int, int], errors: Path) -> list[RankFailure]:
    """Return first the failures of killed ranks, then those that ranks reported, in order of time."""
    reports = sorted(errors.glob("*.json"), key=lambda path: path.stat().st_mtime)
    reported: list[RankFailure] = []
    for path in reports:
        with contextlib.suppress(ValueError):  # of a report that was cut off; the rank has written it to stderr
            reported.append(RankFailure(rank=int(path.stem), **json.loads(path.read_text())))
    known = {failure.rank for failure in reported}
    silent = [
        RankFailure(rank, _ending(rank, code), "", user_error=False)
        for rank, code in exit_codes.items()
        if rank not in known and code != -signal.SIGTERM
    ]
    # A killed rank is the cause; errors of the others about a closed connection are its consequence.
    return silent + reported or [
        RankFailure(rank, _ending(rank, code), "", user_error=False) for rank, code in exit_codes.items()
    ]


def _ending(rank: int, exitcode: int) -> str:
    if exitcode < 0:
        name = signal.Signals(-exitcode).name
        return f"rank {rank} was killed by {name}; the other ranks have been ended."
    if exitcode == _LOST:
        return f"rank {rank} was lost, as when the process that forks ranks is killed; the other ranks have been ended."
    return f"rank {rank} ended with exit code {exitcode} and no message; the other ranks have been ended."
