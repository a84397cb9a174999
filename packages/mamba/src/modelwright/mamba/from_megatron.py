"""Conversion of Megatron-Core's dictionaries of a stack with Mamba-2 layers to our fields. Imports no upstream code."""

from typing import Any

from modelwright.config import (
    ATTENTION,
    MAMBA,
    MLP,
    MOE,
    STAGE_BOUNDARY,
    UpstreamSection,
    decoder_fields,
    expert_fields,
    is_convertible,
    layers_of_pattern,
    register_upstream,
)

__all__ = ["from_hybrid_with_mamba"]

_SAME = ("mamba_state_dim", "mamba_head_dim", "mamba_num_groups", "mamba_num_heads")


@register_upstream("megatron.training.models.hybrid.HybridModelConfig")
def from_hybrid_with_mamba(model: UpstreamSection) -> dict[str, Any] | None:
    """Convert upstream's `HybridModelConfig` with Mamba-2 layers.

    Args:
        model: Dictionary of the upstream config.

    Returns:
        Plain data of a `mamba`; None if the pattern has no Mamba-2 layer, or layers that the family does not have.
    """
    transformer = model.section("transformer")
    pattern = layers_of_pattern(model, STAGE_BOUNDARY)
    known = {kind.symbol for kind in (MAMBA, ATTENTION, MLP, MOE)}
    if MAMBA.symbol not in pattern or not set(pattern) <= known or not is_convertible(transformer):
        return None
    for name in ("num_layers", "is_hybrid_model"):
        transformer.take(name)
    found = {"kind": "mamba", "pattern": pattern, **decoder_fields(model, transformer)}
    found |= {name: value for name in _SAME if (value := transformer.take(name)) is not None}
    if MOE.symbol in pattern:
        transformer.take("moe_layer_freq")
        found |= expert_fields(transformer)
    return found
