"""The check of a file that an option names for output: it overwrites nothing that modelwright did not write."""

import os
from pathlib import Path

from modelwright.protocols import ModelwrightError

_BEGINNING = 4096
"""Bytes at the beginning of a file in which its mark is."""


def check_output_file(option: str, path: Path, *, mark: str) -> None:
    """Refuse a place for a file, before any work is done for it.

    Args:
        option: Option that names the file.
        path: The file. A link is not followed.
        mark: Text near the beginning of every file that the option writes.

    Raises:
        ModelwrightError: The file is in no folder, or another file would be overwritten.
    """
    if path.is_dir() or not path.parent.is_dir():
        raise ModelwrightError(f"`{option}` must name a file in an existing folder, but `{path}` is not one.")
    if os.path.lexists(path) and not _has_mark(path, mark.encode()):
        raise ModelwrightError(
            f"`{option}` must name a new file or one that it wrote, but `{path}` is another one; name another file."
        )


def _has_mark(path: Path, mark: bytes) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        return mark in file.read(_BEGINNING)
