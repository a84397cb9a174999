"""The manifest of a checkpoint, `modelwright.json`: config, number of steps, and every file with its checksum.

It is written last and read first. Nothing here loads torch or the engine.
"""

import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any, final

from modelwright.protocols import ModelwrightError

MANIFEST = "modelwright.json"
FORMAT = 3
"""Version of the format. Earlier ones are only read."""
ENGINE_FORMAT = 1
"""The engine's own format, which the first version wrote. Format 2 has other checksums than 3."""
_MAX_BYTES = 16 * 2**20
_FILE_NAME = re.compile(r"(weights|optimizer)-\d{5}\.safetensors", re.ASCII)


class CheckpointError(ModelwrightError):
    """A checkpoint that is missing, incomplete, damaged, or of another model."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint with a file that is not what was written."""


@final
@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """A file of tensors, as the manifest lists it."""

    bytes: int
    """Size in bytes."""
    header: str
    """Checksum of its header, which contains the checksums of the tensors."""


@final
@dataclass(frozen=True, kw_only=True)
class Numbers:
    """The state of a run besides its tensors."""

    schedule_steps: int | None = None
    """Number of steps of the learning-rate schedule. None: it was not saved."""
    loss_scales: tuple[Mapping[str, float], ...] = ()
    """State of each loss scaler; empty unless the dtype is float16."""


@final
@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of `modelwright.json`."""

    step: int
    """Number of steps done."""
    config: str
    """Config of the run as JSON."""
    format: int = FORMAT
    """Version of the format."""
    files: Mapping[str, FileEntry] = field(default_factory=dict[str, FileEntry])
    """Files of tensors by name. Empty in the engine's format."""
    numbers: Numbers = field(default_factory=Numbers)
    """Schedule and loss scales."""

    def dumps(self) -> str:
        """Return the text of the file, which ends with its own checksum."""
        files = {name: {"bytes": entry.bytes, "header": entry.header} for name, entry in self.files.items()}
        content = {
            "format": self.format,
            "step": self.step,
            "config": self.config,
            "schedule_steps": self.numbers.schedule_steps,
            "loss_scales": [dict(state) for state in self.numbers.loss_scales],
            "files": files,
        }
        return json.dumps(content | {"checksum": _checksum(content)}, indent=1) + "\n"


def _checksum(content: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_manifest(path: Path, *, verify: bool = True) -> Manifest:
    """Read the manifest of a checkpoint.

    Args:
        path: Folder of the checkpoint.
        verify: Compare the manifest with its own checksum.

    Raises:
        DamagedCheckpointError: The manifest cannot be read, or is not what was written.
    """
    file = path / MANIFEST
    try:
        with open_file(file) as opened:
            text = opened.read(_MAX_BYTES + 1)
        if len(text) > _MAX_BYTES:
            raise ValueError(f"it is longer than {_MAX_BYTES:,} bytes")
        content: dict[str, Any] = json.loads(text)
        if "format" not in content:  # written by a version that saved in the engine's format
            return Manifest(step=_number(content.get("step", 0)), config=_text(content["config"]), format=ENGINE_FORMAT)
        found = content.pop("checksum")
        if verify and found != _checksum(content):
            raise ValueError("its checksum is another")
        return _manifest(content)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        raise DamagedCheckpointError(f"`{file}` cannot be read: {reason}; the checkpoint is damaged.") from error


def _manifest(content: dict[str, Any]) -> Manifest:
    version = _number(content["format"])
    if not ENGINE_FORMAT < version <= FORMAT:
        raise ValueError(f"it has format {version}, and this version reads up to {FORMAT}")
    files: dict[str, Any] = content["files"]
    wrong = [name for name in files if not _FILE_NAME.fullmatch(name)]
    if wrong:
        raise ValueError(f"it lists the file {wrong[0]!r}, which no save writes")
    return Manifest(
        step=_number(content["step"]),
        config=_text(content["config"]),
        format=version,
        files={
            name: FileEntry(bytes=_number(entry["bytes"]), header=_text(entry["header"]))
            for name, entry in files.items()
        },
        numbers=Numbers(
            schedule_steps=None if content["schedule_steps"] is None else _number(content["schedule_steps"]),
            loss_scales=tuple(_numbers(state) for state in content["loss_scales"]),
        ),
    )


def _number(value: object) -> int:
    if type(value) is not int or not 0 <= value < 2**62:
        raise ValueError(f"{str(value)[:40]!r} is not a count")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a text was expected, not {type(value).__name__}")
    return value


def _numbers(value: Mapping[str, object]) -> Mapping[str, float]:
    if not all(isinstance(number, int | float) for number in value.values()):
        raise TypeError("a mapping of numbers was expected")
    return {name: float(str(number)) for name, number in value.items()}


def open_file(path: Path) -> FileIO:
    """Open a file of a checkpoint to read it. A link is not followed, and a pipe does not make the reader wait.

    Args:
        path: The file.

    Raises:
        OSError: It cannot be opened, or is not a plain file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(0, "it is not a plain file")
    return FileIO(descriptor, "rb")


def file_problem(path: Path, manifest: Manifest) -> str | None:
    """Return what is wrong with the sizes of a checkpoint's files. None: nothing.

    Args:
        path: Folder of the checkpoint.
        manifest: Its manifest.
    """
    for name, entry in manifest.files.items():
        try:
            with open_file(path / name) as file:
                size = os.fstat(file.fileno()).st_size
        except OSError as error:
            return f"`{name}` cannot be read: {error.strerror}"
        if size != entry.bytes:
            return f"`{name}` has {size:,} bytes instead of {entry.bytes:,}"
    return None
