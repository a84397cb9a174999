"""The ranks of a command: `run_on_ranks` starts the processes of a job, or joins those of a launcher.

A `Job` is everything that a rank needs, frozen and pickled: the config is validated once, by the command.
"""

import os
import pickle
import sys
from collections.abc import Callable
from dataclasses import dataclass

from modelwright.cli.printable import printable
from modelwright.cli.quiet import quiet_engine
from modelwright.cli.user_parts import import_parts
from modelwright.config import RunConfig
from modelwright.protocols import ModelwrightError


@dataclass(frozen=True, kw_only=True)
class Job:
    """Input of every rank of a job."""

    run: RunConfig
    """The config."""
    modules: tuple[str, ...]
    """Modules with custom parts."""
    debug: bool
    """Show the engine's warnings."""


def run_on_ranks[JobT: Job](work: Callable[[JobT], None], job: JobT) -> None:
    """Run a function as every rank of a job.

    Args:
        work: Function of one rank, at the top level of a module.
        job: Its argument.

    Raises:
        ConfigError: A launcher started a number of processes that the parallelism cannot use.
        LaunchError: A rank that this process started has failed.
    """
    if "RANK" not in os.environ:
        from modelwright.training import fork_ahead

        fork_ahead(job.run.parallelism.world_size())
    from modelwright.engine import is_launched, job_size
    from modelwright.training import launch

    if is_launched():
        _check_launcher()
        job.run.parallelism.check_world_size(job_size())
        _run_rank(work, job)
    else:
        ranks = job.run.parallelism.world_size()
        launch(_run_started_rank, work, pickle.dumps(job), job.modules, job.debug, ranks=ranks)


# Variables by which a process finds the others of its job, and those that torchrun sets besides.
_JOB_NUMBERS = ("RANK", "WORLD_SIZE", "MASTER_PORT")
_JOB = (*_JOB_NUMBERS, "MASTER_ADDR")
_TORCHRUN = "TORCHELASTIC_RUN_ID"


def _check_launcher() -> None:
    """Refuse an environment that describes half a job, and say on stderr what this process waits for.

    A shell within a job of a cluster has these variables too, although nothing started other ranks.

    Raises:
        ModelwrightError: A variable is missing or no number.
    """
    missing = [name for name in _JOB if name not in os.environ]
    wrong = [name for name in _JOB_NUMBERS if name in os.environ and not os.environ[name].isdigit()]
    if missing or wrong:
        what = f"{', '.join(missing)} is missing" if missing else f"{wrong[0]} is {os.environ[wrong[0]]!r}"
        raise ModelwrightError(
            f"a rank that a launcher started must have {', '.join(f'`{name}`' for name in _JOB)} in its environment, "
            f"but {what}; start it by torchrun, or unset `RANK` and `WORLD_SIZE` to start ranks here."
        )
    if _TORCHRUN not in os.environ and os.environ["RANK"] == "0":
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        sys.stderr.write(
            printable(
                f"waiting for {os.environ['WORLD_SIZE']} ranks at {place}, as `RANK` and `WORLD_SIZE` say; unset them "
                "to start ranks here\n"
            )
        )


def _run_started_rank(work: Callable[[Job], None], job: bytes, modules: tuple[str, ...], debug: bool) -> None:  # noqa: FBT001
    """Run one rank in a new process. Custom parts are imported before the job, which may contain their classes."""
    with quiet_engine(debug=debug):
        import_parts(modules)
        _run_rank(work, pickle.loads(job))  # noqa: S301 - pickled by the process that started this one


def _run_rank[JobT: Job](work: Callable[[JobT], None], job: JobT) -> None:
    """Run one rank in this process."""
    from modelwright.distributed import finalize
    from modelwright.engine import device_runtime

    with device_runtime():
        work(job)
        finalize()
