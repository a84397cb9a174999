"""Dtypes of a stage's parameters, and which of them stay in float32.

A parameter that stays in float32 is made float32 before it is initialized. Its values are drawn in float32 and never
rounded to another dtype.
"""

import functools
from collections.abc import Sequence

import torch
from megatron.core.transformer.module import Float16Module
from torch import nn
from torch.distributed import ProcessGroup

from modelwright.config import Precision
from modelwright.distributed.name_patterns import idle_patterns, matches
from modelwright.distributed.wrappers.data_parallel import engine_config
from modelwright.protocols import ModelwrightError


class PrecisionError(ModelwrightError):
    """A pattern that matches no parameter, or an object that is not a `Precision`."""


def kept_in_float32(stage: nn.Module, precision: Precision) -> list[nn.Parameter]:
    """Convert to float32 the parameters of a stage that `keep_float32` matches.

    Args:
        stage: The built stage, not yet initialized.
        precision: Dtype of the parameters. Its `keep_float32` contains the patterns of those that stay in float32.

    Returns:
        The matching parameters, for `with_precision`. Empty if `precision` is float32 for all parameters.
    """
    if precision.params == "float32":
        return []
    names = dict(stage.named_parameters())
    kept = [parameter for name, parameter in names.items() if matches(name, precision.keep_float32)]
    for parameter in kept:
        parameter.data = parameter.data.float()
    return kept


def check_patterns(stages: Sequence[nn.Module], precision: Precision, pipeline: ProcessGroup) -> None:
    """Refuse a pattern that matches on no stage of the pipeline.

    Args:
        stages: The stages of this rank.
        precision: Dtype of the parameters, with the patterns to check.
        pipeline: The group of the pipeline's stages.

    Raises:
        PrecisionError: A pattern matches no parameter.
    """
    idle = idle_patterns(
        precision.keep_float32, [name for stage in stages for name, _ in stage.named_parameters()], pipeline
    )
    if idle:
        raise PrecisionError(f"`precision.keep_float32` must match parameters of the model, but {idle}.")


@functools.singledispatch
def in_precision(precision: object, stage: nn.Module) -> nn.Module:
    """Cast a stage to its dtype, in a wrapper that also casts its inputs and outputs.

    Register a custom wrapper for a class derived from `Precision` by `in_precision.register(MyPrecision)`.

    Args:
        precision: Dtype of the parameters.
        stage: The initialized stage.

    Returns:
        The stage, in the engine's `Float16Module` unless the dtype is float32.

    Raises:
        PrecisionError: `precision` is not a `Precision`.
    """
    raise PrecisionError(f"`precision` must be a `Precision`, but is {type(precision).__name__}; derive from it.")


@in_precision.register
def _(precision: Precision, stage: nn.Module) -> nn.Module:
    return stage if precision.params == "float32" else Float16Module(engine_config(stage), stage)


def with_precision(stage: nn.Module, precision: Precision, kept: Sequence[nn.Parameter]) -> nn.Module:
    """Cast a stage to its dtype, except for the parameters that stay in float32.

    Args:
        stage: The initialized stage.
        precision: Dtype of the parameters.
        kept: Parameters that stay in float32, from `kept_in_float32`.

    Returns:
        The stage in its wrapper.
    """
    originals: list[tuple[nn.Parameter, torch.Tensor]] = [(parameter, parameter.data) for parameter in kept]
    wrapped = in_precision(precision, stage)
    for parameter, values in originals:
        parameter.data = values
    return wrapped
