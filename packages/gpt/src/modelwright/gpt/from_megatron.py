"""Conversion of Megatron-Core's dictionaries of a GPT to our fields, by tables of strings. Imports no upstream code."""

import re
from typing import Any

from modelwright.config import ATTENTION, MLP, STAGE_BOUNDARY, UpstreamSection, register_upstream

__all__ = ["from_gpt", "from_hybrid"]

_BLOCKS = f"({re.escape(ATTENTION.symbol + MLP.symbol)})+"
_SAME = ("hidden_size", "num_attention_heads", "num_query_groups", "ffn_hidden_size")
_SAME_TOO = ("attention_dropout", "hidden_dropout")
_RENAMED = {
    "layernorm_epsilon": "norm_epsilon",
    "add_bias_linear": "linear_bias",
    "add_qkv_bias": "qkv_bias",
    "qk_layernorm": "qk_norm",
    "init_method_std": "init_std",
}
_NORMS = {"RMSNorm": "rmsnorm", "LayerNorm": "layernorm"}
_POSITIONS = {"rope": "rope", "learned_absolute": "learned", "none": "none"}
_ACTIVATIONS = {
    "torch._C._nn.gelu": "gelu",
    "torch.nn.functional.gelu": "gelu",
    "torch.nn.functional.silu": "silu",
    "torch.nn.functional.relu": "relu",
    "megatron.core.activations.squared_relu": "squared_relu",
}
_GATED = {"silu": "swiglu", "gelu": "geglu"}
_OTHER_MODELS = ("num_moe_experts", "multi_latent_attention", "experimental_attention_variant", "mtp_num_layers")


@register_upstream("megatron.training.models.gpt.GPTModelConfig")
def from_gpt(model: UpstreamSection) -> dict[str, Any] | None:
    """Convert upstream's `GPTModelConfig`.

    Args:
        model: Dictionary of the upstream config.

    Returns:
        Plain data of a `gpt`; None if the model has experts or another attention.
    """
    transformer = model.section("transformer")
    if any(transformer.seen(name) for name in _OTHER_MODELS):
        return None
    found = {"kind": "gpt", "num_layers": transformer.take("num_layers"), **_shared(model, transformer)}
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
    pattern = str(model.take("hybrid_layer_pattern") or model.take("hybrid_override_pattern") or "")
    layers = pattern.replace(STAGE_BOUNDARY, "")
    if not re.fullmatch(_BLOCKS, layers) or any(transformer.seen(name) for name in _OTHER_MODELS):
        return None
    if STAGE_BOUNDARY in pattern:
        model.note("hybrid_layer_pattern", pattern, "`parallelism` decides where the stages end")
    transformer.take("num_layers")
    transformer.take("is_hybrid_model")
    return {"kind": "gpt", "num_layers": len(layers) // 2, **_shared(model, transformer)}


def _shared(model: UpstreamSection, transformer: UpstreamSection) -> dict[str, Any]:
    """Return the fields that both upstream classes have."""
    norm, position = transformer.take("normalization"), model.take("position_embedding_type")
    found: dict[str, Any] = {
        **{name: transformer.take(name) for name in (*_SAME, *_SAME_TOO)},
        **{ours: transformer.take(theirs) for theirs, ours in _RENAMED.items()},
        "head_dim": transformer.take("kv_channels"),
        "activation": _activation(transformer),
        "normalization": _NORMS.get(norm, norm),
        "position_embedding": _POSITIONS.get(position, position),
        "rotary_base": model.take("rotary_base"),
        "rotary_percent": model.take("rotary_percent"),
        "vocab_size": model.take("vocab_size"),
        "vocab_multiple": _vocab_multiple(model, transformer),
        "seq_length": model.take("seq_length"),
        "tie_embeddings": model.take("share_embeddings_and_output_weights"),
    }
    return {name: value for name, value in found.items() if value is not None}


def _activation(transformer: UpstreamSection) -> str:
    """Return the name of the activation. An unknown path is returned as it is, and validation refuses it."""
    path, gated = transformer.take("activation_func"), transformer.take("gated_linear_unit")
    if path is None:
        reason = "upstream leaves functions out of its dictionaries; gelu, its default, is assumed: set `activation`"
        transformer.note("activation_func", None, reason)
        path = "torch._C._nn.gelu"
    name = _ACTIVATIONS.get(str(path), str(path))
    return _GATED.get(name, f"gated {name}") if gated else name


def _vocab_multiple(model: UpstreamSection, transformer: UpstreamSection) -> int:
    """Return the multiple that upstream pads the vocabulary to; 1 if `should_pad_vocab` is off."""
    multiple, pads = model.take("make_vocab_size_divisible_by"), model.take("should_pad_vocab")
    return multiple * (transformer.seen("tensor_model_parallel_size") or 1) if pads else 1
