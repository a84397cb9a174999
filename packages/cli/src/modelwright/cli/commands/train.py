"""`modelwright train`: everything that can be checked is, then the ranks start."""

import datetime
import os
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from modelwright.cli.run_file import load_run
from modelwright.cli.user_parts import import_parts
from modelwright.config import RunConfig, dumps, loads, override
from modelwright.protocols import ModelwrightError


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """The command line of `train`."""

    file: Path | None
    steps: int | None
    out: Path | None
    resume: Path | None
    overrides: tuple[str, ...]
    modules: tuple[str, ...]
    debug: bool


@dataclass(frozen=True)
class _Job:
    """What every rank is told."""

    config: str
    out: Path
    resume: Path | None
    modules: tuple[str, ...]
    debug: bool


def train_command(options: TrainOptions) -> None:
    """Check, start the ranks, wait for them.

    Args:
        options: The command line.

    Raises:
        ModelwrightError: Something the user can mend.
        LaunchError: A rank failed.
    """
    run = _config(options)
    out = _out(options, run)
    with quiet_engine(debug=options.debug):
        from modelwright.training import (
            check_resumable,
            is_launched,
            latest_checkpoint,
            launch,
            launched_ranks,
            prepare,
        )

        prepare(run)
        if options.resume is not None:
            step, path = latest_checkpoint(options.resume)
            check_resumable(run, path)
            if step >= run.train.steps:
                raise ModelwrightError(
                    f"`train.steps` must be above the {step} steps that `{options.resume}` has done, but is "
                    f"{run.train.steps}; raise it, for example with --steps {2 * step}."
                )
        job = _Job(dumps(run, format="json", full=True), out, options.resume, options.modules, options.debug)
        if is_launched():
            run.parallelism.world_size(launched_ranks())
            train_rank(job)
        else:
            launch(train_rank, job, ranks=run.parallelism.world_size())


def _config(options: TrainOptions) -> RunConfig:
    steps = () if options.steps is None else (f"train.steps={options.steps}",)
    overrides = (*options.overrides, *steps)
    if options.file is not None:
        return load_run(options.file, overrides, options.modules)
    if options.resume is None:
        raise ModelwrightError("`FILE` must be given unless `--resume` is; name a config file.")
    from modelwright.training import checkpoint_config, latest_checkpoint

    import_parts(options.modules)
    run = checkpoint_config(latest_checkpoint(options.resume)[1])
    return override(run, list(overrides)) if overrides else run


def _out(options: TrainOptions, run: RunConfig) -> Path:
    if options.resume is not None:
        if options.out not in (None, options.resume):
            raise ModelwrightError("`--out` must be left out with `--resume`: a resumed run goes on in its own folder.")
        return options.resume
    name = run.name or (options.file.stem if options.file else "run")
    # Ranks that a launcher started must agree: its run id is one for all of them, the clock is not.
    mark = os.environ.get("TORCHELASTIC_RUN_ID") or f"{datetime.datetime.now():%Y%m%d-%H%M%S}"
    out = options.out or Path("runs") / f"{name}-{mark}"
    if (out / "metrics.jsonl").exists():
        raise ModelwrightError(
            f"`--out` must be a new folder, but `{out}` holds a run; use another, or go on with it by --resume {out}."
        )
    return out


def train_rank(job: _Job) -> None:
    """One rank of the job."""
    with quiet_engine(debug=job.debug):
        # First, because it loads the engine in half the time.
        from modelwright.engine import device_runtime  # isort: skip
        from modelwright.distributed import finalize  # isort: skip
        from modelwright.cli.reports.routing_metrics import routing_meter
        from modelwright.cli.reports.run_log import RunLog
        from modelwright.training import train

        import_parts(job.modules)
        run = job_config(job.config)
        log = RunLog(job.out) if os.environ.get("RANK", "0") == "0" else None
        try:
            with device_runtime():
                train(run, out=job.out, resume=job.resume, observer=log, meter=routing_meter)
                finalize()
        finally:
            if log is not None:
                log.close()
        if log is not None:
            imports = "".join(f" --import {module}" for module in job.modules)
            for line in (
                f"run folder: {job.out}",
                f'next: modelwright generate {job.out}{imports} --prompt "The " --tokens 200',
            ):
                log.console.print(line, soft_wrap=True, markup=False, highlight=False)


def job_config(text: str) -> RunConfig:
    """The config that a rank was started with.

    Args:
        text: JSON.

    Returns:
        The config.
    """
    run = loads(text, format="json")
    if not isinstance(run, RunConfig):
        raise TypeError(f"a job holds the config of a run, not {type(run).__name__}")
    return run


@contextmanager
def quiet_engine(*, debug: bool) -> Generator[None]:
    """Without `--debug`, keep the engine's warnings to itself: it gives dozens on every start.

    Args:
        debug: Let them through, and what this library logs.
    """
    import logging

    if debug:
        logging.basicConfig(format="%(name)s: %(message)s")
        logging.getLogger("modelwright").setLevel(logging.INFO)
        yield
        return
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(level)
