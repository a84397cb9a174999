"""Translation of pydantic's errors into problems.

pydantic finds every error with its path. This module names the field, the rule, the given value, and the nearest name
that exists. It finds the choices of a field by walking the annotations of the config classes in parallel to the data.
"""

import dataclasses
import enum
import functools
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, cast

from pydantic import ValidationError

from modelwright.config.problems.problem import BrokenRulesError, Problem, ProblemCode
from modelwright.config.problems.wording import Loc, described, dotted, quoted_list
from modelwright.config.strict.by_kind import ByKind
from modelwright.protocols import did_you_mean

__all__ = ["problems_of"]

_TYPES = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "int_parsing_size": "an integer of at most 4300 digits",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "a string",
    "dataclass_type": "a mapping",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "tuple_type": "a list",
    "list_type": "a list",
}
_BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("above", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("below", "lt"),
}


def problems_of(error: ValidationError, cls: type, data: object) -> Iterator[Problem]:
    """Return everything that pydantic found.

    Args:
        error: The exception that pydantic raised.
        cls: The config class that was validated.
        data: The plain data, or the keyword arguments, that pydantic validated.

    Yields:
        A problem for each error, with its path from `cls` down.
    """
    for entry in error.errors(include_url=False):
        yield from _problems(cast("dict[str, Any]", entry), cls, data)


def _problems(entry: dict[str, Any], cls: type, data: object) -> Iterator[Problem]:
    """Translate one of pydantic's errors."""
    kind, loc, context = str(entry["type"]), cast("Loc", entry["loc"]), entry.get("ctx", {})
    path = dotted(loc)
    broken = context.get("error")
    if isinstance(broken, BrokenRulesError):
        yield from (problem.under(path) if path else problem for problem in broken.problems)
    elif kind == "modelwright_key":
        at = dotted((*loc, str(context["key"])))
        yield Problem(at, f"`{at}` {context['rest']}", code=context["code"])
    elif kind == "unexpected_keyword_argument":
        yield Problem(path, _unknown_field(loc, cls, data), code="unknown_field")
    elif kind == "missing":
        owner = _label(_owner(cls, loc[:-1], data))
        yield Problem(path, f"`{path}` is missing; `{owner}` needs it.", code="missing_field")
    else:
        yield Problem(path, _wrong_value(kind, loc, entry, cls, data), code=_code(kind))


def _code(kind: str) -> ProblemCode:
    """Return the code of a value that pydantic refuses."""
    if kind == "string_type":
        return "not_a_string"
    return (
        "wrong_type"
        if (kind in _TYPES and kind != "finite_number") or kind == "modelwright_expected"
        else "wrong_value"
    )


def _wrong_value(kind: str, loc: Loc, entry: dict[str, Any], cls: type, data: object) -> str:
    """Return the message for a value of the wrong type or out of bounds."""
    context, value, near = entry.get("ctx", {}), entry.get("input"), "."
    if kind in _TYPES:
        expected = _TYPES[kind]
    elif kind in _BOUNDS:
        words, key = _BOUNDS[kind]
        expected = f"{words} {context[key]}"
    elif kind == "modelwright_expected":
        expected = str(context["expected"])
    elif kind in {"literal_error", "enum"}:
        options = _options(cls, loc, data)
        expected = quoted_list(options, "or")
        near = (did_you_mean(value, options) if isinstance(value, str) else "") or "."
    else:
        name = f"`{dotted(loc)}`" if loc else "the config"
        return f"{name} is not valid: {str(entry['msg'])[:1].lower()}{str(entry['msg'])[1:]}."
    null = " or null" if _accepts_null(cls, loc, data) else ""
    return f"`{dotted(loc)}` must be {expected}{null}, but {described(value)} was given{near}"


def _unknown_field(loc: Loc, cls: type, data: object) -> str:
    """Return the message for a key that is not a field."""
    owner = _owner(cls, loc[:-1], data)
    names = [] if owner is None else [field.name for field in dataclasses.fields(cast("Any", owner))]
    end = did_you_mean(str(loc[-1]), names) or f"; it has {quoted_list(names)}."
    return f"`{dotted(loc)}` is not a field of `{_label(owner)}`{end}"


def _label(cls: type | None) -> str:
    """Return the name of a config class in messages: its kind, or the name of the class."""
    return "" if cls is None else str(getattr(cls, "kind", cls.__name__))


def _owner(cls: type, loc: Loc, data: object) -> type | None:
    """Return the config class at a location."""
    owner: type | None = cls
    for part in loc:
        if owner is None or not isinstance(part, str):
            return None
        annotation = _annotations(owner).get(part)
        data = cast("Mapping[str, object]", data).get(part) if isinstance(data, Mapping) else getattr(data, part, None)
        owner = _config_class(annotation, data)
    return owner


def _config_class(annotation: Any, data: object) -> type | None:
    """Return the config class that a field with this annotation makes of this data."""
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        return cast("type", annotation)
    inner = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Annotated:
        for marker in inner[1:]:
            if isinstance(marker, ByKind) and isinstance(data, Mapping):
                return marker.member(str(cast("Mapping[str, object]", data).get("kind")))
        inner = inner[:1]
    return next((found for one in inner if (found := _config_class(one, data)) is not None), None)


@functools.cache
def _annotations(cls: type) -> dict[str, Any]:
    """Return the annotations of a class, with their markers."""
    return typing.get_type_hints(cls, include_extras=True)


def _field_annotation(cls: type, loc: Loc, data: object) -> Any:
    """Return the annotation of the field at a location."""
    owner = _owner(cls, loc[:-1], data)
    return _annotations(owner).get(str(loc[-1])) if owner is not None and loc else None


def _accepts_null(cls: type, loc: Loc, data: object) -> bool:
    """Return True if the field at a location may be null."""
    return types.NoneType in typing.get_args(_field_annotation(cls, loc, data))


def _options(cls: type, loc: Loc, data: object) -> list[str]:
    """Return the values of the `Literal` or the enum at a location."""
    annotation = _field_annotation(cls, loc, data)
    members = [annotation, *typing.get_args(annotation)]
    literals = [one for one in members if typing.get_origin(one) is typing.Literal]
    enums = [one for one in members if isinstance(one, type) and issubclass(one, enum.Enum)]
    values = [value for literal in literals for value in typing.get_args(literal)]
    return [str(value) for value in [*values, *(member.value for one in enums for member in one)]]
