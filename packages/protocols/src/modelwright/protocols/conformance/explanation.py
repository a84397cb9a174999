"""`explain` and `parts_of`: report the source of each constructor argument of a part and of the parts inside it.

`parts_of` returns data and `explain` returns text. Nothing is built: both read the signatures of builders that are
bound, adapted or stored in a spec.
"""

import dataclasses
import functools
import inspect
import reprlib
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from inspect import Parameter, Signature
from typing import Any, Literal

from modelwright.protocols.conformance.adapted import Adapted, Source, asked_names, name_of, read_signature
from modelwright.protocols.errors import ConformanceError
from modelwright.protocols.slot_table import SLOTS

type _Origin = Literal["slot", "default", "bound", "derived", "dropped", "missing"]
"""Source of an argument. `missing`: the part requires it, but nothing provides it."""


@dataclass(frozen=True)
class Argument:
    """One argument of a part's constructor, or one argument of the slot that the part does not receive."""

    name: str
    """Name of the parameter in the constructor."""
    origin: _Origin
    """Source of the value."""
    detail: str = ""
    """Value, expression, or name of the slot's argument. Empty: nothing to add."""


@dataclass(frozen=True)
class Part:
    """The part that fills one slot."""

    name: str
    """Name of the class or function."""
    slot: str
    """Name of the slot's Builder. Empty: unknown."""
    arguments: tuple[Argument, ...]
    """Arguments in the order of the constructor, followed by dropped ones."""
    parts: "tuple[tuple[str, Part | None], ...]" = ()
    """Slots inside the part and their parts, by name. `None`: the slot is not set."""


def explain(builder: Callable[..., object], slot: type[object] | None = None, /) -> str:
    """Report the source of each constructor argument of a part, as text.

    Args:
        builder: Builder that fills a slot: a class, a function or a spec, possibly bound or adapted.
        slot: Builder of the slot. None: arguments without a default are assumed to come from the slot.

    Returns:
        A line for each argument with its name, origin, and value or expression. Parts inside the part are indented
        below it.

    Raises:
        ConformanceError: The signature of a part cannot be read.
    """
    return "\n".join(_lines(parts_of(builder, slot)))


def parts_of(builder: Callable[..., object], slot: type[object] | None = None, /) -> Part:
    """Report the source of each constructor argument of a part, as data.

    Args:
        builder: Builder that fills a slot: a class, a function or a spec, possibly bound or adapted.
        slot: Builder of the slot. None: arguments without a default are assumed to come from the slot.

    Returns:
        The part, with the parts inside it.

    Raises:
        ConformanceError: The signature of a part cannot be read.
    """
    offer = _Offer(None) if slot is None else _offer(slot)
    arguments = tuple(_arguments(builder, offer))
    return Part(name_of(_core(builder)), slot.__name__ if slot else "", arguments, tuple(_parts(builder)))


@dataclass(frozen=True)
class _Offer:
    """The arguments of a call, by position and by name. `keywords` is `None` if they are unknown."""

    keywords: dict[str, Argument] | None
    positions: tuple[Argument, ...] = ()


def _offer(slot: type[object]) -> _Offer:
    call = inspect.signature(slot.__call__)
    passed = list(call.parameters.values())[1:]
    positional = tuple(
        Argument(p.name, "slot") for p in passed if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    )
    keywords = {
        p.name: Argument(p.name, "slot", "" if p.default is Parameter.empty else "sometimes")
        for p in passed
        if p.kind is Parameter.KEYWORD_ONLY
    }
    return _Offer(keywords, positional)


def _arguments(builder: Any, offer: _Offer) -> Iterator[Argument]:
    """Yield the arguments of the innermost class or function for the arguments that the slot passes."""
    if isinstance(builder, functools.partial):
        yield from _bound(builder, offer)  # pyright: ignore[reportUnknownArgumentType]
    elif isinstance(builder, Adapted):
        yield from _adapted(builder, offer)  # pyright: ignore[reportUnknownArgumentType]
    else:
        yield from _matched(builder, offer)


def _bound(builder: "functools.partial[Any]", offer: _Offer) -> Iterator[Argument]:
    bound = {name: Argument(name, "bound", _shown(value)) for name, value in builder.keywords.items()}
    positions = (*(Argument("", "bound", _shown(value)) for value in builder.args), *offer.positions)
    if offer.keywords is not None:
        yield from _arguments(builder.func, _Offer(bound | offer.keywords, positions))
        return
    for argument in _arguments(builder.func, _Offer(None, positions)):
        yield bound.get(argument.name, argument)


