"""Adapters from typed builders to the `ModuleSpec`s that the untyped slots of Megatron-Core accept.

A typed slot of the engine accepts any callable. An untyped slot goes through the engine's `build_module`, which accepts
only classes and `ModuleSpec`s. `as_module_spec` makes a `ModuleSpec` whose construction calls the builder.
"""

from collections.abc import Callable
from typing import Any

from megatron.core.transformer.spec_utils import ModuleSpec


class _Built:
    """Class that the engine constructs: its `__new__` calls a builder and returns the part that the builder makes.

    Seam: `build_module` constructs `spec.module(*args, **spec.params, **kwargs)` and uses the result whatever type it
        has.
    `packages/layers/tests/stack/test_swapping.py` fails when the engine changes this.
    """

    def __new__(cls, *args: Any, builder: Callable[..., Any], **kwargs: Any) -> Any:
        return builder(*args, **kwargs)


def as_module_spec(builder: Callable[..., Any]) -> ModuleSpec:
    """Wrap a builder for an untyped slot of the engine.

    Args:
        builder: Builds the part, with the arguments of the slot.

    Returns:
        A new `ModuleSpec`.
    """
    return ModuleSpec(module=_Built, params={"builder": builder})


def as_function_spec(function: Callable[..., Any]) -> ModuleSpec:
    """Wrap a function that is itself the part, for an untyped slot of the engine.

    The engine's `build_module` returns a plain function as it is, but does not accept other callable objects.

    Args:
        function: Function that the layer calls in every forward pass.

    Returns:
        A new `ModuleSpec`.
    """

    def build(**_: object) -> Callable[..., Any]:
        return function

    return as_module_spec(build)
