"""Verification of checkpoints on the disk, without a model: which one is whole, and what is wrong with another."""

import contextlib
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

from modelwright.training.checkpoint.files.manifest import CheckpointError, DamagedCheckpointError, read_manifest
from modelwright.training.checkpoint.files.tensor_file import open_tensors
from modelwright.training.checkpoint.run_folder import check_files, checkpoints

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def verify_checkpoint(path: Path) -> None:
    """Read every byte of a checkpoint and compare it with its checksums.

    A checkpoint in the engine's format has none. Its files must exist, and that is all that is known.

    Args:
        path: Folder of the checkpoint.

    Raises:
        DamagedCheckpointError: Something is missing or is not what was written.
    """
    check_files(path)
    manifest = read_manifest(path)
    for name in manifest.files:
        with open_tensors(path, manifest, name) as file:
            for _ in file.read(file.boxes):
                pass


def newest_whole(run_dir: Path, *, before: int | None = None) -> tuple[int, Path] | None:
    """Return step and folder of the newest checkpoint that is whole. None: there is none.

    Args:
        run_dir: Folder of the run.
        before: Only checkpoints of earlier steps are considered. None: all.
    """
    for step, path in reversed(checkpoints(run_dir)):
        if before is None or step < before:
            try:
                verify_checkpoint(path)
            except CheckpointError:
                continue
            return step, path
    return None


@contextlib.contextmanager
def naming_whole_checkpoint(run_dir: Path, group: "ProcessGroup | None" = None) -> Generator[None]:
    """Add the newest whole checkpoint to a `DamagedCheckpointError` about the newest one.

    Args:
        run_dir: Folder of the run.
        group: Ranks that all raise the error; the first of them reads the older checkpoints. None: this process alone.

    Raises:
        DamagedCheckpointError: The block raised it.
    """
    try:
        yield
    except DamagedCheckpointError as error:
        if group is None:
            raise _with_remedy(error, run_dir) from error
        from modelwright.training.checkpoint.agreement import agreed

        with agreed(group):
            raise (_with_remedy(error, run_dir) if group.rank() == 0 else error) from error


def _with_remedy(error: DamagedCheckpointError, run_dir: Path) -> DamagedCheckpointError:
    newest = checkpoints(run_dir)[-1][0]
    whole = newest_whole(run_dir, before=newest)
    if whole is None:
        remedy = "No older checkpoint of the run is whole; `--no-verify` loads this one as it is."
    else:
        remedy = f"The newest whole checkpoint is `{whole[1].name}`; `--resume {run_dir} --fall-back` resumes from it."
    return DamagedCheckpointError(f"{error} {remedy}")


def fall_back(run_dir: Path) -> list[str]:
    """Set aside every checkpoint that is newer than the newest whole one, so that this one is the newest.

    Args:
        run_dir: Folder of the run.

    Returns:
        A sentence for each checkpoint that was set aside, with what is wrong with it.

    Raises:
        CheckpointError: No checkpoint is whole.
    """
    told: list[str] = []
    aside: list[Path] = []
    for _, path in reversed(checkpoints(run_dir)):
        try:
            verify_checkpoint(path)
        except CheckpointError as error:
            aside.append(path)
            told.append(f"set aside as `{_place(path).name}`: {error}")
            continue
        for damaged in aside:
            damaged.rename(_place(damaged))
        return told
    raise CheckpointError(
        f"`{run_dir}` must contain a checkpoint that is whole, but none of {len(aside)} is: {' '.join(told)}"
        if told
        else f"`{run_dir}` must contain a checkpoint, but there is none under `checkpoints/`."
    )


def _place(path: Path) -> Path:
    """Return the name under which a damaged checkpoint is kept, which no checkpoint has."""
    numbered = (path.with_name(f"damaged-{path.name}{suffix}") for suffix in ["", *(f".{n}" for n in range(1, 1000))])
    return next(name for name in numbered if not name.exists())
