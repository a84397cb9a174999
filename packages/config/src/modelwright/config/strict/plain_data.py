"""Conversion of configs to plain data, and the check that data is plain.

Plain data is the data that JSON can contain: `None`, booleans, numbers, strings, lists, and dicts with string keys. The
plain data of a config begins with its `kind`. That of a model config also has its `version`, if it is above 1, and ends
with the fields that are passed to the engine.
"""

import dataclasses
import enum
import json
from collections.abc import Iterator, Mapping
from typing import Any, cast

from pydantic.fields import FieldInfo

from modelwright.config.problems.problem import Problem
from modelwright.config.problems.wording import Loc, described, dotted
from modelwright.config.strict.config_class import AddedLater, Config

__all__ = [
    "DEPTH_LIMIT",
    "RUN_KEY",
    "canonical",
    "is_half_pair",
    "nests_too_deep",
    "not_plain",
    "plain_value",
    "to_plain",
]

DEPTH_LIMIT = 64
"""Maximum depth of nested mappings and lists in a document."""

RUN_KEY = "modelwright"
"""Key at the top of a run; its value is the version of the file format, which is always written."""


def to_plain(config: Config, *, full: bool, added: bool = True) -> dict[str, Any]:
    """Convert a config to plain data.

    Args:
        config: The config.
        full: True for every field, False for those that differ from their defaults.
        added: False to leave out fields at their default that are marked as `AddedLater`.

    Returns:
        A new dict in the order of the fields.
    """
    data: dict[str, Any] = {}
    kind, version = getattr(config, "kind", None), getattr(config, "version", None)
    if kind is not None:
        data["kind"] = kind
    if version is not None and (full or version != 1):
        data["version"] = version
    later = frozenset[str]() if added else _added_fields(type(config))
    for field in _ordered(config):
        value = getattr(config, field.name)
        kept = full and field.name not in later
        if kept or field.name == RUN_KEY or not _is_default(value, field):
            data[field.name] = plain_value(value, full=full, added=added)
    return data


def _added_fields(cls: type[Config]) -> frozenset[str]:
    """Return the names of the fields that are marked as `AddedLater`."""
    fields: Mapping[str, FieldInfo] = vars(cls)["__pydantic_fields__"]
    return frozenset(
        name for name, field in fields.items() if any(isinstance(mark, AddedLater) for mark in field.metadata)
    )


def canonical(data: object) -> str:
    """Return the canonical JSON text of plain data.

    Args:
        data: Plain data.

    Returns:
        JSON with sorted keys and without spaces; `NaN` and `Infinity` as Python writes them.
    """
    return json.dumps(data, sort_keys=True, separators=(",", ":"))


def not_plain(data: object, loc: Loc = ()) -> Iterator[Problem]:
    """Find the values that a file cannot contain.

    Args:
        data: Any data.
        loc: Location of `data` in the document.

    Yields:
        A problem for each value that is not plain.
    """
    if len(loc) > DEPTH_LIMIT:
        message = f"`{dotted(loc[:3])}` must nest at most {DEPTH_LIMIT} levels deep, but nests deeper."
        yield Problem(dotted(loc), message, code="not_plain")
    elif isinstance(data, Mapping):
        yield from _mapping_not_plain(cast("Mapping[object, object]", data), loc)
    elif isinstance(data, list | tuple):
        for index, item in enumerate(cast("list[object]", data)):
            yield from not_plain(item, (*loc, index))
    elif isinstance(data, str):
        if is_half_pair(data):
            message = f"`{dotted(loc)}` contains half of a surrogate pair, which is not a character."
            yield Problem(dotted(loc), message, code="not_plain")
    elif data is not None and not isinstance(data, bool | int | float):
        message = f"`{dotted(loc)}` must be plain data, but {described(data)} was given."
        yield Problem(dotted(loc), message, code="not_plain")


def nests_too_deep(data: object, levels: int = DEPTH_LIMIT) -> bool:
    """Return True if data nests deeper than a document may.

    Args:
        data: Plain data.
        levels: Number of levels that are allowed.

    Returns:
        True if there is a mapping or list below the last allowed level.
    """
    if not isinstance(data, Mapping | list | tuple):
        return False
    items = cast("Mapping[str, object]", data).values() if isinstance(data, Mapping) else cast("list[object]", data)
    return levels == 0 or any(nests_too_deep(item, levels - 1) for item in items)


def is_half_pair(text: str) -> bool:
    """Return True if a string contains half of a surrogate pair, which Python allows but UTF-8 cannot encode.

    Args:
        text: Any string.

    Returns:
        True if the string cannot be written to a file.
    """
    return any("\ud800" <= ch <= "\udfff" for ch in text)


def _mapping_not_plain(data: Mapping[object, object], loc: Loc) -> Iterator[Problem]:
    """Find the keys and values of a mapping that a file cannot contain."""
    for key, value in data.items():
        if isinstance(key, str):
            yield from not_plain(value, (*loc, key))
        else:
            yield Problem(dotted(loc), f"the key `{key!r}` must be a string.", code="not_plain")


def _ordered(config: Config) -> list[dataclasses.Field[Any]]:
    """Return the fields in the order of a file: `engine`, which the base class of models defines, comes last."""
    return sorted(dataclasses.fields(config), key=lambda field: field.name == "engine")


def plain_value(value: object, *, full: bool, added: bool = True) -> object:
    """Convert one value to plain data.

    Args:
        value: Value of a field, or part of one.
        full: True for every field of a nested config, False for those that differ from their defaults.
        added: False to leave out fields of a nested config as `to_plain` does.

    Returns:
        Plain data; the member of an enum is converted to its value.
    """
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Config):
        return to_plain(value, full=full, added=added)
    if isinstance(value, Mapping):
        items = cast("Mapping[str, object]", value).items()
        return {key: plain_value(item, full=full, added=added) for key, item in items}
    if isinstance(value, list | tuple):
        return [plain_value(item, full=full, added=added) for item in cast("list[object]", value)]
    return value


def _is_default(value: object, field: dataclasses.Field[Any]) -> bool:
    """Return True if a value is the default of its field, down to the sign of a zero."""
    if field.default is dataclasses.MISSING:
        return False
    return type(value) is type(field.default) and canonical(plain_value(value, full=True)) == canonical(
        plain_value(field.default, full=True)
    )
