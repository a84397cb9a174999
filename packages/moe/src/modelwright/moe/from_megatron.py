"""Conversion of Megatron-Core's dictionaries of a model with experts to our fields. Imports no upstream code."""

from typing import Any, cast

from modelwright.config import (
    ATTENTION,
    MLA,
    MLP,
    MOE,
    STAGE_BOUNDARY,
    ConfigError,
    Problem,
    UpstreamSection,
    decoder_fields,
    expert_fields,
    is_convertible,
    layers_of_pattern,
    register_upstream,
)

__all__ = ["from_gpt_with_experts", "from_hybrid_with_experts"]

_LATENT = {
    "q_lora_rank": "query_rank",
    "kv_lora_rank": "key_value_rank",
    "qk_head_dim": "head_dim",
    "qk_pos_emb_head_dim": "rotary_head_dim",
    "v_head_dim": "value_head_dim",
}
_UNUSED_BY_LATENT = ("num_query_groups", "head_dim")


@register_upstream("megatron.training.models.gpt.GPTModelConfig")
def from_gpt_with_experts(model: UpstreamSection) -> dict[str, Any] | None:
    """Convert upstream's `GPTModelConfig` with MoE layers.

    Args:
        model: Dictionary of the upstream config.

    Returns:
        Plain data of a `moe`; None if the model has no experts.
    """
    transformer = model.section("transformer")
    if not transformer.seen("num_moe_experts") or not is_convertible(transformer):
        return None
    blocks, every = transformer.take("num_layers"), transformer.take("moe_layer_freq")
    found = _fields(model, transformer)
    if model.take("rope_scaling"):
        found["rope_scaling"] = {"kind": "llama3", "factor": model.take("rope_scaling_factor")}
    return found | _layers(int(blocks or 0), every, MLA.symbol if found.get("latent_attention") else ATTENTION.symbol)


@register_upstream("megatron.training.models.hybrid.HybridModelConfig")
def from_hybrid_with_experts(model: UpstreamSection) -> dict[str, Any] | None:
    """Convert upstream's `HybridModelConfig` of attention, MLP and MoE layers.

    Args:
        model: Dictionary of the upstream config.

    Returns:
        Plain data of a `moe`; None if the pattern has no MoE layer, or layers of another kind.
    """
    transformer = model.section("transformer")
    pattern = layers_of_pattern(model, STAGE_BOUNDARY)
    known = {ATTENTION.symbol, MLA.symbol, MLP.symbol, MOE.symbol}
    if MOE.symbol not in pattern or not set(pattern) <= known or not is_convertible(transformer):
        return None
    for name in ("num_layers", "is_hybrid_model", "moe_layer_freq"):
        transformer.take(name)
    return _fields(model, transformer) | {"pattern": pattern}


def _fields(model: UpstreamSection, transformer: UpstreamSection) -> dict[str, Any]:
    """Return every field but those that define the layers."""
    found = {"kind": "moe", **decoder_fields(model, transformer), **expert_fields(transformer)}
    if transformer.take("multi_latent_attention"):
        found["latent_attention"] = _latent_attention(model, transformer)
        for name in _UNUSED_BY_LATENT:
            found.pop(name, None)
        base, percent = transformer.take("rotary_base"), transformer.take("rotary_percent")
        found |= {} if base is None else {"rotary_base": base, "rotary_percent": percent}
    return found


def _latent_attention(model: UpstreamSection, transformer: UpstreamSection) -> dict[str, Any]:
    """Return the fields of MLA."""
    rope = transformer.take("rope_type")
    if rope != "rope":
        path = f"{model.path}transformer.rope_type"
        rule = f"`{path}` must be `rope` for a model with MLA to be converted"
        message = f"{rule}, but is `{rope}`; write its config by hand."
        raise ConfigError((Problem(path, message, code="wrong_value"),))
    return {ours: transformer.take(theirs) for theirs, ours in _LATENT.items()}


def _layers(blocks: int, every: object, attention: str) -> dict[str, Any]:
    """Return the fields that define the layers of a GPT. Upstream's first block has experts, whatever the interval."""
    if isinstance(every, list):
        experts = [bool(one) for one in cast("list[object]", every)]
    else:
        interval = int(str(every or 1))
        experts = [block % interval == 0 for block in range(blocks)]
    if all(experts):
        return {"num_layers": blocks}
    dense = experts.index(True) if True in experts else len(experts)
    if all(experts[dense:]):
        return {"num_layers": blocks, "first_dense_layers": dense}
    return {"pattern": "".join(attention + (MOE if one else MLP).symbol for one in experts)}
