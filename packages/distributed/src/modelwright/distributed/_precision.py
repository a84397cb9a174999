"""Precision: the number format of a stage's parameters, and which of them stay in float32.

What stays is float32 from before it is initialised, so it is drawn in float32 and never cast down and back.
"""

import functools
from collections.abc import Sequence
from fnmatch import fnmatchcase

import torch
from megatron.core.transformer.module import Float16Module
from torch import nn

from modelwright.config import Precision
from modelwright.distributed._wrap import engine_config
from modelwright.protocols import ModelwrightError


class PrecisionError(ModelwrightError):
    """A pattern that names no parameter, or a precision that nothing implements."""


def kept_in_float32(stage: nn.Module, precision: Precision) -> list[nn.Parameter]:
    """Make the declared parameters of a stage float32.

    Args:
        stage: Built, not yet initialised.
        precision: Whose `keep_float32` declares them.

    Returns:
        The parameters that stay, for `with_precision`; none when all are float32 anyway.
    """
    if precision.params == "float32":
        return []
    names = dict(stage.named_parameters())
    kept = [p for name, p in names.items() if any(fnmatchcase(name, pattern) for pattern in precision.keep_float32)]
    for parameter in kept:
        parameter.data = parameter.data.float()
    return kept


def check_patterns(stages: Sequence[nn.Module], precision: Precision) -> None:
    """Refuse a pattern that matches nothing anywhere: a misspelt one would train in the shorter format, in silence.

    Args:
        stages: Every stage of the model; a pattern may match on another pipeline rank.
        precision: Whose patterns are checked.

    Raises:
        PrecisionError: A pattern matches no parameter.
    """
    names = [name for stage in stages for name, _ in stage.named_parameters()]
    idle = [p for p in precision.keep_float32 if not any(fnmatchcase(name, p) for name in names)]
    if idle:
        raise PrecisionError(
            f"`precision.keep_float32` must name parameters of the model, but {', '.join(map(repr, idle))} matches "
            f"none of its {len(names)}; they are named like `{names[0]}`."
        )


@functools.singledispatch
def in_precision(precision: object, stage: nn.Module) -> nn.Module:
    """The stage in its number format; the engine's wrapper also casts what goes in and out of it.

    A class derived from `Precision` brings a wrapper of its own: `in_precision.register(MyPrecision)`.

    Args:
        precision: Number format of the parameters.
        stage: Initialised.

    Returns:
        The stage, in the engine's `Float16Module` unless all is float32.

    Raises:
        PrecisionError: `precision` is not a `Precision`.
    """
    raise PrecisionError(f"`precision` must be a `Precision`, but is {type(precision).__name__}; derive from it.")


@in_precision.register
def _(precision: Precision, stage: nn.Module) -> nn.Module:
    return stage if precision.params == "float32" else Float16Module(engine_config(stage), stage)


def with_precision(stage: nn.Module, precision: Precision, kept: Sequence[nn.Parameter]) -> nn.Module:
    """`in_precision`, except for what stays in float32.

    Args:
        stage: Initialised.
        precision: Number format of the parameters.
        kept: What stays in float32.

    Returns:
        The stage in its wrapper.
    """
    whole: list[tuple[nn.Parameter, torch.Tensor]] = [(parameter, parameter.data) for parameter in kept]
    wrapped = in_precision(precision, stage)
    for parameter, values in whole:
        parameter.data = values
    return wrapped
