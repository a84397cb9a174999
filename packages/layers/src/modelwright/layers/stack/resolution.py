"""`resolve`: from our frozen inputs to the engine's config, made afresh each time.

A model config says what it means in the engine's words (`engine_fields`), the parallelism and the precision add
theirs, and `engine:` passes any other field of the engine straight through, checked by name and type and refused where
one of ours owns the same thing.
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

from modelwright.config import ConfigError, ModelConfig, Parallelism, Precision, Problem, quoted_list
from modelwright.distributed import NormalInit, virtual_stages
from modelwright.layers.activations import activation
from modelwright.protocols import did_you_mean

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Fusions that need a GPU compiler or kernels, and the engine's other initialization path: ours to switch, not a file's.
_FIXED: dict[str, Any] = {
    "is_hybrid_model": True,
    "use_cpu_initialization": False,
    "perform_initialization": True,
    "gradient_accumulation_fusion": False,
    "bias_activation_fusion": False,
    "bias_dropout_fusion": False,
    "masked_softmax_fusion": False,
    "apply_rope_fusion": False,
    "persist_layer_norm": False,
}


class EngineFieldError(ConfigError):
    """An `engine:` field that the installed engine does not have, of another type, or owned by one of ours."""


def resolve(config: ModelConfig, parallelism: Parallelism, precision: Precision) -> TransformerConfig:
    """Make the engine's config.

    Args:
        config: The model; not changed.
        parallelism: Sizes of the axes.
        precision: Number format of the parameters.

    Returns:
        A fresh engine config, on which the engine's own checks have run.

    Raises:
        EngineFieldError: A field of `engine:` is refused, all such fields at once; or the engine's own checks refuse
            what the fields make together.
    """
    _check_said(config)
    fields = _FIXED | dict(config.engine_fields()) | _parallel_fields(parallelism) | _precision_fields(precision)
    chosen = activation(fields.pop("activation"))
    fields |= {"activation_func": chosen.function, "gated_linear_unit": chosen.gated}
    std, layers = fields["init_method_std"], fields["num_layers"]
    fields["init_method"] = NormalInit(std)
    # The engine's scale for hybrid stacks: one residual add a layer (utils.scaled_init_method_normal).
    fields["output_layer_init_method"] = NormalInit(std / math.sqrt(layers))
    # The engine has a class of its own for models with latent attention, and for nothing else.
    made = MLATransformerConfig if fields.get("multi_latent_attention") else TransformerConfig
    given = _passed_through(made, config.engine, owned=set(fields))
    try:
        return made(**fields, **given)
    except (AssertionError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise EngineFieldError((Problem("engine", f"the engine refuses these fields together: {reason}"),)) from error


def _check_said(config: ModelConfig) -> None:
    """A config of one's own must say what is computed with here; the engine asks for the rest itself."""
    missing = [
        f"`{name}`" for name in ("activation", "init_method_std", "num_layers") if name not in config.engine_fields()
    ]
    if missing:
        rule = f"`engine_fields` of `{type(config).__name__}` must say what the model is in the engine's words"
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
        # With two pipeline ranks, previous and next are one peer: batched sends of an interleaved schedule pair up
        # crosswise and the loss is silently wrong.
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
    """The values of `engine:` as the engine takes them; everything that is wrong with them in one error."""
    hints = typing.get_type_hints(made)
    known = {field.name for field in dataclasses.fields(made) if not field.name.startswith("_")}
    values, problems = dict[str, Any](), list[Problem]()
    for name, value in given.items():
        if name in owned:
            message = f"`engine.{name}` is owned by a field of the model, parallelism or precision; set that one."
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
    """What is wrong with a value; "" if nothing is."""
    if _fits(value, hint):
        return ""
    options = _options(hint)
    if any(typing.get_origin(option) is collections.abc.Callable for option in options):
        return f"`engine.{name}` is a function, which a config cannot hold; leave it out."
    members = [member for option in options if _is_enum(option) for member in option.__members__]
    expected = quoted_list(members, "or") if members else _shown(hint)
    return f"`engine.{name}` must be {expected}, but is {value!r}."


def _engine_value(value: Any, hint: Any) -> Any:
    """A plain value as the engine wants it: sequences as lists, members of enums and dtypes by their names."""
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
    """The members of a union, or the type alone."""
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _is_enum(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, enum.Enum)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type that the engine annotates a field with."""
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
