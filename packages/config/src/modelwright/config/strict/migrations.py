"""Migrations of old files: one function for each step from a version to the next.

A family that renames a field, or changes its meaning, increases its `version`. For each earlier version it registers a
function that converts plain data of that version to plain data of the next. Reading an old file runs these functions
in a chain.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any

from modelwright.config.problems.problem import ConfigError, Problem
from modelwright.config.strict.by_kind import key_error
from modelwright.config.strict.plain_data import not_plain

__all__ = ["Migration", "migrated", "migration", "missing_migrations"]

type Migration = Callable[[dict[str, Any]], dict[str, Any]]
"""Function from the fields of one version to those of the next; plain data without `kind` and `version`."""

_MIGRATIONS: dict[tuple[str, int], Migration] = {}


def migration(kind: str, from_version: int) -> Callable[[Migration], Migration]:
    """Register the function that converts data of one version to the next; a decorator for a pure function.

    Args:
        kind: The family, or `run` for everything outside the model.
        from_version: Version of the data that the function accepts; it returns the fields of the next version.

    Returns:
        The decorator. It returns the function unchanged.

    Raises:
        ConfigError: If another function is registered for that step, or the version is below 1.
    """
    if from_version < 1:
        message = f"`from_version` must be at least 1, but {from_version} was given for `{kind}`."
        raise ConfigError((Problem("", message),))

    def register(function: Migration) -> Migration:
        taken = _MIGRATIONS.get((kind, from_version))
        if taken is not None and _full_name(taken) != _full_name(function):
            message = (
                f"the migration of `{kind}` from version {from_version} is `{_full_name(taken)}` already; "
                f"`{_full_name(function)}` cannot be another."
            )
            raise ConfigError((Problem("", message),))
        _MIGRATIONS[kind, from_version] = function
        return function

    return register


def migrated(kind: str, fields: Mapping[str, object], *, start: int, end: int) -> dict[str, object]:
    """Run the chain of migrations.

    Args:
        kind: The family, or `run`.
        fields: Plain data of version `start`; it is not changed.
        start: Version of the data.
        end: Version of the result.

    Returns:
        Plain data of version `end`.

    Raises:
        PydanticCustomError: At `version`, if a step is missing, or cannot convert the data.
    """
    data = copy.deepcopy(dict(fields))
    for version in range(start, end):
        step = _MIGRATIONS.get((kind, version))
        if step is None:
            rest = f"of `{kind}` is {version}, but no migration to version {version + 1} is registered; "
            advice = f'its package must define one with `@migration("{kind}", {version})`.'
            raise key_error("version", f"{rest}{advice}", "wrong_version")
        data = _step(step, data, kind, version)
    return data


def missing_migrations(kind: str, version: int) -> list[int]:
    """Return the versions without a migration.

    Args:
        kind: The family, or `run`.
        version: Its current version.

    Returns:
        The earlier versions that cannot be read; empty if all old files can be read.
    """
    return [one for one in range(1, version) if (kind, one) not in _MIGRATIONS]


def _step(step: Migration, data: dict[str, Any], kind: str, version: int) -> dict[str, Any]:
    """Run one step. The data is untrusted and not validated, so the function may raise anything."""
    try:
        made = step(data)
    except Exception as error:  # noqa: BLE001
        rest = f"of `{kind}` is {version}, but the data is not of that version: `{type(error).__name__}: {error}`."
        raise key_error("version", rest, "wrong_version") from None
    if next(not_plain(made), None) is not None:
        rest = f"of `{kind}` is {version}, and its migration must return plain data, but did not."
        raise key_error("version", rest, "wrong_version")
    return made


def _full_name(function: Migration) -> str:
    """Return module and name of a function."""
    return f"{function.__module__}.{getattr(function, '__qualname__', '')}"