def _adapted(builder: Adapted[Any], offer: _Offer) -> Iterator[Argument]:
    renamed, derived = dict(builder.rename), dict(builder.derive)
    gone = {*builder.drop, *renamed.values()}
    if offer.keywords is None:
        inner = offer
    else:
        takes = {parameter.name for parameter in builder.parameters}
        roots = set(builder.roots)
        kept = {n: a for n, a in offer.keywords.items() if n not in gone and (n in takes or n not in roots)}
        given = {
            name: replace(offer.keywords[outer], name=name, detail=f"`{outer}`")
            for name, outer in renamed.items()
            if outer in offer.keywords
        }
        inner = _Offer(kept | given, offer.positions)
    for argument in _arguments(builder.builder, inner):
        if argument.name in derived:
            yield Argument(argument.name, "derived", _expression(derived[argument.name]))
        elif argument.name in renamed and offer.keywords is None:
            yield Argument(argument.name, "slot", f"`{renamed[argument.name]}`")
        else:
            yield argument
    yield from (Argument(name, "dropped") for verb, name in asked_names(builder) if verb == "drops")


def _matched(builder: Any, offer: _Offer) -> Iterator[Argument]:
    given = _signature(builder)
    positions = list(offer.positions)
    keywords = dict(offer.keywords or {})
    for parameter in given.parameters.values():
        if parameter.kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD) and positions:
            found = positions.pop(0)
            detail = found.detail if found.origin != "slot" or found.name == parameter.name else f"`{found.name}`"
            yield replace(found, name=parameter.name, detail=detail)
        elif parameter.name in keywords and parameter.kind is not Parameter.POSITIONAL_ONLY:
            yield _offered(keywords.pop(parameter.name), parameter)
        elif parameter.kind not in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD):
            yield _not_offered(parameter, known=offer.keywords is not None)
    if any(parameter.kind is Parameter.VAR_KEYWORD for parameter in given.parameters.values()):
        yield from keywords.values()


def _offered(argument: Argument, parameter: Parameter) -> Argument:
    if argument.detail != "sometimes":
        return argument
    return replace(argument, detail=f"sometimes, else {_shown(parameter.default)}")


def _not_offered(parameter: Parameter, *, known: bool) -> Argument:
    if parameter.default is not Parameter.empty:
        return Argument(parameter.name, "default", _shown(parameter.default))
    return Argument(parameter.name, "missing" if known else "slot")


def _signature(builder: Any) -> Signature:
    given, unreadable = read_signature(builder)
    if given is None:
        raise ConformanceError(f"`{name_of(builder)}` cannot be explained", [unreadable])
    return given


def _expression(source: Source) -> str:
    return (
        source if isinstance(source, str) else f"{name_of(source)}({', '.join(inspect.signature(source).parameters)})"
    )


def _shown(value: object) -> str:
    if callable(value) or dataclasses.is_dataclass(value):
        return name_of(value)
    return reprlib.repr(value)


def _core(builder: Any) -> Any:
    while isinstance(builder, functools.partial | Adapted):
        builder = builder.func if isinstance(builder, functools.partial) else builder.builder
    return builder


def _parts(builder: Any) -> Iterator[tuple[str, Part | None]]:
    """Yield the slots inside a part: the fields of a spec, and bound specs and builders."""
    while isinstance(builder, functools.partial | Adapted):
        if isinstance(builder, Adapted):
            builder = builder.builder
            continue
        for name, value in builder.keywords.items():
            if name == "submodules":
                yield from _fields(value)
            elif _is_builder(value):
                yield name, parts_of(value)
        builder = builder.func
    yield from _fields(builder)


def _fields(holder: Any) -> Iterator[tuple[str, Part | None]]:
    if not dataclasses.is_dataclass(holder) or isinstance(holder, type):
        return
    hints = _hints(type(holder))
    listed = {slot.field: slot.protocol for slot in SLOTS if slot.owner == type(holder).__name__}
    for field in dataclasses.fields(holder):
        value = getattr(holder, field.name)
        protocol = listed.get(field.name) or _protocol(hints.get(field.name))
        if protocol is None and not _is_builder(value):
            continue
        yield field.name, None if value is None else parts_of(value, protocol)


def _hints(kind: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(kind)
    except (NameError, TypeError, AttributeError):
        return {}


def _protocol(annotation: Any) -> type[object] | None:
    options = typing.get_args(annotation) or (annotation,)
    found = [option for option in options if getattr(option, "_is_protocol", False)]
    return found[0] if found and found[0].__name__.endswith("Builder") else None


def _is_builder(value: object) -> bool:
    if isinstance(value, functools.partial | Adapted):
        return True
    if isinstance(value, type):
        return callable(getattr(value, "forward", None))
    return dataclasses.is_dataclass(value) and callable(value)


def _lines(part: Part, label: str = "", depth: int = 0) -> Iterator[str]:
    indent = "  " * depth
    fills = f" fills {part.slot}" if part.slot else ""
    yield f"{indent}{label}{part.name}{fills}"
    width = max((len(argument.name) for argument in part.arguments), default=0)
    for argument in part.arguments:
        yield f"{indent}  {argument.name:<{width}}  {argument.origin:<7}  {argument.detail}".rstrip()
    for name, inner in part.parts:
        if inner is None:
            yield f"{indent}  {name}: not set"
        else:
            yield from _lines(inner, f"{name}: ", depth + 1)
