"""The folder of a run: its checkpoints, and the config that each was saved with.

A checkpoint is a folder `checkpoints/step-N`. It is written under another name and renamed when it is complete. Nothing
here loads the engine, so that a wrong folder is reported before any process starts.
"""

import re
from pathlib import Path

from modelwright.config import ConfigError, RunConfig, loads
from modelwright.training.checkpoint.files.manifest import (
    ENGINE_FORMAT,
    MANIFEST,
    CheckpointError,
    DamagedCheckpointError,
    file_problem,
    read_manifest,
)

_ENGINE_MARKS = ("metadata.json", ".metadata")
_STEP = re.compile(r"step-(\d{8})", re.ASCII)


def checkpoint_path(run_dir: Path, step: int) -> Path:
    """Return the folder of the checkpoint of a step, which may not exist yet.

    Args:
        run_dir: Folder of the run.
        step: Number of steps done.
    """
    return run_dir / "checkpoints" / f"step-{step:08d}"


def checkpoints(run_dir: Path) -> list[tuple[int, Path]]:
    """Return step and folder of each checkpoint of a run, oldest first.

    A checkpoint that is still being written has another name than `step-N` and is left out. Links are not followed.

    Args:
        run_dir: Folder of the run.
    """
    return [(step, path) for step, path in _named_steps(run_dir) if not path.is_symlink()]


def _named_steps(run_dir: Path) -> list[tuple[int, Path]]:
    """Return everything that is named like a checkpoint, oldest first."""
    folder = run_dir / "checkpoints"
    if folder.is_symlink():
        raise CheckpointError(
            f"`{folder}` must be a folder, but is a link, which is not followed; name the run folder that it leads to."
        )
    found = [(_STEP.fullmatch(path.name), path) for path in folder.iterdir()] if folder.is_dir() else []
    return sorted((int(match[1]), path) for match, path in found if match)


def latest_checkpoint(run_dir: Path, *, verify: bool = True) -> tuple[int, Path]:
    """Return step and folder of the newest checkpoint of a run.

    Args:
        run_dir: Folder of the run.
        verify: Compare the manifest with its checksum. Tensors are compared when they are loaded.

    Raises:
        CheckpointError: There is no checkpoint.
        DamagedCheckpointError: The newest is not complete.
    """
    if not run_dir.is_dir():
        raise CheckpointError(
            f"`{run_dir}` must be the folder of a run, but there is no such folder; name one that `train` printed."
        )
    found = _named_steps(run_dir)
    if not found:
        raise CheckpointError(
            f"`{run_dir}` must contain a checkpoint, but there is none under `checkpoints/`; a run saves one at its "
            "end and every `train.checkpoint_interval` steps."
        )
    step, path = found[-1]
    if path.is_symlink():
        raise CheckpointError(
            f"`{path}` must be a folder, but is a link, which is not followed; move the checkpoint here, or delete the "
            "link to resume from an older one."
        )
    check_files(path, verify=verify)
    return step, path


def check_files(path: Path, *, verify: bool = True) -> None:
    """Refuse a checkpoint that lacks a file, or has one of another size than its manifest says.

    Args:
        path: Folder of the checkpoint.
        verify: Compare the manifest with its own checksum.

    Raises:
        DamagedCheckpointError: The checkpoint is not complete.
    """
    if problem := _incomplete(path, verify=verify):
        raise DamagedCheckpointError(
            f"`{path}` must be a complete checkpoint, but {problem}: it was cut off or changed."
        )


def _incomplete(path: Path, *, verify: bool) -> str | None:
    """Return what a checkpoint lacks, by its manifest. None: nothing."""
    if not (path / MANIFEST).is_file():
        return f"`{MANIFEST}` is missing"
    manifest = read_manifest(path, verify=verify)
    if manifest.format != ENGINE_FORMAT:
        return file_problem(path, manifest)
    missing = [f"`{name}`" for name in _ENGINE_MARKS if not (path / name).is_file()]
    return f"{', '.join(missing)} is missing" if missing else None


def checkpoint_config(path: Path, *, verify: bool = True) -> RunConfig:
    """Return the config that a checkpoint was saved with.

    Args:
        path: Folder of the checkpoint.
        verify: Compare the manifest with its checksum.

    Raises:
        CheckpointError: The config cannot be read.
    """
    manifest = read_manifest(path, verify=verify)
    try:
        config = loads(manifest.config, format="json")
    except ConfigError as error:
        raise CheckpointError(f"`{path / MANIFEST}` contains a config that cannot be used here: {error}") from error
    if not isinstance(config, RunConfig):
        raise CheckpointError(
            f"`{path / MANIFEST}` must contain the config of a run, but contains a {type(config).__name__}."
        )
    return config
