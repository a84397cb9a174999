"""From typed builders to the two forms that the engine's slots take.

A typed slot of the engine takes any callable. An untyped one goes through the engine's `build_module`, which takes
classes and `ModuleSpec`s only: `as_module_spec` makes one whose construction calls the builder. `check_slots` compares
every builder of a spec with its slot's Protocol when the spec is made, before any group or parameter exists.
"""

import dataclasses
import types
import typing
from collections.abc import Callable
from typing import Any, Protocol

from megatron.core.transformer.spec_utils import ModuleSpec

from modelwright.protocols import check_conformance


class _Built:
    """Stands where the engine wants a class; making one calls the builder and returns what it made."""

    def __new__(cls, *args: Any, builder: Callable[..., Any], **kwargs: Any) -> Any:
        return builder(*args, **kwargs)


def as_module_spec(builder: Callable[..., Any]) -> ModuleSpec:
    """The builder as the engine's `build_module` takes it.

    Args:
        builder: What fills an untyped slot of the engine.

    Returns:
        A fresh `ModuleSpec`.
    """
    return ModuleSpec(module=_Built, params={"builder": builder})


def as_function_spec(function: Callable[..., Any]) -> ModuleSpec:
    """A function that is the part itself, for an untyped slot of the engine that would call a class to make one.

    Args:
        function: What the layer calls on every forward.

    Returns:
        A fresh `ModuleSpec`.
    """

    def build(**_: object) -> Callable[..., Any]:
        return function

    return as_module_spec(build)


def as_engine(part: object) -> Any:
    """A typed part where the engine declares a type of its own.

    The engine's Protocols ask for more than its calls use (defaults, `backward_dw`), and `HybridModel` and
    `HybridStack` name one class where any part would do; what is really called is what our Protocols say.

    Args:
        part: Fills one of our slots.

    Returns:
        The same object.
    """
    return part


def check_slots(spec: Any) -> None:
    """Compare every builder of a spec with the Protocol that its field is annotated with.

    Args:
        spec: A frozen dataclass of builders.

    Raises:
        ConformanceError: The first builder that does not fit its slot; all its mismatches in one message.
    """
    slots = typing.get_type_hints(spec.__class__)
    for field in dataclasses.fields(spec):
        builder = getattr(spec, field.name)
        if builder is not None:
            for protocol in _protocols(slots[field.name]):
                check_conformance(protocol, builder)


def _protocols(annotation: Any) -> list[type[object]]:
    options = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    return [option for option in options if Protocol in getattr(option, "__mro__", ())]
