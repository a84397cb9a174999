"""The mark of a run folder: the folder belongs to one run at a time.

The file `.modelwright` marks a folder that `train` made. A run holds a lock on it (flock), which the system releases
when its process ends, however that happens.
"""

import contextlib
import errno
import fcntl
import json
import os
import socket
import stat
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import final

from modelwright.training.checkpoint.files.durable import delete_folder, naming
from modelwright.training.checkpoint.files.manifest import CheckpointError, open_file

MARK = ".modelwright"
"""File in a run folder that shows who made the folder, and is locked while a run uses it."""
_LEFTOVERS = (".step-*.partial", ".step-*.replaced", ".step-*.deleted")


@contextlib.contextmanager
def naming_run_file(path: Path) -> Generator[None]:
    """Turn an `OSError` in the block into an error that says what is wrong and what is left.

    Args:
        path: The file or folder of a run that the block writes.

    Raises:
        CheckpointError: The block raised an `OSError`.
    """
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"`{path}` cannot be written: {error.strerror or error}. Checkpoints that were saved before stay; resume "
            "the run from its folder when this is solved."
        ) from error


def is_run_folder(folder: Path) -> bool:
    """Return True if `train` made the folder, or at least has a checkpoint in it.

    Args:
        folder: The folder, which may not exist.
    """
    return (folder / MARK).is_file() or (folder / "checkpoints").is_dir()


@final
@dataclass(frozen=True)
class RunLock:
    """The lock of a run folder."""

    folder: Path
    """The folder."""
    descriptor: int
    """Open file that is locked."""

    def check(self) -> None:
        """Refuse to write if the folder is no longer where it was when the run started.

        Raises:
            CheckpointError: The folder was deleted, renamed or replaced.
        """
        ours = os.fstat(self.descriptor)
        try:
            there = os.lstat(self.folder / MARK)
        except OSError:
            there = None
        if there is None or (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino):
            raise CheckpointError(
                f"`{self.folder}` must stay in its place during a run, but was deleted, renamed or replaced; "
                "checkpoints that were saved before are where it is now."
            )


@contextlib.contextmanager
def locked(folder: Path) -> Generator[RunLock]:
    """Make a run folder if there is none, and hold its lock until the end of the block.

    Temporary folders that a dead run left under `checkpoints/` are deleted.

    Args:
        folder: The folder.

    Raises:
        CheckpointError: Another run uses the folder, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with naming(folder / MARK):
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(folder / MARK, flags, 0o644)
    except OSError as error:
        raise CheckpointError(
            f"`{folder}` must be a folder that can be written, but is not: {error.strerror}; name another by `--out`."
        ) from error
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:  # it is written, and with it what it is linked to
            raise CheckpointError(
                f"`{folder / MARK}` must be a file of its own, but is something else or a link; name another folder."
            )
        _take(descriptor, folder)
        _clear_leftovers(folder)
        yield RunLock(folder, descriptor)
    finally:
        os.close(descriptor)


def _take(descriptor: int, folder: Path) -> None:
    """Lock the mark, and write to it who has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise CheckpointError(
                f"`{folder}` must be on a file system with locks, but locking fails: {error.strerror}; name a folder "
                "on another one."
            ) from error
        raise CheckpointError(
            f"`{folder}` must be used by one run at a time, but {_owner(folder)} uses it; wait for it, or name another "
            "folder by `--out`."
        ) from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps({"process": os.getpid(), "host": socket.gethostname()}).encode() + b"\n", 0)


def _owner(folder: Path) -> str:
    """Return who has the lock, as the owner wrote it."""
    try:
        with open_file(folder / MARK) as file:
            content = json.loads(file.read(1000))
        return f"process {int(content['process'])} on {str(content['host'])[:100]!r}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def check_unlocked(folder: Path) -> None:
    """Refuse a folder that another run uses. Nothing is created.

    Args:
        folder: The folder, which may not exist.

    Raises:
        CheckpointError: Another run uses the folder.
    """
    if (folder / MARK).is_file():
        with locked(folder):
            pass


def _clear_leftovers(folder: Path) -> None:
    """Delete what a run that died in the middle of a save left behind."""
    for pattern in _LEFTOVERS:
        for path in sorted((folder / "checkpoints").glob(pattern)):
            delete_folder(path)
