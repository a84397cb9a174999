"""Dtypes of a stage's parameters, and which of them stay in float32.

A parameter that stays in float32 is made float32 before it is initialized. Its values are drawn in float32 and never
rounded to another dtype.
"""

import functools
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, cast

import torch
from megatron.core.models.common.language_module.language_module import LanguageModule
from megatron.core.transformer.module import Float16Module
from megatron.core.transformer.moe.router import Router
from megatron.core.transformer.moe.shared_experts import SharedExpertMLP
from torch import nn
from torch.distributed import ProcessGroup

from modelwright.config import Precision
from modelwright.distributed.name_patterns import idle_patterns, matches
from modelwright.distributed.wrappers.data_parallel import engine_config
from modelwright.protocols import ModelwrightError

_TIED = ("embedding.word_embeddings.weight", "output_layer.weight")
"""Names of a tied weight, which the first and the last stage have under one name each."""


class PrecisionError(ModelwrightError):
    """A pattern that matches no parameter, or an object that is not a `Precision`."""


def kept_in_float32(stage: nn.Module, precision: Precision) -> list[nn.Parameter]:
    """Convert to float32 the parameters of a stage that `keep_float32` matches.

    Args:
        stage: The built stage, not yet initialized.
        precision: Dtype of the parameters. Its `keep_float32` contains the patterns of those that stay in float32.

    Returns:
        The matching parameters, for `with_precision`, and those that are computed together with one of them. Empty if
        `precision` is float32 for all parameters.

    Raises:
        PrecisionError: The engine cannot compute with one of them in float32.
    """
    if precision.params == "float32":
        return []
    tied = isinstance(stage, LanguageModule) and bool(stage.share_embeddings_and_output_weights)
    matching = {
        id(parameter)
        for name, parameter in stage.named_parameters()
        if any(matches(alias, precision.keep_float32) for alias in (_TIED if tied and name in _TIED else (name,)))
    }
    modules: list[tuple[str, nn.Module]] = list(cast("Any", stage).named_modules())
    for name, module in modules:
        gate = module.gate_weight if isinstance(module, SharedExpertMLP) and module.use_shared_expert_gate else None
        if gate is not None and id(gate) in matching:
            raise PrecisionError(
                f"`precision.keep_float32` must not match `{name}.gate_weight`, because the engine multiplies it by "
                f"inputs in {precision.params}; exclude it from {', '.join(map(repr, precision.keep_float32))}."
            )
    # A module without modules in it computes in one dtype, so its parameters stay together.
    together = {id(p) for module in _leaves(stage) if matching & _own(module) for p in module.parameters()}
    kept = [parameter for parameter in stage.parameters() if id(parameter) in matching | together]
    for parameter in kept:
        parameter.data = parameter.data.float()
    return kept


def _leaves(stage: nn.Module) -> Iterator[nn.Module]:
    """Yield the modules that have parameters and no modules in them."""
    return (module for module in stage.modules() if _own(module) and next(module.children(), None) is None)


def _own(module: nn.Module) -> set[int]:
    return {id(parameter) for parameter in module.parameters(recurse=False)}


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
    if precision.params != "float32" and kept:
        _compute_in_float32(stage, {id(parameter) for parameter in kept}, getattr(torch, precision.params))
    return wrapped


def _compute_in_float32(stage: nn.Module, kept: set[int], params: torch.dtype) -> None:
    """Let the modules with parameters in float32 compute in float32: cast what goes in, and what comes out.

    The logits stay in float32. A router casts by itself, and its probabilities are float32 anyway.
    """
    has_output = isinstance(stage, LanguageModule) and bool(stage.post_process)
    output = stage.get_submodule("output_layer") if has_output else None
    tied = isinstance(stage, LanguageModule) and bool(stage.share_embeddings_and_output_weights)
    modules = [module for module in _leaves(stage) if kept & _own(module) and not isinstance(module, Router)]
    if tied and output is not None and output not in modules and any(name in _TIED for name in _names(stage, kept)):
        modules.append(output)
    for module in modules:
        module.register_forward_pre_hook(partial(_cast_inputs, params=params), with_kwargs=True)
        if module is not output:
            module.register_forward_hook(partial(_cast_outputs, params=params))


def _names(stage: nn.Module, kept: set[int]) -> Iterator[str]:
    return (name for name, parameter in stage.named_parameters() if id(parameter) in kept)


def _cast_inputs(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *, params: torch.dtype
) -> tuple[Any, Any]:
    return _cast(args, params, torch.float32), _cast(kwargs, params, torch.float32)


def _cast_outputs(module: nn.Module, args: tuple[Any, ...], outputs: Any, *, params: torch.dtype) -> Any:
    return _cast(outputs, torch.float32, params) if args else outputs  # without inputs, the outputs are the parameters


def _cast(value: Any, source: torch.dtype, target: torch.dtype) -> Any:
    """Cast the tensors of one dtype in nested tuples, lists and dicts."""
    if isinstance(value, torch.Tensor):
        return value.to(target) if value.dtype == source else value
    if isinstance(value, dict):
        return {name: _cast(inner, source, target) for name, inner in cast("dict[str, Any]", value).items()}
    if type(value) in (tuple, list):
        return type(value)(_cast(inner, source, target) for inner in value)
    return value
