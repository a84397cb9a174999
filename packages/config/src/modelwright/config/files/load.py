"""Configs to files and back.

A document with the key `modelwright` is a whole run; one with `kind` is a model alone. What is written comes back
equal. Reading imports no module that the file names and calls nothing but registered classes.
"""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from modelwright.config.files.document import Document, Mark
from modelwright.config.files.reader import Format, ReadFormat, read_file, read_text, written_format
from modelwright.config.files.yaml_writer import write_yaml
from modelwright.config.model.base import ModelConfig
from modelwright.config.problems.problem import ConfigError
from modelwright.config.problems.pydantic_errors import described
from modelwright.config.run.run import RunConfig
from modelwright.config.strict.by_kind import quoted_list
from modelwright.config.strict.plain_data import canonical, to_plain
from modelwright.config.strict.validate import current_document, validate_model, validate_run
from modelwright.protocols import did_you_mean

__all__ = ["dumps", "fingerprint", "from_plain", "load", "loads", "migrate", "save"]


def load(path: str | os.PathLike[str]) -> RunConfig | ModelConfig:
    """Read a config from a file.

    Args:
        path: A `.yaml`, `.yml`, `.json` or `.toml` file of at most 1 MiB.

    Returns:
        A `RunConfig` if the file says `modelwright: 1`, else the model config of its `kind`.

    Raises:
        ConfigError: With everything that is wrong, each with file, line and column.
    """
    return _from_document(read_file(Path(path)))


def loads(
    text: str,
    *,
    format: ReadFormat = "yaml",  # noqa: A002  # what every codec calls it
    source: str | None = None,
) -> RunConfig | ModelConfig:
    """Read a config from a text.

    Args:
        text: The text.
        format: `yaml`, `json` or `toml`.
        source: What to call the text in messages.

    Returns:
        A `RunConfig` if the text says `modelwright: 1`, else the model config of its `kind`.

    Raises:
        ConfigError: With everything that is wrong, each with line and column.
    """
    return _from_document(read_text(text, format, source))


def dumps(
    config: RunConfig | ModelConfig,
    *,
    format: Format = "yaml",  # noqa: A002  # what every codec calls it
    full: bool = False,
) -> str:
    """Write a config as a text.

    Args:
        config: The config.
        format: `yaml` or `json`.
        full: Every field, or only those that differ from their defaults.

    Returns:
        A text that `loads` makes an equal config of.
    """
    return _written(to_plain(config, full=full), format)


def save(config: RunConfig | ModelConfig, path: str | os.PathLike[str], *, full: bool = False) -> None:
    """Write a config to a file, which is there whole or not at all.

    Args:
        config: The config.
        path: A `.yaml`, `.yml` or `.json` file in a directory that exists; replaced if it is there.
        full: Every field, or only those that differ from their defaults.

    Raises:
        ConfigError: If the name has another suffix.
        OSError: If the file cannot be written.
    """
    target = Path(path)
    _write_whole(target, dumps(config, format=written_format(target), full=full))


def migrate(path: str | os.PathLike[str], *, write: bool = False) -> str:
    """Say what a file says in the words of the installed versions.

    Args:
        path: A file of any version that can be read.
        write: Replace the file by the result, whole or not at all. Comments are not kept.

    Returns:
        The text of the new file: the fields that the old one gave, no others. A TOML file becomes YAML.

    Raises:
        ConfigError: If the file is not valid, or would have to be written as TOML.
        OSError: If the file cannot be written.
    """
    source = Path(path)
    document = read_file(source)
    _from_document(document)
    form: Format = "json" if source.suffix.lower() == ".json" else "yaml"
    if write:
        form = written_format(source)
    text = _written(current_document(cast("dict[str, object]", document.data)), form)
    if write:
        _write_whole(source, text)
    return text


def _written(data: dict[str, Any], form: Format) -> str:
    """Plain data as a text."""
    return write_yaml(data) if form == "yaml" else json.dumps(data, indent=2, ensure_ascii=False) + "\n"


def _write_whole(target: Path, text: str) -> None:
    """Replace a file by a text, or leave it as it is."""
    handle, aside = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", text=True)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(aside).chmod(0o644)
        Path(aside).replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(aside).unlink()
        raise


def fingerprint(config: RunConfig | ModelConfig) -> str:
    """A name for the content of a config.

    Args:
        config: The config.

    Returns:
        The sha256 of its canonical full JSON, in hexadecimal. Equal configs, and ones with nan in the same places,
        have equal fingerprints.
    """
    return hashlib.sha256(canonical(to_plain(config, full=True)).encode()).hexdigest()


def from_plain(data: Mapping[str, object]) -> RunConfig | ModelConfig:
    """Make a config of the plain data of a document.

    Args:
        data: Plain data with `modelwright` or `kind`.

    Returns:
        The config.

    Raises:
        ConfigError: With everything that is wrong, without places.
    """
    return validate_run(data) if "modelwright" in data else validate_model(data)


def _from_document(document: Document) -> RunConfig | ModelConfig:
    """Validate what was read, and put places on what is wrong."""
    data = document.data
    if not isinstance(data, dict):
        given = "nothing" if data is None else described(data)
        raise document.fail(_start(document), f"a config is a mapping of names to values, but {given} was given.")
    fields = cast("dict[str, object]", data)
    if "modelwright" not in fields and "kind" not in fields:
        raise document.fail(_start(document), _no_header(fields))
    try:
        config = from_plain(fields)
    except ConfigError as error:
        raise ConfigError([*document.problems, *document.news(error.problems)]) from None
    if document.problems:
        raise ConfigError(document.problems)
    return config


def _start(document: Document) -> Mark:
    """Where the document starts."""
    place = document.places.get("")
    return place.value if place is not None else Mark(1, 1)


def _no_header(fields: dict[str, object]) -> str:
    """What to say of a document that is neither a run nor a model."""
    exists = quoted_list(list(fields)[:6])
    near = next((end for name in fields if (end := did_you_mean(name, ("modelwright", "kind")))), ".")
    return f"a config needs `modelwright: 1` (a run) or `kind: …` (a model) at its top, but this has {exists}{near}"
