"""Overrides of single fields, as on the command line: `train.steps=5`."""

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

from modelwright.config.files.header import config_of, current_data
from modelwright.config.files.reader import read_text
from modelwright.config.model.base import ModelConfig
from modelwright.config.model.kind_registry import RegisteredKind
from modelwright.config.problems.problem import ConfigError, Problem
from modelwright.config.problems.wording import shown
from modelwright.config.run.run import RunConfig
from modelwright.config.strict.config_class import Config
from modelwright.config.strict.plain_data import RUN_KEY, to_plain

__all__ = ["apply_changes", "override", "with_defaults"]

_OPTION = "--set"


class _Change(NamedTuple):
    """One parsed override."""

    path: str
    value: object
    text: str
    source: str


def override[ConfigT: RunConfig | ModelConfig](config: ConfigT, changes: str | Sequence[str]) -> ConfigT:
    """Return a copy of a config with fields changed by their dotted paths.

    Args:
        config: A run or a model; it is not changed.
        changes: One or several of `path=value`. A value is read as YAML 1.2 (`1e-5`, `null`, `[1, 2]`, `"quoted"`). If
            the field is a string, an unquoted value is used as it is written. Setting a `kind` drops the other fields
            of that section.

    Returns:
        The copy, validated like a file.

    Raises:
        ConfigError: With everything that is wrong, each problem with the override that caused it.
    """
    read = [_read(text) for text in ([changes] if isinstance(changes, str) else changes)]
    problems = [found for found in read if isinstance(found, Problem)]
    wanted = [found for found in read if isinstance(found, _Change)]
    if problems:
        raise ConfigError(problems)
    try:
        return _applied(config, wanted)
    except ConfigError as error:
        as_text = [_as_text(change, error) for change in wanted]
        if as_text != wanted:
            return _applied_with_sources(config, as_text)
        raise ConfigError(_with_source(one, wanted) for one in error.problems) from None


def apply_changes(data: dict[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """Apply overrides to plain data before it is validated.

    Args:
        data: Plain data; it is changed in place.
        changes: `path=value` each, as for `override`.

    Returns:
        The data.

    Raises:
        ConfigError: If an override cannot be read.
    """
    read = [_read(text) for text in changes]
    problems = [found for found in read if isinstance(found, Problem)]
    if problems:
        raise ConfigError(problems)
    for found in read:
        if isinstance(found, _Change):
            _set(data, found)
    return data


def with_defaults(data: Mapping[str, object]) -> dict[str, Any]:
    """Add the sections that a document leaves out, so that an override can change one field of a section.

    Args:
        data: Plain data with `modelwright` or `kind`, of any version that can be read.

    Returns:
        A copy in the installed versions.

    Raises:
        ConfigError: If a migration is missing.
        PydanticCustomError: If the model has no known kind.
    """
    whole = copy.deepcopy(current_data(data))
    model = whole.get("model") if RUN_KEY in whole else whole
    if RUN_KEY in whole:
        _add_sections(whole, RunConfig)
    if isinstance(model, dict):
        fields = cast("dict[str, Any]", model)
        _add_sections(fields, RegisteredKind().split(fields)[0])
    return whole


def _add_sections(data: dict[str, Any], cls: type) -> None:
    """Add the sections of a class that its data leaves out. A section with a `kind` is complete as it is given."""
    for field in dataclasses.fields(cls):
        default: object = field.default
        if isinstance(default, Config):
            inner = data.setdefault(field.name, to_plain(default, full=True))
            if isinstance(inner, dict) and "kind" not in inner:
                _add_sections(cast("dict[str, Any]", inner), type(default))


def _applied_with_sources[ConfigT: RunConfig | ModelConfig](config: ConfigT, changes: list[_Change]) -> ConfigT:
    """Apply overrides, and name the override that caused a problem."""
    try:
        return _applied(config, changes)
    except ConfigError as error:
        raise ConfigError(_with_source(one, changes) for one in error.problems) from None


def _applied[ConfigT: RunConfig | ModelConfig](config: ConfigT, changes: list[_Change]) -> ConfigT:
    """Make a config from the plain data of another one and the changes."""
    data = to_plain(config, full=True)
    for change in changes:
        _set(data, change)
    return cast("ConfigT", config_of(data))


def _set(data: dict[str, Any], change: _Change) -> None:
    """Change one entry of plain data. Missing sections are added; validation reports those that do not exist."""
    *sections, last = change.path.split(".")
    for depth, name in enumerate(sections):
        inner = data.get(name)
        if inner is not None and not isinstance(inner, dict):
            path = ".".join(sections[: depth + 1])
            message = f"`{path}` is a single value and has no fields, but `{shown(change.path)}` was given."
            raise ConfigError((Problem(change.path, message, code="unknown_field"),))
        data[name] = {} if inner is None else inner
        data = data[name]
    if last == "kind" and data.get("kind") != change.value:
        data.clear()
    data[last] = change.value


def _read(text: str) -> _Change | Problem:
    """Parse one override."""
    source = f"{_OPTION} {shown(text)}"
    path, equals, value = text.partition("=")
    path = path.strip()
    if not equals or not all(path.split(".")):
        rule = "an override must be `path=value`, as in `train.steps=5`"
        return Problem("", f"{rule}, but `{shown(text)}` was given.", source=source, code="syntax")
    if not value.strip():
        return _Change(path, None, "", source)
    try:
        document = read_text(value, "yaml", None)
    except ConfigError as error:
        return dataclasses.replace(error.problems[0], path=path, line=None, column=None, source=source)
    if document.problems and value.lstrip().startswith("*"):  # an alias in YAML, but a config has no aliases
        return _Change(path, value.strip(), value.strip(), source)
    if document.problems:
        return dataclasses.replace(document.problems[0], path=path, line=None, column=None, source=source)
    return _Change(path, document.data, value.strip(), source)


def _as_text(change: _Change, error: ConfigError) -> _Change:
    """Return the change with its unparsed text if it is a number, but the field is a string."""
    is_string_field = any(one.path == change.path and one.code == "not_a_string" for one in error.problems)
    if is_string_field and isinstance(change.value, int | float):
        return change._replace(value=change.text)
    return change


def _with_source(problem: Problem, changes: list[_Change]) -> Problem:
    """Return a problem with the override that caused it."""
    for change in changes:
        if problem.path == change.path or problem.path.startswith((f"{change.path}.", f"{change.path}[")):
            return dataclasses.replace(problem, source=change.source)
    for change in changes:
        if change.path.startswith(f"{problem.path}."):
            return dataclasses.replace(problem, source=change.source)
    return dataclasses.replace(problem, source=changes[0].source if len(changes) == 1 else _OPTION)
