"""The metrics of a run: a file with one JSON object for each step, as it is written and read again by a resume."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from modelwright.protocols import ModelwrightError
from modelwright.training import replace_file

_MAX_BYTES = 2**30
DAMAGED = ".damaged"
"""Suffix of the file to which damaged lines are moved."""


def read_metrics(path: Path) -> tuple[list[dict[str, Any]], dict[int, str]]:
    """Read the file of a run.

    Args:
        path: The file. It need not exist.

    Returns:
        The records, and the lines that are none, by their number from 1: a line that a killed run left incomplete, or
        one that was changed.
    """
    records: list[dict[str, Any]] = []
    damaged: dict[int, str] = {}
    for number, line in enumerate(_lines(path), start=1):
        record = _record(line)
        if record is not None:
            records.append(record)
        elif line.strip():
            damaged[number] = line
    return records, damaged


def _lines(path: Path) -> list[str]:
    """Return the lines of a file. No link is followed."""
    if path.is_symlink() or not path.is_file():
        return []
    if path.stat().st_size > _MAX_BYTES:
        raise ModelwrightError(
            f"`{path}` must have at most {_MAX_BYTES:,} bytes to be read, but has {path.stat().st_size:,}; move it to "
            "another folder to start a new one."
        )
    return path.read_bytes().decode(errors="replace").splitlines()


def _record(line: str) -> dict[str, Any] | None:
    """Return the record of a line. None: the line is damaged."""
    try:
        record: object = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or type(cast("dict[str, Any]", record).get("step")) is not int:
        return None
    return cast("dict[str, Any]", record)


def as_line(record: Mapping[str, Any]) -> str:
    """Return the line of a record. JSON has no number for nan and inf, so they become `null`.

    Args:
        record: Metrics by name.
    """
    return json.dumps(_finite(record), allow_nan=False) + "\n"


def _finite(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(name): _finite(inner) for name, inner in cast("Mapping[object, object]", value).items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in cast("list[object]", value)]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def keep_metrics(path: Path, first_step: int) -> str | None:
    """Delete the metrics of steps that will be repeated, and move damaged lines to a file beside.

    Args:
        path: The file of the run.
        first_step: Number of the next step.

    Returns:
        A sentence about the damaged lines. None: there are none.
    """
    records, damaged = read_metrics(path)
    aside = path.with_name(path.name + DAMAGED)
    if damaged:
        replace_file(aside, "".join(f"{line}\n" for line in [*_lines(aside), *damaged.values()]).encode())
    replace_file(path, "".join(as_line(record) for record in records if record["step"] < first_step).encode())
    if not damaged:
        return None
    numbers = ", ".join(map(str, damaged))
    return (
        f"`{path}` must have one JSON object with a `step` in each line, but line {numbers} "
        f"{'is' if len(damaged) == 1 else 'are'} damaged; moved to `{aside}`."
    )
