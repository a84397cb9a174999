"""Fields of a decoder and of its experts, from Megatron-Core's names to ours, for the readers of all families."""

from typing import Any, cast

from modelwright.config.from_megatron.dictionaries import UpstreamSection
from modelwright.config.model.engine_names import EXPERT_ENGINE_NAMES

__all__ = ["decoder_fields", "expert_fields", "is_convertible", "layers_of_pattern"]

_SAME = (
    *("hidden_size", "num_attention_heads", "num_query_groups", "ffn_hidden_size"),
    *("attention_dropout", "hidden_dropout"),
)
_RENAMED = {
    "layernorm_epsilon": "norm_epsilon",
    "add_bias_linear": "linear_bias",
    "add_qkv_bias": "qkv_bias",
    "qk_layernorm": "qk_norm",
    "init_method_std": "init_std",
}
_BALANCING = {"none": "none", "aux_loss": "aux", "seq_aux_loss": "seq_aux", "global_aux_loss": "global_aux"}
_ROUTER_DTYPES = {None: "params", "fp32": "float32", "fp64": "float64"}
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
_OTHER_MODELS = ("experimental_attention_variant", "mtp_num_layers")


def is_convertible(transformer: UpstreamSection) -> bool:
    """Return False if a model has sparse or linear attention, or predicts several tokens; no family has those.

    Args:
        transformer: Dictionary of the engine's config.
    """
    return not any(transformer.seen(name) for name in _OTHER_MODELS)


def layers_of_pattern(model: UpstreamSection, boundary: str) -> str:
    """Return the pattern of an upstream hybrid without stage boundaries, which are reported.

    Args:
        model: Dictionary of the upstream config.
        boundary: Symbol between two stages.
    """
    pattern = str(model.take("hybrid_layer_pattern") or model.take("hybrid_override_pattern") or "")
    if boundary in pattern:
        model.note("hybrid_layer_pattern", pattern, "`parallelism` decides where the stages end")
    return pattern.replace(boundary, "")


_SINKS = {"off-by-one": "off_by_one", "learnable": "learned"}


def decoder_fields(model: UpstreamSection, transformer: UpstreamSection) -> dict[str, Any]:
    """Return the fields of `DecoderConfig` that upstream's configs have.

    Args:
        model: Dictionary of the upstream config.
        transformer: Dictionary of the engine's config in it.
    """
    norm, position = transformer.take("normalization"), model.take("position_embedding_type")
    return _given(
        {name: transformer.take(name) for name in _SAME}
        | {ours: transformer.take(theirs) for theirs, ours in _RENAMED.items()}
        | {
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
        | _variants(transformer)
    )


def _variants(transformer: UpstreamSection) -> dict[str, Any]:
    """Return the fields of windows, sinks, scales and norms."""
    window = transformer.seen("window_size")
    found: dict[str, Any] = {
        "softmax_scale": transformer.take("softmax_scale"),
        "zero_centered_norm": transformer.take("layernorm_zero_centered_gamma") or None,
        "attention_sinks": _SINKS.get(str(transformer.take("softmax_type"))),
        "no_rope_every": _interval(transformer, "no_rope_freq", hit=1),
    }
    if isinstance(window, list | tuple):
        left, right = cast("list[int]", transformer.take("window_size"))
        found["sliding_window"] = left + 1
        found["full_attention_every"] = _interval(transformer, "window_attn_skip_freq", hit=0)
        if right > 0:
            transformer.note("window_size", [left, right], "no token attends to later ones")
    return found


def _interval(transformer: UpstreamSection, name: str, *, hit: int) -> int | None:
    """Return the interval of a field that counts upstream's blocks: a number, or a list with one for each block."""
    given = transformer.take(name)
    if not isinstance(given, list):
        return cast("int | None", given)
    flags = cast("list[int]", given)
    for every in range(1, len(flags) + 1):
        if flags == [hit if (block + 1) % every == 0 else 1 - hit for block in range(len(flags))]:
            return every
    if hit in flags:
        transformer.note(name, flags, "not every N-th block")
    return None


def expert_fields(transformer: UpstreamSection) -> dict[str, Any]:
    """Return the fields of `ExpertsConfig`.

    A value without a counterpart, such as the dispatcher `flex`, is returned as it is, and validation refuses it.

    Args:
        transformer: Dictionary of the engine's config.
    """
    balancing, dtype = transformer.take("moe_router_load_balancing_type"), transformer.take("moe_router_dtype")
    found = {ours: transformer.take(theirs) for theirs, ours in EXPERT_ENGINE_NAMES.items()}
    if balancing is not None:
        found["load_balancing"] = _BALANCING.get(str(balancing), balancing)
    found["router_dtype"] = _ROUTER_DTYPES.get(dtype, dtype)
    shared = transformer.take("moe_shared_expert_intermediate_size")
    if shared:
        found |= {"shared_experts": 1, "shared_expert_ffn_hidden_size": shared}
    return _given(found)


def _given(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields without those that upstream leaves to a default."""
    return {name: value for name, value in fields.items() if value is not None}


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
