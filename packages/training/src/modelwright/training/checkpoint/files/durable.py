"""Writing that survives a power cut: content is synced to the disk before its name, and its name before the next step.

A file system may write in any order. Without syncing, a renamed folder can be on the disk while the files in it are
still empty. `fsync` on a file waits for its content, `fsync` on a folder for the names in it.
"""

import contextlib
import os
import shutil
from collections.abc import Generator
from pathlib import Path


@contextlib.contextmanager
def naming(path: Path) -> Generator[None]:
    """Add the path to an `OSError` in the block, where the system does not say which file it is about.

    Args:
        path: The file.
    """
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def sync_folder(folder: Path, *, up: int = 0) -> None:
    """Wait until the names in a folder are on the disk.

    Args:
        folder: The folder.
        up: Number of folders above it to sync too, for folders that were just made.
    """
    for path in [folder, *folder.absolute().parents][: up + 1]:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with naming(path):
                os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_durably(path: Path, content: bytes) -> None:
    """Write a new file and wait until its content is on the disk. A link in its place is not followed.

    Args:
        path: The file, which must not exist.
        content: Its content.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with naming(path), os.fdopen(os.open(path, flags, 0o644), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: Path, content: bytes) -> None:
    """Replace the content of a file: a power cut leaves the old or the new one. A link in its place is replaced.

    Args:
        path: The file, which may exist.
        content: Its new content.
    """
    aside = path.with_name(f".{path.name}.partial")
    aside.unlink(missing_ok=True)
    write_durably(aside, content)
    aside.replace(path)
    sync_folder(path.parent)


def replace_folder(new: Path, path: Path) -> None:
    """Rename a complete folder to its place. A folder that is there already is deleted when the new one is in place.

    Args:
        new: The folder, its content synced, beside `path`.
        path: The place.
    """
    old = path.with_name(f".{path.name}.replaced")
    delete_folder(old)
    if path.is_symlink():
        path.unlink()
    elif path.exists():
        path.rename(old)
    new.rename(path)
    sync_folder(path.parent)
    delete_folder(old)


def delete_folder(path: Path) -> None:
    """Delete a folder and what is in it, if it exists. A link is deleted, not what it leads to.

    The folder is renamed first, so that no name of a checkpoint is left on half of one.

    Args:
        path: The folder.
    """
    if path.is_symlink() or path.is_file():
        path.unlink()
        return
    aside = path if path.name.startswith(".") else path.with_name(f".{path.name}.deleted")
    with contextlib.suppress(FileNotFoundError):
        if aside != path:
            delete_folder(aside)
            path.rename(aside)
            sync_folder(path.parent)
        shutil.rmtree(aside)
