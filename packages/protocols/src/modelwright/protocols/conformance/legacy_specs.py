"""`from_module_spec`: converts a `ModuleSpec` of Megatron-Core, the deprecated way to fill a slot, into a builder."""

import functools
import importlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from modelwright.protocols.conformance.adapted import name_of
from modelwright.protocols.conformance.check import check_conformance
from modelwright.protocols.errors import ConformanceError


class LegacySpec(Protocol):
    """The members of the engine's `ModuleSpec` that `from_module_spec` reads."""

    @property
    def module(self) -> Any:
        """A class, a function, or the names of a module and of an object in it."""
        ...

    @property
    def params(self) -> Mapping[str, Any]:
        """Arguments bound by name."""
        ...

    @property
    def submodules(self) -> Any:
        """Parts for the slots of the part, bound as `submodules` unless it is `None`."""
        ...


def from_module_spec(
    spec: LegacySpec | type[object] | Callable[..., Any] | tuple[str, str], protocol: type[object], /
) -> Callable[..., Any]:
    """Convert an argument of the engine's `build_module` into a builder for a slot.

    A class becomes a `functools.partial` with the bound arguments, so that `explain` shows them. A function fills the
    slot directly, as in `build_module`, and the spec must not bind arguments to it.

    Args:
        spec: A `ModuleSpec`, a class, a function, or the names of a module and of an object in it.
        protocol: Builder of the slot to fill.

    Returns:
        A builder; assign it to a variable of the Builder's type.

    Raises:
        ConformanceError: The part cannot be imported or does not fit.
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
    """Return the class or function of a spec, and the arguments that it binds."""
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
