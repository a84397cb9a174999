"""`resolve`: makes Megatron-Core's config from our frozen configs, a new one at each call.

A model config describes the model in the engine's fields (`engine_fields`). The parallelism and the precision add
theirs. `engine:` of a run file passes any other field of the engine through, after a check of its name and type. It
must not contain a field that modelwright sets itself, or that nothing in the model reads.
"""

import dataclasses
import math
import typing
import warnings
from collections import ChainMap
from typing import TYPE_CHECKING, Any

import torch
from megatron.core.transformer import MLATransformerConfig, TransformerConfig

from modelwright.config import (
    FIXED_ENGINE_FIELDS,
    ConfigError,
    DecoderConfig,
    ModelConfig,
    Parallelism,
    Precision,
    Problem,
)
from modelwright.distributed import NormalInit, virtual_stages
from modelwright.layers.activations import activation
from modelwright.layers.engine_fields.custom_parts import custom_parts
from modelwright.layers.engine_fields.effects import Reader, fields_without_effect
from modelwright.layers.engine_fields.extended_config import EXTENSION, ExtendedConfig, ExtendedMLAConfig
from modelwright.layers.engine_fields.table import VERDICTS
from modelwright.layers.engine_fields.values import DTYPES, engine_value, misfit
from modelwright.layers.engine_fields.verdict import Owned
from modelwright.protocols import ModelwrightWarning, did_you_mean

if TYPE_CHECKING:
    from modelwright.layers.stack.spec import StackSpec


_COUNTED = {"window_attn_skip_freq": "full_attention_every", "no_rope_freq": "no_rope_every"}
"""Fields of the engine that count layers, by ours, which count attention layers."""


class EngineFieldError(ConfigError):
    """A field of `engine:` that does not exist, has a wrong type, is set by modelwright, or has no effect."""


class EngineFieldWarning(ModelwrightWarning):
    """A field of `engine:` that only a custom part may read."""


def resolve(
    config: ModelConfig,
    parallelism: Parallelism,
    precision: Precision,
    *,
    spec: "StackSpec | None" = None,
    backend: str = "torch",
    pattern: str | None = None,
) -> TransformerConfig:
    """Make the engine's config.

    Args:
        config: Config of the model; not changed.
        parallelism: Sizes of the axes.
        precision: Dtype of the parameters.
        spec: Builders of the parts. If some of them are custom, fields of `engine:` that the other parts do not read
            give an `EngineFieldWarning`. None: the parts of the backend.
        backend: Backend of the parts: `torch` or `te`.
        pattern: Stack pattern. None: that of a `DecoderConfig`; unknown for another config.

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
    latent = fields.get("multi_latent_attention") or config.engine.get("multi_latent_attention")
    made = MLATransformerConfig if latent else TransformerConfig
    given = _passed_through(made, config, owned=set(fields))
    layers = config.symbols if isinstance(config, DecoderConfig) else None if pattern is None else frozenset(pattern)
    defaults = {field.name: field.default for cls in (made, TransformerConfig) for field in dataclasses.fields(cls)}
    _check_effects(config, ChainMap(given, fields, defaults), Reader(layers=layers, backend=backend), spec)
    if given.get("embedding_init_method_std") is not None:
        fields["embedding_init_method"] = NormalInit(given["embedding_init_method_std"])  # as on every layout
    if fields.get("attention_softcap") is not None and backend == "te":
        rule = "`attention_softcap` must be null with the backend `te`, whose attention cannot bound its scores"
        given_cap = f"but {fields['attention_softcap']} was given; use the backend `torch`"
        raise ConfigError((Problem("attention_softcap", f"{rule}, {given_cap}."),))
    if EXTENSION & set(fields):
        made = ExtendedMLAConfig if latent else ExtendedConfig
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
    dtype = DTYPES[precision.params]
    return {
        "params_dtype": dtype,
        "pipeline_dtype": dtype,
        "autocast_dtype": dtype,
        "bf16": dtype is torch.bfloat16,
        "fp16": dtype is torch.float16,
    }


def _passed_through(made: type[TransformerConfig], config: ModelConfig, *, owned: set[str]) -> dict[str, Any]:
    """Return the values of `engine:` in the engine's types.

    Raises:
        EngineFieldError: Fields are refused, all of them in one error.
    """
    hints = typing.get_type_hints(made)
    known = {field.name for field in dataclasses.fields(made) if not field.name.startswith("_")}
    values, problems = dict[str, Any](), list[Problem]()
    for name, value in config.engine.items():
        if name in FIXED_ENGINE_FIELDS:
            fixed = FIXED_ENGINE_FIELDS[name]
            message = (
                f"`engine.{name}` must be left out, because modelwright fixes it to {fixed.value}: {fixed.reason}."
            )
        elif name in owned:
            message = _owned(name, config)
        elif name in _COUNTED and isinstance(value, int) and isinstance(config, DecoderConfig):
            message = (
                f"`engine.{name}` must be a list with a number for each layer, but is {value}, which would count the"
                f" other layers of the pattern too; use `{_COUNTED[name]}`."
            )
        elif name not in known:
            near = did_you_mean(name, known - owned) or "."
            message = f"`engine.{name}` is not a field of the engine's `{made.__name__}`{near}"
        else:
            values[name] = engine_value(value, hints[name])
            message = misfit(name, values[name], hints[name])
        if message:
            problems.append(Problem(f"engine.{name}", message))
    if problems:
        raise EngineFieldError(problems)
    return values


def _owned(name: str, config: ModelConfig) -> str:
    """Return the message about a field that one of ours sets. A `DecoderConfig` has the fields that the table names."""
    verdict = VERDICTS.get(name)
    if isinstance(verdict, Owned) and isinstance(config, DecoderConfig):
        return f"`engine.{name}` is set by `{verdict.by}`; set that field."
    return f"`engine.{name}` is set by a field of the model, parallelism or precision; set that field."


def _check_effects(config: ModelConfig, values: ChainMap[str, Any], reader: Reader, spec: "StackSpec | None") -> None:
    """Refuse fields of `engine:` without effect, or warn about them if a custom part may read them.

    Args:
        config: Config of the model.
        values: Values of `engine:`, then of `resolve`, then defaults of the engine.
        reader: Layers and backend of the model.
        spec: Builders of the parts. None: those of the backend.
    """
    given, _, defaults = values.maps
    changed = {name: value for name, value in given.items() if value != defaults[name]}
    known = ChainMap({"backend": reader.backend}, *values.maps)
    found = tuple(fields_without_effect(changed, lambda name: known.get(name, getattr(config, name, None)), reader))
    custom = custom_parts(spec) if spec is not None else ()
    if found and not custom:
        raise EngineFieldError([Problem(f"engine.{name}", message) for name, message in found])
    for name, message in found:
        parts = " or ".join(f"`{part}`" for part in custom)
        text = f"`engine.{name}` has an effect only if {parts} reads it: without a custom part, {message}"
        warnings.warn(EngineFieldWarning(text), stacklevel=3)
