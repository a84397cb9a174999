"""Old files stay readable: one function for each step from a version to the next.

A family that changes what its fields are called or mean raises its `version` and registers, for each version before
it, how plain data of that version becomes plain data of the next. Reading an old file runs the steps in a chain.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any

from modelwright.config.problems.problem import ConfigError, Problem
from modelwright.config.strict.by_kind import key_error
from modelwright.config.strict.plain_data import not_plain

__all__ = ["Migration", "migrated", "migration", "missing_migrations"]

type Migration = Callable[[dict[str, Any]], dict[str, Any]]
"""From the fields of one version to the fields of the next; plain data without `kind` and `version`."""

_MIGRATIONS: dict[tuple[str, int], Migration] = {}


def migration(kind: str, from_version: int) -> Callable[[Migration], Migration]:
    """Register how data of one version becomes data of the next; a decorator for a pure function.

    Args:
        kind: The family, or `run` for what surrounds the model.
        from_version: The version that the function takes; it returns the fields of the next one.

    Returns:
        The decorator. It returns the function as it is.

    Raises:
        ConfigError: If another function has that step, or the version is not at least 1.
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
        fields: Plain data of version `start`; it stays as it is.
        start: The version of the data.
        end: The version that is wanted.

    Returns:
        Plain data of version `end`.

    Raises:
        PydanticCustomError: At `version`, if a step is missing, or cannot do anything with the data.
    """
    data = copy.deepcopy(dict(fields))
    for version in range(start, end):
        step = _MIGRATIONS.get((kind, version))
        if step is None:
            rest = f"of `{kind}` is {version}, but nothing is registered that makes version {version + 1} of it; "
            raise key_error("version", f'{rest}its package must bring a `@migration("{kind}", {version})`.')
        data = _step(step, data, kind, version)
    return data


def missing_migrations(kind: str, version: int) -> list[int]:
    """The steps that a family should have registered and has not.

    Args:
        kind: The family, or `run`.
        version: Its current version.

    Returns:
        The versions that cannot be read any more; none, if old files stay readable.
    """
    return [one for one in range(1, version) if (kind, one) not in _MIGRATIONS]


def _step(step: Migration, data: dict[str, Any], kind: str, version: int) -> dict[str, Any]:
    """One step. The data is a stranger's and has not been validated, so the function may fail in any way."""
    try:
        made = step(data)
    except Exception as error:  # noqa: BLE001
        rest = f"of `{kind}` is {version}, but the data is not of that version: `{type(error).__name__}: {error}`."
        raise key_error("version", rest) from None
    if next(not_plain(made), None) is not None:
        rest = f"of `{kind}` is {version}, and its migration must return plain data, but did not."
        raise key_error("version", rest)
    return made


def _full_name(function: Migration) -> str:
    """Module and name of a function."""
    return f"{function.__module__}.{getattr(function, '__qualname__', '')}"
