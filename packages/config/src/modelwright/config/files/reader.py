"""From a file or a text to a checked `Document`: size, encoding, format."""

from pathlib import Path
from typing import Literal

from modelwright.config.files.document import Document
from modelwright.config.files.json_reader import read_json
from modelwright.config.files.yaml_reader import read_yaml
from modelwright.config.problems.problem import ConfigError, Problem
from modelwright.config.strict.by_kind import quoted_list, shown
from modelwright.protocols import did_you_mean

__all__ = ["SIZE_LIMIT", "Format", "ReadFormat", "read_file", "read_text", "written_format"]

type Format = Literal["yaml", "json"]
"""What a config is written as."""

type ReadFormat = Literal["yaml", "json", "toml"]
"""What a config is read from."""

SIZE_LIMIT = 1024 * 1024
"""The most bytes that a config may have."""

_SUFFIXES: dict[str, ReadFormat] = {".yaml": "yaml", ".yml": "yaml", ".json": "json", ".toml": "toml"}


def _read_toml(text: str, source: str | None) -> Document:
    """The reader of TOML, imported when it is needed: few configs are TOML."""
    from modelwright.config.files.toml_reader import read_toml

    return read_toml(text, source)


_READERS = {"yaml": read_yaml, "json": read_json, "toml": _read_toml}


def written_format(path: Path) -> Format:
    """The format to write a file in, by its name.

    Args:
        path: The file; it need not exist.

    Returns:
        The format.

    Raises:
        ConfigError: If the suffix belongs to none, or to one that is only read.
    """
    found = _format_of(path)
    if found == "toml":
        message = f"a config is not written as TOML, which has no null, but `{path.name}` was given; use `.yaml`."
        raise _error(str(path), message)
    return found


def _format_of(path: Path) -> ReadFormat:
    """The format that a file's name says."""
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
        Its data with places, and what is wrong with the text.

    Raises:
        ConfigError: If it cannot be read at all.
    """
    source = str(path)
    try:
        with path.open("rb") as file:
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
        source: What to call it in messages.

    Returns:
        Its data with places, and what is wrong with the text.

    Raises:
        ConfigError: If it cannot be read at all.
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
        raise _error(source, "this is a binary file, not a config.", *_position(text, nul))
    if not text.strip():
        raise _error(source, "the file is empty; start it with `modelwright: 1` (a run) or `kind: …` (a model).")
    return _READERS[form](text, source)


def _decoded(content: bytes, source: str) -> str:
    """The text of a file, which must be UTF-8."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8", "replace")
        binary = b"\0" in content
        what = "this is a binary file, not a config." if binary else "the file must be UTF-8, but this byte is not."
        raise _error(source, what, *_position(before, len(before))) from None


def _check_size(size: int, source: str | None) -> None:
    """Refuse what is too large before it is parsed."""
    if size > SIZE_LIMIT:
        raise _error(source, f"a config may have at most {SIZE_LIMIT} bytes, but this is larger.")


def _position(text: str, at: int) -> tuple[int, int]:
    """Line and column of a character, counted from 1."""
    return text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)


def _near(path: Path) -> str:
    """A file beside it with a similar name, for the end of the message."""
    try:
        names = [one.name for one in path.parent.iterdir()]
    except OSError:
        return f"; `{shown(str(path.parent))}` is not there either."
    return did_you_mean(path.name, names) or "."


def _error(source: str | None, message: str, line: int | None = None, column: int | None = None) -> ConfigError:
    """One problem with a file as a whole."""
    return ConfigError((Problem("", message, line, column, source),))
