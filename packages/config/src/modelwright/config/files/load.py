"""Reading and writing of configs: `load`, `loads`, `dumps`, `save`, `migrate`, `fingerprint`.

A document with the key `modelwright` is a run; one with `kind` is a model alone. A written config is equal to the
original when it is read. Reading imports no module that the file names, and calls only registered classes.
"""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from pydantic_core import PydanticCustomError

from modelwright.config.files.document import Document
from modelwright.config.files.header import config_of, current_data
from modelwright.config.files.overrides import apply_changes, override, with_defaults
from modelwright.config.files.reader import Format, ReadFormat, read_file, read_text, written_format
from modelwright.config.files.yaml_writer import write_yaml
from modelwright.config.model.base import ModelConfig
from modelwright.config.problems.problem import ConfigError
from modelwright.config.problems.wording import described, quoted_list
from modelwright.config.run.run import RunConfig
from modelwright.config.strict.plain_data import RUN_KEY, canonical, to_plain
from modelwright.protocols import did_you_mean

__all__ = ["dumps", "fingerprint", "load", "loads", "migrate", "save"]


def load(path: str | os.PathLike[str], changes: Sequence[str] = ()) -> RunConfig | ModelConfig:
    """Read a config from a file.

    Args:
        path: A `.yaml`, `.yml`, `.json` or `.toml` file of at most 1 MiB.
        changes: `path=value` each, as for `override`. They are applied before the data is validated.

    Returns:
        A `RunConfig` if the file contains `modelwright: 1`, else the model config of its `kind`.

    Raises:
        ConfigError: With everything that is wrong, each problem with file, line and column, or with the override that
            caused it. In TOML only errors of syntax have line and column.
    """
    document = read_file(Path(path))
    if not changes:
        return _from_document(document)
    return _changed(document, changes) or override(_from_document(document), changes)


def loads(
    text: str,
    *,
    format: ReadFormat = "yaml",  # noqa: A002  # the usual name in codecs
    source: str | None = None,
) -> RunConfig | ModelConfig:
    """Read a config from a text.

    Args:
        text: The text.
        format: `yaml`, `json` or `toml`.
        source: Name of the text in messages. None: no name.

    Returns:
        A `RunConfig` if the text contains `modelwright: 1`, else the model config of its `kind`.

    Raises:
        ConfigError: With everything that is wrong, each problem with line and column. In TOML only errors of syntax
            have line and column.
    """
    return _from_document(read_text(text, format, source))


def dumps(
    config: RunConfig | ModelConfig,
    *,
    format: Format = "yaml",  # noqa: A002  # the usual name in codecs
    full: bool = False,
) -> str:
    """Convert a config to a text.

    Args:
        config: The config.
        format: `yaml` or `json`.
        full: True for every field, False for those that differ from their defaults.

    Returns:
        A text from which `loads` makes an equal config.
    """
    return _written(to_plain(config, full=full), format)


def save(config: RunConfig | ModelConfig, path: str | os.PathLike[str], *, full: bool = False) -> None:
    """Write a config to a file, atomically.

    Args:
        config: The config.
        path: A `.yaml`, `.yml` or `.json` file in an existing directory; an existing file is replaced.
        full: True for every field, False for those that differ from their defaults.

    Raises:
        ConfigError: If the name has another suffix.
        OSError: If the file cannot be written.
    """
    target = Path(path)
    _write_atomically(target, dumps(config, format=written_format(target), full=full))


def migrate(path: str | os.PathLike[str], *, write: bool = False) -> str:
    """Convert a file to the installed versions.

    Args:
        path: A file of any version that can be read.
        write: Replace the file by the result, atomically. Comments are lost.

    Returns:
        The text of the new file, with the fields of the old one and no others. A TOML file becomes YAML.

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
    text = _written(current_data(cast("dict[str, object]", document.data)), form)
    if write:
        _write_atomically(source, text)
    return text


def fingerprint(config: RunConfig | ModelConfig) -> str:
    """Return a hash of the content of a config.

    Args:
        config: The config.

    Returns:
        The sha256 of its canonical full JSON, in hexadecimal. Equal configs, and configs with NaN in the same places,
        have equal fingerprints. A field that was added to a class later is left out at its default, so that a config
        keeps its fingerprint when its class gets a field.
    """
    return hashlib.sha256(canonical(to_plain(config, full=True, added=False)).encode()).hexdigest()


def _written(data: dict[str, Any], form: Format) -> str:
    """Convert plain data to a text."""
    return write_yaml(data) if form == "yaml" else json.dumps(data, indent=2, ensure_ascii=False) + "\n"


def _write_atomically(target: Path, text: str) -> None:
    """Replace the content of a file by a text, or leave the file unchanged."""
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


def _from_document(document: Document) -> RunConfig | ModelConfig:
    """Validate a document, and add places to the problems."""
    data = document.data
    if not isinstance(data, dict):
        given = "nothing" if data is None else described(data)
        message = f"a config must be a mapping of names to values, but {given} was given."
        raise document.fail(document.start(), message, code="wrong_type")
    fields = cast("dict[str, object]", data)
    if RUN_KEY not in fields and "kind" not in fields:
        raise document.fail(document.start(), _no_header(fields), code="missing_field")
    try:
        config = config_of(fields)
    except ConfigError as error:
        raise ConfigError([*document.problems, *document.located(error.problems)]) from None
    if document.problems:
        raise ConfigError(document.problems)
    return config


def _changed(document: Document, changes: Sequence[str]) -> RunConfig | ModelConfig | None:
    """Apply overrides to a document, and validate the result once. None: something in one of the two is wrong."""
    if document.problems or not isinstance(document.data, dict):
        return None
    fields = cast("dict[str, object]", document.data)
    if RUN_KEY not in fields and "kind" not in fields:
        return None
    try:
        return config_of(apply_changes(with_defaults(fields), changes))
    except (ConfigError, PydanticCustomError):
        return None


def _no_header(fields: dict[str, object]) -> str:
    """Return the message about a document that is neither a run nor a model."""
    exists = quoted_list(list(fields)[:6])
    near = next((end for name in fields if (end := did_you_mean(name, (RUN_KEY, "kind")))), ".")
    return f"a config needs `modelwright: 1` (a run) or `kind: …` (a model) at its top, but this has {exists}{near}"
