"""Configs as plain data, and the check that data is plain.

Plain data is what JSON can hold: `None`, booleans, numbers, strings, lists, and dicts with string keys. A config with a
`kind` writes it first; a model config writes its `version` where it matters, and its passed-through engine fields last.
"""

import dataclasses
import enum
import json
from collections.abc import Iterator, Mapping
from typing import Any, cast

from modelwright.config.problems.problem import Problem
from modelwright.config.problems.pydantic_errors import Loc, described, dotted
from modelwright.config.strict.config_class import Config

__all__ = ["DEPTH_LIMIT", "canonical", "is_half_pair", "nests_too_deep", "not_plain", "plain_value", "to_plain"]

DEPTH_LIMIT = 64
"""How deep a document may nest."""


def to_plain(config: Config, *, full: bool) -> dict[str, Any]:
    """A config as plain data.

    Args:
        config: The config.
        full: Every field, or only the ones that differ from their defaults.

    Returns:
        A new dict in the order of the fields.
    """
    data: dict[str, Any] = {}
    kind, version = getattr(config, "kind", None), getattr(config, "version", None)
    if kind is not None:
        data["kind"] = kind
    if version is not None and (full or version != 1):
        data["version"] = version
    for field in _ordered(config):
        value = getattr(config, field.name)
        if full or field.name == "modelwright" or not _is_default(value, field):
            data[field.name] = plain_value(value, full=full)
    return data


def canonical(data: object) -> str:
    """Plain data as the one JSON text that stands for it.

    Args:
        data: Plain data.

    Returns:
        JSON with sorted keys and no spaces; `NaN` and `Infinity` as Python writes them.
    """
    return json.dumps(data, sort_keys=True, separators=(",", ":"))


def not_plain(data: object, loc: Loc = ()) -> Iterator[Problem]:
    """What keeps data from being plain.

    Args:
        data: Anything.
        loc: Where it stands in the whole.

    Yields:
        A problem for each value that a file could not hold.
    """
    if len(loc) > DEPTH_LIMIT:
        yield Problem(dotted(loc), f"`{dotted(loc[:3])}` nests deeper than {DEPTH_LIMIT} levels.")
    elif isinstance(data, Mapping):
        yield from _mapping_not_plain(cast("Mapping[object, object]", data), loc)
    elif isinstance(data, list | tuple):
        for index, item in enumerate(cast("list[object]", data)):
            yield from not_plain(item, (*loc, index))
    elif isinstance(data, str):
        if is_half_pair(data):
            yield Problem(dotted(loc), f"`{dotted(loc)}` holds half of a surrogate pair, which is no character.")
    elif data is not None and not isinstance(data, bool | int | float):
        yield Problem(dotted(loc), f"`{dotted(loc)}` must be plain data, but {described(data)} was given.")


def nests_too_deep(data: object, levels: int = DEPTH_LIMIT) -> bool:
    """Whether data nests deeper than a document may.

    Args:
        data: Plain data.
        levels: How many levels are left.

    Returns:
        True if a mapping or list stands below the last level.
    """
    if not isinstance(data, Mapping | list | tuple):
        return False
    items = cast("Mapping[str, object]", data).values() if isinstance(data, Mapping) else cast("list[object]", data)
    return levels == 0 or any(nests_too_deep(item, levels - 1) for item in items)


def is_half_pair(text: str) -> bool:
    """Whether a string holds half of a surrogate pair, which Python allows and no file can hold.

    Args:
        text: Any string.

    Returns:
        True if it cannot be written.
    """
    return any("\ud800" <= ch <= "\udfff" for ch in text)


def _mapping_not_plain(data: Mapping[object, object], loc: Loc) -> Iterator[Problem]:
    """What keeps a mapping from being plain."""
    for key, value in data.items():
        if isinstance(key, str):
            yield from not_plain(value, (*loc, key))
        else:
            yield Problem(dotted(loc), f"the key `{key!r}` must be a string.")


def _ordered(config: Config) -> list[dataclasses.Field[Any]]:
    """The fields of the class itself, then `engine`, which the base of model configs brings."""
    return sorted(dataclasses.fields(config), key=lambda field: field.name == "engine")


def plain_value(value: object, *, full: bool) -> object:
    """One value as plain data.

    Args:
        value: The value of a field, or part of one.
        full: Every field of a config in it, or only those that differ from their defaults.

    Returns:
        Plain data; the value of an enum's member stands for it.
    """
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Config):
        return to_plain(value, full=full)
    if isinstance(value, Mapping):
        return {key: plain_value(item, full=full) for key, item in cast("Mapping[str, object]", value).items()}
    if isinstance(value, list | tuple):
        return [plain_value(item, full=full) for item in cast("list[object]", value)]
    return value


def _is_default(value: object, field: dataclasses.Field[Any]) -> bool:
    """Whether a field holds its default, to the last sign of a zero."""
    if field.default is dataclasses.MISSING:
        return False
    return type(value) is type(field.default) and canonical(plain_value(value, full=True)) == canonical(
        plain_value(field.default, full=True)
    )
