"""pydantic's errors in the project's words.

pydantic finds every error with its path; this names the field, the rule, what was given, and the nearest name that
exists. To know what a path could have held it walks the annotations of the config classes beside the data.
"""

import dataclasses
import enum
import functools
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, cast

from pydantic import ValidationError

from modelwright.config.problems.problem import BrokenRulesError, Problem
from modelwright.config.strict.by_kind import ByKind, quoted_list, shown
from modelwright.protocols import did_you_mean

__all__ = ["Loc", "described", "dotted", "problems_of"]

type Loc = tuple[str | int, ...]

_LARGE = 10**40
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
    """Everything that pydantic found.

    Args:
        error: What it raised.
        cls: The config class that was validated.
        data: The plain data, or the keyword arguments, that it was given.

    Yields:
        A problem for each error, with its path from `cls` down.
    """
    for entry in error.errors(include_url=False):
        yield from _problems(cast("dict[str, Any]", entry), cls, data)


def dotted(loc: Loc) -> str:
    """A location as a path.

    Args:
        loc: Names of fields and indices into lists.

    Returns:
        For instance `model.engine.sizes[0]`.
    """
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f"{'.' if text else ''}{shown(part)}"
    return text


def described(value: object) -> str:
    """A value as a message shows it.

    Args:
        value: What was given.

    Returns:
        For instance `null`, `2.5`, `the string "a"`, `a list`.
    """
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return f'the string "{shown(value)}"'
    if isinstance(value, int | float):
        return "a very large integer" if isinstance(value, int) and abs(value) >= _LARGE else repr(value)
    if isinstance(value, Mapping):
        return "a mapping"
    return "a list" if isinstance(value, list | tuple) else f"a `{type(value).__name__}`"


def _problems(entry: dict[str, Any], cls: type, data: object) -> Iterator[Problem]:
    """What one of pydantic's errors says."""
    kind, loc, context = str(entry["type"]), cast("Loc", entry["loc"]), entry.get("ctx", {})
    path = dotted(loc)
    broken = context.get("error")
    if isinstance(broken, BrokenRulesError):
        yield from _placed(broken, path)
    elif kind == "modelwright_key":
        at = dotted((*loc, str(context["key"])))
        yield Problem(at, f"`{at}` {context['rest']}")
    elif kind == "unexpected_keyword_argument":
        yield Problem(path, _unknown_field(loc, cls, data))
    elif kind == "missing":
        yield Problem(path, f"`{path}` is missing; `{_label(_owner(cls, loc[:-1], data))}` needs it.")
    else:
        yield Problem(path, _wrong_value(kind, loc, entry, cls, data))


def _placed(broken: BrokenRulesError, path: str) -> Iterator[Problem]:
    """The problems of a section's own rules, seen from the top."""
    for problem in broken.problems:
        message = problem.message if "`" in problem.message.split(" ", 1)[0] else f"`{path}` {problem.message}"
        placed = dataclasses.replace(problem, message=message)
        yield placed.under(path) if path else placed


def _wrong_value(kind: str, loc: Loc, entry: dict[str, Any], cls: type, data: object) -> str:
    """The message for a value of the wrong type or outside its bounds."""
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
    null = " or null" if _takes_null(cls, loc, data) else ""
    return f"`{dotted(loc)}` must be {expected}{null}, but {described(value)} was given{near}"


def _unknown_field(loc: Loc, cls: type, data: object) -> str:
    """The message for a key that no field has."""
    owner = _owner(cls, loc[:-1], data)
    names = [] if owner is None else [field.name for field in dataclasses.fields(cast("Any", owner))]
    end = did_you_mean(str(loc[-1]), names) or f"; it has {quoted_list(names)}."
    return f"`{dotted(loc)}` is not a field of `{_label(owner)}`{end}"


def _label(cls: type | None) -> str:
    """What users call a config class: its kind, or the name of the class."""
    return "" if cls is None else str(getattr(cls, "kind", cls.__name__))


def _owner(cls: type, loc: Loc, data: object) -> type | None:
    """The config class at a location."""
    owner: type | None = cls
    for part in loc:
        if owner is None or not isinstance(part, str):
            return None
        annotation = _annotations(owner).get(part)
        data = cast("Mapping[str, object]", data).get(part) if isinstance(data, Mapping) else getattr(data, part, None)
        owner = _config_class(annotation, data)
    return owner


def _config_class(annotation: Any, data: object) -> type | None:
    """The config class that a field with this annotation makes of this data."""
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
    """The annotations of a class, with their markers."""
    return typing.get_type_hints(cls, include_extras=True)


def _field_annotation(cls: type, loc: Loc, data: object) -> Any:
    """The annotation of the field at a location."""
    owner = _owner(cls, loc[:-1], data)
    return _annotations(owner).get(str(loc[-1])) if owner is not None and loc else None


def _takes_null(cls: type, loc: Loc, data: object) -> bool:
    """Whether the field at a location may be null."""
    return types.NoneType in typing.get_args(_field_annotation(cls, loc, data))


def _options(cls: type, loc: Loc, data: object) -> list[str]:
    """The values of the `Literal` or the enum at a location."""
    annotation = _field_annotation(cls, loc, data)
    members = [annotation, *typing.get_args(annotation)]
    literals = [one for one in members if typing.get_origin(one) is typing.Literal]
    enums = [one for one in members if isinstance(one, type) and issubclass(one, enum.Enum)]
    values = [value for literal in literals for value in typing.get_args(literal)]
    return [str(value) for value in [*values, *(member.value for one in enums for member in one)]]
