"""The custom parts of a spec: those that are neither of modelwright nor of a backend.

A custom part may read any field of Megatron-Core's config, so a field that the known parts do not read may still have
an effect.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import cast

_KNOWN = (
    "modelwright.",
    "megatron.core.tensor_parallel.",
    "megatron.core.transformer.identity_op.",
    "megatron.core.transformer.moe.router.",
    "megatron.core.fusions.fused_bias_dropout.",
    "megatron.core.extensions.transformer_engine.",
)
"""Modules of the parts that the tables of fields describe."""


def custom_parts(spec: object) -> tuple[str, ...]:
    """Return the custom parts of a spec.

    Args:
        spec: Builders of a model, as nested dataclasses: a `StackSpec`.

    Returns:
        Names of the parts as `module.name`, sorted, without repetition.
    """
    return tuple(sorted({name for name in _names(spec) if not name.startswith(_KNOWN)}))


def _names(builder: object) -> Iterator[str]:
    """Yield the import paths of a builder and of the builders in it, however they are bound."""
    if isinstance(builder, functools.partial):
        bound = cast("functools.partial[object]", builder)
        for value in (bound.func, *bound.args, *bound.keywords.values()):
            yield from _names(value)
    elif dataclasses.is_dataclass(builder) and not isinstance(builder, type):
        if callable(builder):
            yield f"{type(builder).__module__}.{type(builder).__qualname__}"
        for field in dataclasses.fields(builder):
            yield from _names(getattr(builder, field.name))
    elif callable(builder):
        module, name = getattr(builder, "__module__", ""), getattr(builder, "__qualname__", repr(builder))
        yield f"{module}.{name}"
