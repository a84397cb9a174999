"""The engine's older way to say what fills a slot, turned into a builder: the one place that knows of it."""

import functools
import importlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from modelwright.protocols.conformance.adapted import name_of
from modelwright.protocols.conformance.check import check_conformance
from modelwright.protocols.errors import ConformanceError


class LegacySpec(Protocol):
    """The engine's `ModuleSpec`, as far as it is read here."""

    @property
    def module(self) -> Any:
        """A class, a function, or a module's name and a name in it."""
        ...

    @property
    def params(self) -> Mapping[str, Any]:
        """Arguments bound by name."""
        ...

    @property
    def submodules(self) -> Any:
        """What fills the slots of the part, bound as `submodules` unless it is `None`."""
        ...


def from_module_spec(
    spec: LegacySpec | type[object] | Callable[..., Any] | tuple[str, str], protocol: type[object], /
) -> Callable[..., Any]:
    """Turn what the engine's `build_module` takes into a builder for a slot.

    A class becomes a `functools.partial` with what the spec binds, so that `explain` shows it; a function fills the
    slot itself, as in `build_module`, and the spec may bind nothing to it.

    Args:
        spec: A `ModuleSpec`, a class, a function, or a module's name and a name in it.
        protocol: The Builder of the slot that it is for.

    Returns:
        A builder; assign it to a variable of the Builder's type.

    Raises:
        ConformanceError: If it cannot be found, or does not fit.
    """
    part, bound = _opened(spec)
    warnings.warn(
        f"`{name_of(part)}` comes from a `ModuleSpec`, which is deprecated: its arguments cannot be traced. Give the "
        f"slot a builder: a class, a function, or one of them through `functools.partial` or `adapt`.",
        DeprecationWarning,
        stacklevel=2,
    )
    if bound and not isinstance(part, type):
        problem = f"the spec binds {', '.join(f'`{name}`' for name in bound)} to a function, which is never built"
        raise ConformanceError(
            f"`{name_of(part)}` cannot fill `{protocol.__name__}`", [f"{problem}; bind them: `functools.partial`"]
        )
    builder: Callable[..., Any] = functools.partial(part, **bound) if bound else part
    check_conformance(protocol, builder)
    return builder


def _opened(spec: Any) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The class or function of a spec, and what it binds."""
    if isinstance(spec, tuple):
        return _imported(spec), {}  # pyright: ignore[reportUnknownArgumentType]
    if isinstance(spec, type) or not _is_spec(spec):
        return spec, {}
    part = spec.module
    if isinstance(part, tuple):
        part = _imported(part)  # pyright: ignore[reportUnknownArgumentType]
    submodules = {} if spec.submodules is None else {"submodules": spec.submodules}
    return part, {**spec.params, **submodules}


def _is_spec(spec: object) -> bool:
    return {"module", "params", "submodules"} <= set(getattr(spec, "__dict__", ()))


def _imported(place: tuple[Any, ...]) -> Any:
    try:
        module, name = place
        return getattr(importlib.import_module(module), name)
    except (AttributeError, ImportError, TypeError, ValueError) as error:
        raise ConformanceError(
            "a `ModuleSpec` cannot be read",
            [f"{place!r} must be a module's name and a name in it, but: {type(error).__name__}: {error}"],
        ) from error
