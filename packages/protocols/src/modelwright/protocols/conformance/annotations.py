"""Compares annotations without evaluating them.

Nothing is imported or run. A dotted name is looked up in the module of its function, and two return annotations are
compared as text. If that is not conclusive, the result is "unknown".
"""

import ast
import builtins
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from modelwright.protocols.conformance.signatures import annotation_text

_DOTTED_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
_SCALARS = frozenset({"None", "bool", "bytes", "dict", "float", "int", "list", "set", "str"})
_KNOWN = _SCALARS | {"Tensor", "tuple"}


def class_named_by(annotation: object, function: Callable[..., object]) -> type | None:
    """Find the class that an annotation of `function` names.

    Args:
        annotation: A class, or source text (as under `from __future__ import annotations`).
        function: Function with the annotation; names are looked up in its module.

    Returns:
        The class, or `None` if the annotation is absent, is `Any`, is not a plain name or cannot be found.
    """
    found = annotation
    if isinstance(annotation, str):
        namespace = getattr(inspect.unwrap(function), "__globals__", {})
        found = _look_up(annotation.strip("\"' "), namespace)
    if not isinstance(found, type) or found in (Any, inspect.Signature.empty, object):
        return None
    return found


def _look_up(name: str, namespace: Mapping[str, object]) -> object:
    if not _DOTTED_NAME.fullmatch(name):
        return None
    first, *rest = name.split(".")
    found = namespace.get(first, getattr(builtins, first, None))
    for part in rest:
        found = inspect.getattr_static(found, part, None)
    return found


def contradicts(wanted: object, given: object) -> bool:
    """Return whether a value annotated `given` certainly contradicts the annotation `wanted`.

    Args:
        wanted: The Protocol's return annotation.
        given: The candidate's return annotation.

    Returns:
        True only if both consist of known names and cannot agree.
    """
    if inspect.Signature.empty in (wanted, given):
        return False
    return _contradict(_parse(wanted), _parse(given))


type _Shape = tuple[str, tuple["_Shape", ...]]
"""A name and its arguments: `("tuple", (("Tensor", ()), ("None", ())))`. Unions are named `|`, unknown types `?`."""

_UNKNOWN: _Shape = ("?", ())


def _contradict(wanted: _Shape, given: _Shape) -> bool:
    if given[0] == "|":
        return any(_contradict(wanted, member) for member in given[1])
    if wanted[0] == "|":
        return all(_contradict(member, given) for member in wanted[1])
    if wanted[0] not in _KNOWN or given[0] not in _KNOWN:
        return False
    if (wanted[0], given[0]) in {("float", "int"), ("float", "bool"), ("int", "bool")}:
        return False
    if wanted[0] != given[0]:
        return True
    return _tuples_contradict(wanted[1], given[1])


def _tuples_contradict(wanted: tuple[_Shape, ...], given: tuple[_Shape, ...]) -> bool:
    if not wanted or not given or _UNKNOWN in (wanted[-1], given[-1]):
        return False
    if len(wanted) != len(given):
        return True
    return any(_contradict(one, other) for one, other in zip(wanted, given, strict=True))


def _parse(annotation: object) -> _Shape:
    text = "None" if annotation is None else annotation_text(annotation)
    try:
        return _shape(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return _UNKNOWN


def _shape(node: ast.expr) -> _Shape:
    match node:
        case ast.Constant(value=None):
            return ("None", ())
        case ast.Constant(value=str(text)):
            return _parse(text)
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return ("tuple" if name == "Tuple" else name, ())
        case ast.BinOp(op=ast.BitOr(), left=left, right=right):
            return ("|", (_shape(left), _shape(right)))
        case ast.Subscript(value=value, slice=argument):
            return _subscript(_shape(value)[0], argument)
        case _:
            return _UNKNOWN


def _subscript(name: str, argument: ast.expr) -> _Shape:
    items = argument.elts if isinstance(argument, ast.Tuple) else [argument]
    if name == "Optional":
        return ("|", (_shape(argument), ("None", ())))
    if name == "Union":
        return ("|", tuple(_shape(item) for item in items))
    if name == "tuple":
        return ("tuple", tuple(_shape(item) for item in items))
    return (name, ()) if name in _KNOWN else _UNKNOWN
