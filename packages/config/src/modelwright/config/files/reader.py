"""Reading of files and texts: checks of size, encoding and format, then the reader of the format."""

import os
import stat
from pathlib import Path
from typing import Literal

from modelwright.config.files.document import Document, Mark, mark_at
from modelwright.config.files.json_reader import read_json
from modelwright.config.files.yaml_reader import read_yaml
from modelwright.config.problems.problem import ConfigError, Problem
from modelwright.config.problems.wording import quoted_list, shown
from modelwright.protocols import did_you_mean

__all__ = ["SIZE_LIMIT", "Format", "ReadFormat", "read_file", "read_text", "written_format"]

type Format = Literal["yaml", "json"]
"""Format in which a config can be written."""

type ReadFormat = Literal["yaml", "json", "toml"]
"""Format in which a config can be read."""

SIZE_LIMIT = 1024 * 1024
"""Maximum size of a config, in bytes."""

_SUFFIXES: dict[str, ReadFormat] = {".yaml": "yaml", ".yml": "yaml", ".json": "json", ".toml": "toml"}


def _read_toml(text: str, source: str | None) -> Document:
    """Read TOML; the reader is imported at its first use, because few configs are TOML."""
    from modelwright.config.files.toml_reader import read_toml

    return read_toml(text, source)


_READERS = {"yaml": read_yaml, "json": read_json, "toml": _read_toml}


def written_format(path: Path) -> Format:
    """Return the format in which to write a file, by its suffix.

    Args:
        path: The file; it need not exist.

    Returns:
        The format.

    Raises:
        ConfigError: If the suffix is unknown, or belongs to a format that is only read.
    """
    found = _format_of(path)
    if found == "toml":
        message = f"a config is not written as TOML, which has no null, but `{path.name}` was given; use `.yaml`."
        raise _error(str(path), message)
    return found


def _format_of(path: Path) -> ReadFormat:
    """Return the format of a file, by its suffix."""
    found = _SUFFIXES.get(path.suffix.lower())
    if found is None:
        rule = f"the name of a config must end in {quoted_list(_SUFFIXES, 'or')}, but `{path.name}` does not."
        raise _error(str(path), rule)
    return found


def read_file(path: Path) -> Document:
    """Read a file.

    Args:
        path: A YAML, JSON or TOML file.

    Returns:
        The data with its places, and the problems of the text.

    Raises:
        ConfigError: If the file cannot be read at all.
    """
    source = str(path)
    try:
        # Without O_NONBLOCK, opening a pipe waits for a writer.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise _error(source, "this is a pipe or a device; name a file.")
            content = file.read(SIZE_LIMIT + 1)
    except FileNotFoundError:
        raise _error(source, f"there is no such file{_near(path)}") from None
    except IsADirectoryError:
        raise _error(source, "this is a directory; name a file in it.") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise _error(source, f"the file cannot be read: {reason}.") from None
    _check_size(len(content), source)
    return _read(_decoded(content, source), _format_of(path), source)


def read_text(text: str, form: str, source: str | None) -> Document:
    """Read a text.

    Args:
        text: The text.
        form: `yaml`, `json` or `toml`.
        source: Name of the text in messages. None: no name.

    Returns:
        The data with its places, and the problems of the text.

    Raises:
        ConfigError: If the text cannot be read at all.
    """
    _check_size(len(text), source)
    return _read(text, form, source)


def _read(text: str, form: str, source: str | None) -> Document:
    """Read a text of an allowed size."""
    if form not in _READERS:
        near = did_you_mean(form, _READERS) or "."
        raise _error(source, f"`format` must be {quoted_list(_READERS, 'or')}, but `{form}` was given{near}")
    nul = text.find("\0")
    if nul >= 0:
        raise _error(source, "this is a binary file, not a config.", mark_at(text, nul))
    if not text.strip():
        raise _error(source, "the file is empty; start it with `modelwright: 1` (a run) or `kind: …` (a model).")
    return _READERS[form](text, source)


def _decoded(content: bytes, source: str) -> str:
    """Decode the content of a file, which must be UTF-8."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8", "replace")
        binary = b"\0" in content
        what = "this is a binary file, not a config." if binary else "the file must be UTF-8, but this byte is not."
        raise _error(source, what, mark_at(before, len(before))) from None


def _check_size(size: int, source: str | None) -> None:
    """Refuse a text that is too large, before it is parsed."""
    if size > SIZE_LIMIT:
        raise _error(source, f"a config may have at most {SIZE_LIMIT} bytes, but this is larger.")


def _near(path: Path) -> str:
    """Return the end of a message: the file with the most similar name in the same folder."""
    try:
        names = [one.name for one in path.parent.iterdir()]
    except OSError:
        return f"; the folder `{shown(str(path.parent))}` does not exist either."
    return did_you_mean(path.name, names) or "."


def _error(source: str | None, message: str, mark: Mark | None = None) -> ConfigError:
    """Return the error for a file that cannot be read at all."""
    line, column = mark if mark is not None else (None, None)
    return ConfigError((Problem("", message, line, column, source, code="unreadable"),))
