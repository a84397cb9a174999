"""Values of `engine:` in the engine's types, as its annotations declare them."""

import collections.abc
import enum
import types
import typing
from typing import Any, Literal

import torch

from modelwright.config import quoted_list

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Dtypes by their names in configs."""


def engine_value(value: Any, hint: Any) -> Any:
    """Convert a plain value to the engine's type: lists for sequences, members of enums and dtypes for their names.

    Args:
        value: Plain value of a config.
        hint: The engine's annotation of the field.

    Returns:
        The value; unchanged if the annotation has no type for it.
    """
    options = _options(hint)
    if isinstance(value, tuple):
        inner = next((typing.get_args(option)[0] for option in options if typing.get_args(option)), Any)
        return _engine_values(value, inner)  # pyright: ignore[reportUnknownArgumentType]
    if not isinstance(value, str) or _fits(value, hint):
        return value
    named = [option.__members__[value] for option in options if _is_enum(option) and value in option.__members__]
    if torch.dtype in options and value in DTYPES:
        named.append(DTYPES[value])
    return named[0] if named else value


def misfit(name: str, value: Any, hint: Any) -> str:
    """Compare a value with the engine's annotation.

    Args:
        name: Name of the field.
        value: Its value, from `engine_value`.
        hint: The engine's annotation.

    Returns:
        The message about a value of a wrong type; "" if the type is right.
    """
    if _fits(value, hint):
        return ""
    options = _options(hint)
    if any(typing.get_origin(option) is collections.abc.Callable for option in options):
        return f"`engine.{name}` is a function, which a config cannot contain; leave it out."
    members = [member for option in options if _is_enum(option) for member in option.__members__]
    expected = quoted_list(members, "or") if members else shown_type(hint)
    return f"`engine.{name}` must be {expected}, but is {value!r}."


def shown_type(hint: Any) -> str:
    """Return the text of a type.

    Args:
        hint: The engine's annotation of a field.

    Returns:
        The name, without the module `typing`.
    """
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")


def _engine_values(items: tuple[Any, ...], hint: Any) -> list[Any]:
    return [engine_value(item, hint) for item in items]


def _options(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the type alone."""
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _is_enum(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, enum.Enum)


def _fits(value: Any, hint: Any) -> bool:
    """Return True if a value has a type that the engine's annotation of a field allows."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, option) for option in args)
    if origin is Literal:
        return value in args
    if origin in (list, tuple):
        return isinstance(value, list) and _all_fit(value, args[0])  # pyright: ignore[reportUnknownArgumentType]
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return hint is Any or (isinstance(hint, type) and isinstance(value, hint))


def _all_fit(items: list[Any], hint: Any) -> bool:
    return all(_fits(item, hint) for item in items)
