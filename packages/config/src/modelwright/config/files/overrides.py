"""Overrides: `train.steps=5`, as the command line takes them."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

from modelwright.config.files.load import from_plain
from modelwright.config.files.reader import read_text
from modelwright.config.model.base import ModelConfig
from modelwright.config.problems.problem import ConfigError, Problem
from modelwright.config.run.run import RunConfig
from modelwright.config.strict.by_kind import shown
from modelwright.config.strict.plain_data import to_plain

__all__ = ["apply_changes", "override"]

_OPTION = "--set"


class _Change(NamedTuple):
    """One override, read."""

    path: str
    value: object
    text: str
    source: str


def override[ConfigT: RunConfig | ModelConfig](config: ConfigT, changes: str | Sequence[str]) -> ConfigT:
    """A copy of a config with fields changed by their dotted paths.

    Args:
        config: A run or a model; it stays as it is.
        changes: `path=value`, or several. A value is read as YAML 1.2 (`1e-5`, `null`, `[1, 2]`, `"quoted"`); where
            the field is a string, an unquoted value is taken as it is written. Setting a `kind` drops the other
            fields of that section.

    Returns:
        The copy, validated like a file.

    Raises:
        ConfigError: With everything that is wrong, each with the override that it comes from.
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
    """Apply overrides to plain data that has yet to be validated.

    Args:
        data: Plain data; it is changed.
        changes: `path=value`, as `override` takes them.

    Returns:
        The data.

    Raises:
        ConfigError: If one of them cannot be read.
    """
    read = [_read(text) for text in changes]
    problems = [found for found in read if isinstance(found, Problem)]
    if problems:
        raise ConfigError(problems)
    for found in read:
        if isinstance(found, _Change):
            _set(data, found)
    return data


def _applied_with_sources[ConfigT: RunConfig | ModelConfig](config: ConfigT, changes: list[_Change]) -> ConfigT:
    """Apply, and say which override a problem comes from."""
    try:
        return _applied(config, changes)
    except ConfigError as error:
        raise ConfigError(_with_source(one, changes) for one in error.problems) from None


def _applied[ConfigT: RunConfig | ModelConfig](config: ConfigT, changes: list[_Change]) -> ConfigT:
    """A new config from the plain data of the old one and the changes."""
    data = to_plain(config, full=True)
    for change in changes:
        _set(data, change)
    return cast("ConfigT", from_plain(data))


def _set(data: dict[str, Any], change: _Change) -> None:
    """Change one entry of plain data; sections that are not there are made, for validation to judge."""
    *sections, last = change.path.split(".")
    for depth, name in enumerate(sections):
        inner = data.get(name)
        if inner is not None and not isinstance(inner, dict):
            path = ".".join(sections[: depth + 1])
            raise ConfigError(
                (
                    Problem(
                        change.path,
                        f"`{path}` is a single value and has no fields, but `{shown(change.path)}` was given.",
                    ),
                )
            )
        data[name] = {} if inner is None else inner
        data = data[name]
    if last == "kind" and data.get("kind") != change.value:
        data.clear()
    data[last] = change.value


def _read(text: str) -> _Change | Problem:
    """Split and read one override."""
    source = f"{_OPTION} {shown(text)}"
    path, equals, value = text.partition("=")
    path = path.strip()
    if not equals or not all(path.split(".")):
        rule = "an override must be `path=value`, as in `train.steps=5`"
        return Problem("", f"{rule}, but `{shown(text)}` was given.", source=source)
    if not value.strip():
        return _Change(path, None, "", source)
    try:
        document = read_text(value, "yaml", None)
    except ConfigError as error:
        return dataclasses.replace(error.problems[0], path=path, line=None, column=None, source=source)
    if document.problems and value.lstrip().startswith("*"):  # an alias in YAML, which a config has none of
        return _Change(path, value.strip(), value.strip(), source)
    if document.problems:
        return dataclasses.replace(document.problems[0], path=path, line=None, column=None, source=source)
    return _Change(path, document.data, value.strip(), source)


def _as_text(change: _Change, error: ConfigError) -> _Change:
    """The change with its text for a value, if the field turned out to be a string and a number was read."""
    wants_text = any(
        one.path == change.path and one.message.startswith(f"`{change.path}` must be a string")
        for one in error.problems
    )
    if wants_text and isinstance(change.value, int | float):
        return change._replace(value=change.text)
    return change


def _with_source(problem: Problem, changes: list[_Change]) -> Problem:
    """A problem with the override that it comes from."""
    for change in changes:
        if problem.path == change.path or problem.path.startswith((f"{change.path}.", f"{change.path}[")):
            return dataclasses.replace(problem, source=change.source)
    for change in changes:
        if change.path.startswith(f"{problem.path}."):
            return dataclasses.replace(problem, source=change.source)
    return dataclasses.replace(problem, source=changes[0].source if len(changes) == 1 else _OPTION)
