"""The ranks of a command: `run_on_ranks` starts the processes of a job, or joins those of a launcher.

A `Job` is everything that a rank needs, frozen and pickled: the config is validated once, by the command.
"""

import pickle
from collections.abc import Callable
from dataclasses import dataclass

from modelwright.cli.quiet import quiet_engine
from modelwright.cli.user_parts import import_parts
from modelwright.config import RunConfig


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
    from modelwright.engine import is_launched, job_size
    from modelwright.training import launch

    if is_launched():
        job.run.parallelism.check_world_size(job_size())
        _run_rank(work, job)
    else:
        ranks = job.run.parallelism.world_size()
        launch(_run_started_rank, work, pickle.dumps(job), job.modules, job.debug, ranks=ranks)


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
