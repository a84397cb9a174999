"""`modelwright train`: check everything that can be checked, then start the ranks."""

import datetime
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Annotated, final

import typer

from modelwright.cli.exit_codes import command
from modelwright.cli.options import Debug, Import, Set
from modelwright.cli.ranks import Job, run_on_ranks
from modelwright.cli.run_file import METRICS, load_run
from modelwright.cli.user_parts import import_parts
from modelwright.config import RunConfig, override
from modelwright.protocols import ModelwrightError

_NO_RUN_ID = {None, "", "none"}  # torchrun without --rdzv-id sets `none`


@final
@dataclass(frozen=True, kw_only=True)
class TrainJob(Job):
    """Input of every rank of a training run."""

    out: Path
    """Folder of the run."""
    resume: Path | None
    """Folder of the run to resume. None: start from initial values."""


@command
def train(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="Config of a run; may be left out with --resume.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Override train.steps.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run. Default: runs/<name>-<time>.", metavar="DIR")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Resume the run in DIR from its newest checkpoint.", metavar="DIR")
    ] = None,
    overrides: Set = None,
    modules: Import = None,
    debug: Debug = False,
) -> None:
    """Train a model on text, on as many local processes as its parallelism needs, or as one rank of torchrun."""
    changes = [*(overrides or ()), *(() if steps is None else (f"train.steps={steps}",))]
    run = load_run(file, changes, modules) if file is not None else _resumed_config(resume, changes, modules)
    folder = run_folder(run.name or (file.stem if file else "run"), out, resume)
    _check_start(run, resume)
    run_on_ranks(train_rank, TrainJob(run=run, modules=tuple(modules or ()), debug=debug, out=folder, resume=resume))


def _resumed_config(resume: Path | None, changes: Sequence[str], modules: Sequence[str] | None) -> RunConfig:
    """Return the config of the newest checkpoint of a run."""
    if resume is None:
        raise ModelwrightError("`FILE` must be given unless `--resume` is; name a config file.")
    from modelwright.training import checkpoint_config, latest_checkpoint

    import_parts(modules)
    run = checkpoint_config(latest_checkpoint(resume)[1])
    return override(run, list(changes)) if changes else run


def run_folder(name: str, out: Path | None, resume: Path | None) -> Path:
    """Return the folder of a run.

    Args:
        name: Name of the run.
        out: Folder that the user chose. None: a new one in `runs`.
        resume: Folder of the run to resume. None: a new run.

    Returns:
        A folder without metrics, or `resume`.

    Raises:
        ModelwrightError: The folder contains another run, or the options contradict each other.
    """
    if resume is not None:
        if out not in (None, resume):
            raise ModelwrightError("`--out` must be left out with `--resume`: a run is resumed in its own folder.")
        return resume
    folder = out or _new_folder(name)
    if (folder / METRICS).exists():
        raise ModelwrightError(
            f"`--out` must be a new folder, but `{folder}` contains a run; use another, or resume it by "
            f"--resume {folder}."
        )
    return folder


def _new_folder(name: str) -> Path:
    """Return a folder in `runs`, the same one on all ranks that a launcher started."""
    run_id = os.environ.get("TORCHELASTIC_RUN_ID")
    if run_id not in _NO_RUN_ID:
        return Path("runs") / f"{name}-{run_id}"
    if "RANK" not in os.environ:
        return Path("runs") / f"{name}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    # The clocks of ranks differ, but not the folders that they see: no rank writes before all ranks have joined.
    numbered = (Path("runs") / f"{name}-{number}" for number in count(1))
    return next(folder for folder in numbered if not (folder / METRICS).exists())


def _check_start(run: RunConfig, resume: Path | None) -> None:
    """Check the text and the checkpoint before any rank starts."""
    from modelwright.training import check_resumable, check_savable, latest_checkpoint, prepare_text

    prepare_text(run)
    check_savable(run)
    if resume is None:
        return
    step, path = latest_checkpoint(resume)
    check_resumable(run, path)
    if step >= run.train.steps:
        raise ModelwrightError(
            f"`train.steps` must be above the {step} steps that `{resume}` has done, but is {run.train.steps}; "
            f"raise it, for example with --steps {2 * step}."
        )


def train_rank(job: TrainJob) -> None:
    """Train as one rank; rank 0 writes the run folder.

    Args:
        job: Input of the rank.
    """
    import modelwright.training
    from modelwright.cli.reports.routing_metrics import routing_metrics
    from modelwright.cli.reports.run_log import RunLog

    log = RunLog(job.out) if os.environ.get("RANK", "0") == "0" else None
    try:
        modelwright.training.train(
            job.run, out=job.out, resume=job.resume, callback=log, metrics_callback=routing_metrics
        )
    finally:
        if log is not None:
            log.close()
    if log is not None:
        imports = "".join(f" --import {module}" for module in job.modules)
        log.print(f"run folder: {job.out}")
        log.print(f'next: modelwright generate {job.out}{imports} --prompt "The " --tokens 200')
