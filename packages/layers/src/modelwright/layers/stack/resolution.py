"""`resolve`: makes Megatron-Core's config from our frozen configs, a new one at each call.

A model config describes the model in the engine's fields (`engine_fields`). The parallelism and the precision add
theirs. `engine:` of a run file passes any other field of the engine through, after a check of its name and type. It
must not contain a field that modelwright sets itself.
"""

import collections.abc
import dataclasses
import enum
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

import torch
from megatron.core.transformer import MLATransformerConfig, TransformerConfig

from modelwright.config import (
    FIXED_ENGINE_FIELDS,
    ConfigError,
    ModelConfig,
    Parallelism,
    Precision,
    Problem,
    quoted_list,
)
from modelwright.distributed import NormalInit, virtual_stages
from modelwright.layers.activations import activation
from modelwright.protocols import did_you_mean

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class EngineFieldError(ConfigError):
    """A field of `engine:` that the installed engine does not have, with a wrong type, or that modelwright sets."""


def resolve(config: ModelConfig, parallelism: Parallelism, precision: Precision) -> TransformerConfig:
    """Make the engine's config.

    Args:
        config: Config of the model; not changed.
        parallelism: Sizes of the axes.
        precision: Dtype of the parameters.

    Returns:
        A new engine config that has passed the engine's own checks.

    Raises:
        EngineFieldError: Fields of `engine:` are refused, all of them in one error; or the engine's own checks refuse
            the combination of all fields.
    """
    _check_engine_fields(config)
    fields: dict[str, Any] = {name: field.value for name, field in FIXED_ENGINE_FIELDS.items()}
    fields |= dict(config.engine_fields()) | _parallel_fields(parallelism) | _precision_fields(precision)
    chosen = activation(fields.pop("activation"))
    fields |= {"activation_func": chosen.function, "gated_linear_unit": chosen.gated}
    std, layers = fields["init_method_std"], fields["num_layers"]
    fields["init_method"] = NormalInit(std)
    # The engine's scale for hybrid stacks: one residual add for each layer (utils.scaled_init_method_normal).
    fields["output_layer_init_method"] = NormalInit(std / math.sqrt(layers))
    made = MLATransformerConfig if fields.get("multi_latent_attention") else TransformerConfig
    given = _passed_through(made, config.engine, owned=set(fields))
    try:
        return made(**fields, **given)
    except (AssertionError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise EngineFieldError((Problem("engine", f"the engine refuses these fields together: {reason}"),)) from error


def _check_engine_fields(config: ModelConfig) -> None:
    """Refuse a custom config without the fields that `resolve` computes with; the engine requires the others itself."""
    missing = [
        f"`{name}`" for name in ("activation", "init_method_std", "num_layers") if name not in config.engine_fields()
    ]
    if missing:
        rule = f"`engine_fields` of `{type(config).__name__}` must describe the model in the engine's fields"
        raise EngineFieldError((Problem("", f"{rule}, but lacks {', '.join(missing)}; return them from it."),))


def _parallel_fields(parallelism: Parallelism) -> dict[str, Any]:
    virtual = virtual_stages(parallelism)
    return {
        "tensor_model_parallel_size": parallelism.tensor,
        "sequence_parallel": parallelism.sequence,
        "pipeline_model_parallel_size": parallelism.pipeline,
        "virtual_pipeline_model_parallel_size": virtual,
        "context_parallel_size": parallelism.context,
        "expert_model_parallel_size": parallelism.expert,
        "expert_tensor_parallel_size": parallelism.expert_tensor,
        # With two pipeline ranks, the previous and the next rank are the same one. Batched sends of an interleaved
        # schedule then pair up crosswise, and the loss is silently wrong.
        "overlap_p2p_comm": virtual is not None,
        "batch_p2p_comm": virtual is None,
    }


def _precision_fields(precision: Precision) -> dict[str, Any]:
    dtype = _DTYPES[precision.params]
    return {
        "params_dtype": dtype,
        "pipeline_dtype": dtype,
        "autocast_dtype": dtype,
        "bf16": dtype is torch.bfloat16,
        "fp16": dtype is torch.float16,
    }


def _passed_through(made: type[TransformerConfig], given: Mapping[str, Any], *, owned: set[str]) -> dict[str, Any]:
    """Return the values of `engine:` in the engine's types.

    Raises:
        EngineFieldError: Fields are refused, all of them in one error.
    """
    hints = typing.get_type_hints(made)
    known = {field.name for field in dataclasses.fields(made) if not field.name.startswith("_")}
    values, problems = dict[str, Any](), list[Problem]()
    for name, value in given.items():
        if name in FIXED_ENGINE_FIELDS:
            fixed = FIXED_ENGINE_FIELDS[name]
            message = (
                f"`engine.{name}` must be left out, because modelwright fixes it to {fixed.value}: {fixed.reason}."
            )
        elif name in owned:
            message = f"`engine.{name}` is set by a field of the model, parallelism or precision; set that field."
        elif name not in known:
            near = did_you_mean(name, known - owned) or "."
            message = f"`engine.{name}` is not a field of the engine's `{made.__name__}`{near}"
        else:
            values[name] = _engine_value(value, hints[name])
            message = _misfit(name, values[name], hints[name])
        if message:
            problems.append(Problem(f"engine.{name}", message))
    if problems:
        raise EngineFieldError(problems)
    return values


def _misfit(name: str, value: Any, hint: Any) -> str:
    """Return the message about a value of a wrong type; "" if the type is right."""
    if _fits(value, hint):
        return ""
    options = _options(hint)
    if any(typing.get_origin(option) is collections.abc.Callable for option in options):
        return f"`engine.{name}` is a function, which a config cannot contain; leave it out."
    members = [member for option in options if _is_enum(option) for member in option.__members__]
    expected = quoted_list(members, "or") if members else _shown(hint)
    return f"`engine.{name}` must be {expected}, but is {value!r}."


def _engine_value(value: Any, hint: Any) -> Any:
    """Return a plain value in the engine's type: lists for sequences, members of enums and dtypes for their names."""
    options = _options(hint)
    if isinstance(value, tuple):
        inner = next((typing.get_args(option)[0] for option in options if typing.get_args(option)), Any)
        return _engine_values(value, inner)  # pyright: ignore[reportUnknownArgumentType]
    if not isinstance(value, str) or _fits(value, hint):
        return value
    named = [option.__members__[value] for option in options if _is_enum(option) and value in option.__members__]
    if torch.dtype in options and value in _DTYPES:
        named.append(_DTYPES[value])
    return named[0] if named else value


def _engine_values(items: tuple[Any, ...], hint: Any) -> list[Any]:
    return [_engine_value(item, hint) for item in items]


def _options(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the type alone."""
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _is_enum(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, enum.Enum)


def _fits(value: Any, hint: Any) -> bool:
    """Return True if a value has a type that the engine's annotation of a field allows."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, option) for option in args)
    if origin is Literal:
        return value in args
    if origin in (list, tuple):
        return isinstance(value, list) and _all_fit(value, args[0])  # pyright: ignore[reportUnknownArgumentType]
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return hint is Any or (isinstance(hint, type) and isinstance(value, hint))


def _all_fit(items: list[Any], hint: Any) -> bool:
    return all(_fits(item, hint) for item in items)


def _shown(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
