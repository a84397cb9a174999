"""Conversion of Megatron-Core's dictionaries of a GPT to our fields, by tables of strings. Imports no upstream code."""

import re
from typing import Any

from modelwright.config import (
    ATTENTION,
    MLP,
    STAGE_BOUNDARY,
    UpstreamSection,
    decoder_fields,
    is_convertible,
    layers_of_pattern,
    register_upstream,
)

__all__ = ["from_gpt", "from_hybrid"]

_BLOCKS = f"({re.escape(ATTENTION.symbol + MLP.symbol)})+"
_OTHER_FAMILIES = ("num_moe_experts", "multi_latent_attention")


@register_upstream("megatron.training.models.gpt.GPTModelConfig")
def from_gpt(model: UpstreamSection) -> dict[str, Any] | None:
    """Convert upstream's `GPTModelConfig`.

    Args:
        model: Dictionary of the upstream config.

    Returns:
        Plain data of a `gpt`; None if the model has experts or another attention.
    """
    transformer = model.section("transformer")
    if not _is_gpt(transformer):
        return None
    found = {"kind": "gpt", "num_layers": transformer.take("num_layers"), **decoder_fields(model, transformer)}
    if model.take("rope_scaling"):
        found["rope_scaling"] = {"kind": "llama3", "factor": model.take("rope_scaling_factor")}
    return found


@register_upstream("megatron.training.models.hybrid.HybridModelConfig")
def from_hybrid(model: UpstreamSection) -> dict[str, Any] | None:
    """Convert upstream's `HybridModelConfig`.

    Args:
        model: Dictionary of the upstream config.

    Returns:
        Plain data of a `gpt`; None if the pattern is not attention and MLP in turn.
    """
    transformer = model.section("transformer")
    layers = layers_of_pattern(model, STAGE_BOUNDARY)
    if not re.fullmatch(_BLOCKS, layers) or not _is_gpt(transformer):
        return None
    transformer.take("num_layers")
    transformer.take("is_hybrid_model")
    return {"kind": "gpt", "num_layers": len(layers) // 2, **decoder_fields(model, transformer)}


def _is_gpt(transformer: UpstreamSection) -> bool:
    """Return True if a model has neither experts nor another attention."""
    return is_convertible(transformer) and not any(transformer.seen(name) for name in _OTHER_FAMILIES)
