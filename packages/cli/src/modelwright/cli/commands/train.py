"""`modelwright train`: check everything that can be checked, then start the ranks."""

import contextlib
import datetime
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Annotated, final

import typer

from modelwright.cli.exit_codes import command
from modelwright.cli.options import NO_MEMORY_CHECK, Debug, Import, NoMemoryCheck, NoVerify, Set
from modelwright.cli.printable import printable
from modelwright.cli.ranks import Job, run_on_ranks
from modelwright.cli.run_file import RUN_FILES, load_run
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
    verify: bool
    """Compare the checkpoint to resume from with its checksums."""


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
    fall_back: Annotated[
        bool,
        typer.Option("--fall-back", help="With --resume: set damaged checkpoints aside, and use the newest whole one."),
    ] = False,
    no_verify: NoVerify = False,
    no_memory_check: NoMemoryCheck = False,
    overrides: Set = None,
    modules: Import = None,
    debug: Debug = False,
) -> None:
    """Train a model on text, on as many local processes as its parallelism needs, or as one rank of torchrun."""
    changes = [*(overrides or ()), *(() if steps is None else (f"train.steps={steps}",))]
    verify = not no_verify
    if resume is not None and out not in (None, resume):
        raise ModelwrightError("`--out` must be left out with `--resume`: a run is resumed in its own folder.")
    if fall_back:
        _fall_back(resume)
    with _naming_whole(resume):
        run = (
            load_run(file, changes, modules)
            if file is not None
            else _resumed_config(resume, changes, modules, verify=verify)
        )
        _check_start(run, resume, verify=verify)
    if not (no_memory_check or "RANK" in os.environ):
        _check_memory(run)
    folder = run_folder(run.name or (file.stem if file else "run"), out, resume)
    job = TrainJob(run=run, modules=tuple(modules or ()), debug=debug, out=folder, resume=resume, verify=verify)
    run_on_ranks(train_rank, job)


def _naming_whole(resume: Path | None) -> contextlib.AbstractContextManager[None]:
    """Return a context that names the newest whole checkpoint if the newest is damaged."""
    from modelwright.training import naming_whole_checkpoint

    return contextlib.nullcontext() if resume is None else naming_whole_checkpoint(resume)


def _resumed_config(
    resume: Path | None, changes: Sequence[str], modules: Sequence[str] | None, *, verify: bool
) -> RunConfig:
    """Return the config of the newest checkpoint of a run."""
    if resume is None:
        raise ModelwrightError("`FILE` must be given unless `--resume` is; name a config file.")
    from modelwright.training import checkpoint_config, latest_checkpoint

    import_parts(modules)
    run = checkpoint_config(latest_checkpoint(resume, verify=verify)[1], verify=verify)
    return override(run, list(changes)) if changes else run


def run_folder(name: str, out: Path | None, resume: Path | None) -> Path:
    """Return the folder of a run.

    Args:
        name: Name of the run.
        out: Folder that the user chose. None: a new one in `runs`.
        resume: Folder of the run to resume. None: a new run.

    Returns:
        A folder in which the run overwrites nothing that another run or the user has there, or `resume`.

    Raises:
        ModelwrightError: The folder contains another run or other files.
    """
    if resume is not None:
        return resume
    folder = out or _new_folder(name)
    _check_new(folder)
    return folder


def _check_new(folder: Path) -> None:
    """Refuse a folder in which a new run would overwrite something.

    A run that died before its first checkpoint has nothing to resume, and may be started again in its folder.
    """
    from modelwright.training import check_unlocked, checkpoints, is_run_folder

    if folder.exists() and not folder.is_dir():
        raise ModelwrightError(f"`--out` must be a folder, but `{folder}` is something else; name another.")
    if checkpoints(folder):
        raise ModelwrightError(
            f"`--out` must be a new folder, but `{folder}` contains a run; use another, or resume it by "
            f"--resume {folder}."
        )
    if is_run_folder(folder):
        check_unlocked(folder)
    elif found := [name for name in RUN_FILES if os.path.lexists(folder / name)]:
        raise ModelwrightError(
            f"`--out` must be a new folder, but `{folder}` contains {', '.join(f'`{name}`' for name in found)} that "
            "this run did not write; use another folder."
        )


def _new_folder(name: str) -> Path:
    """Return a folder in `runs`, the same one on all ranks that a launcher started."""
    run_id = os.environ.get("TORCHELASTIC_RUN_ID")
    if run_id not in _NO_RUN_ID:
        return Path("runs") / f"{name}-{run_id}"
    if "RANK" not in os.environ:
        return _claimed(Path("runs") / f"{name}-{datetime.datetime.now():%Y%m%d-%H%M%S}")
    # The clocks of ranks differ, but not the folders that they see: no rank writes before all ranks have joined.
    numbered = (Path("runs") / f"{name}-{number}" for number in count(1))
    return next(folder for folder in numbered if not any((folder / name).exists() for name in RUN_FILES))


def _claimed(folder: Path) -> Path:
    """Make a folder, with a number behind its name if another run of the same second has made it."""
    for candidate in (folder, *(folder.with_name(f"{folder.name}-{number}") for number in range(2, 1000))):
        try:
            candidate.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise ModelwrightError(
                f"`{folder.parent}` must be a folder that can be written, but is not: {error.strerror}; name another "
                "by `--out`."
            ) from error
        return candidate
    raise ModelwrightError(f"`{folder}` and 998 more names are taken; name a folder by `--out`.")


def _check_start(run: RunConfig, resume: Path | None, *, verify: bool) -> None:
    """Check the text and the checkpoint before any rank starts."""
    from modelwright.training import check_resumable, check_savable, check_unlocked, latest_checkpoint, prepare_text

    prepare_text(run)
    check_savable(run)
    if resume is None:
        return
    check_unlocked(resume)
    step, path = latest_checkpoint(resume, verify=verify)
    check_resumable(run, path)
    if step >= run.train.steps:
        raise ModelwrightError(
            f"`train.steps` must be above the {step} steps that `{resume}` has done, but is {run.train.steps}; "
            f"raise it, for example with --steps {2 * step}."
        )


def _check_memory(run: RunConfig) -> None:
    """Refuse a run that cannot fit on this machine, and state on stderr what a large one needs."""
    from modelwright.training import check_memory, training_bytes

    ranks = run.parallelism.world_size()
    purpose = f"a run of {ranks:,} rank{'s' if ranks > 1 else ''}"
    if told := check_memory(training_bytes(run), purpose, option=NO_MEMORY_CHECK):
        typer.echo(told, err=True)


def _fall_back(resume: Path | None) -> None:
    """Set aside the damaged checkpoints of a run, and say which."""
    from modelwright.training import check_unlocked, fall_back

    if resume is None:
        raise ModelwrightError("`--fall-back` must be used with `--resume`, whose damaged checkpoints it sets aside.")
    check_unlocked(resume)
    for told in fall_back(resume):
        typer.echo(printable(told), err=True)


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
            job.run,
            out=job.out,
            resume=job.resume,
            callback=log,
            metrics_callback=routing_metrics,
            verify=job.verify,
        )
    except BaseException:
        if log is not None:
            with contextlib.suppress(Exception):  # the first error is the one to report
                log.close()
        raise
    if log is not None:
        log.close()
        imports = "".join(f" --import {module}" for module in job.modules)
        log.print(f"run folder: {job.out}")
        log.print(f'next: modelwright generate {job.out}{imports} --prompt "The " --tokens 200')
