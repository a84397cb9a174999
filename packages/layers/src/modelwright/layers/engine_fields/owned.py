"""Fields of Megatron-Core's config that a field of ours sets.

A config that leaves our field at its default, or has none, may set the engine's in `engine:`, if its layers read it.
"""

from typing import Final

from modelwright.config import ATTENTION, EXPERT_ENGINE_NAMES, MAMBA, MLA, MLP, MOE
from modelwright.layers.engine_fields.verdict import Condition, Owned, Verdicts, setting

_ATTENTION, _MLA, _MOE, _MAMBA = ATTENTION.symbol, MLA.symbol, MOE.symbol, MAMBA.symbol
_BOTH = _ATTENTION + _MLA

_MODEL = {
    "num_layers": "num_layers",
    "hidden_size": "hidden_size",
    "normalization": "normalization",
    "layernorm_epsilon": "norm_epsilon",
    "add_bias_linear": "linear_bias",
    "hidden_dropout": "hidden_dropout",
    "layernorm_zero_centered_gamma": "zero_centered_norm",
    "init_method_std": "init_std",
    "init_method": "init_std",
    "output_layer_init_method": "init_std",
}
_ATTENTION_LAYERS = {
    "num_attention_heads": "num_attention_heads",
    "attention_dropout": "attention_dropout",
    "qk_layernorm": "qk_norm",
    "window_size": "sliding_window",
    "softmax_type": "attention_sinks",
}
_ONLY_ATTENTION = {
    "num_query_groups": "num_query_groups",
    "kv_channels": "head_dim",
    "add_qkv_bias": "qkv_bias",
    "softmax_scale": "softmax_scale",
}
_FEED_FORWARD = {
    "ffn_hidden_size": "ffn_hidden_size",
    "activation_func": "activation",
    "gated_linear_unit": "activation",
}
_LATENT = {
    "multi_latent_attention": "latent_attention",
    "q_lora_rank": "latent_attention.query_rank",
    "kv_lora_rank": "latent_attention.key_value_rank",
    "qk_head_dim": "latent_attention.head_dim",
    "qk_pos_emb_head_dim": "latent_attention.rotary_head_dim",
    "v_head_dim": "latent_attention.value_head_dim",
    "rope_type": "rope_scaling",
    "rotary_base": "rotary_base",
    "rotary_percent": "rotary_percent",
}
_YARN = {
    "rotary_scaling_factor": "rope_scaling",
    "original_max_position_embeddings": "rope_scaling",
    "beta_fast": "rope_scaling",
    "beta_slow": "rope_scaling",
    "mscale": "rope_scaling",
    "mscale_all_dim": "rope_scaling",
}
_EXPERTS = {
    **EXPERT_ENGINE_NAMES,
    "moe_shared_expert_intermediate_size": "shared_experts",
    "moe_router_dtype": "router_dtype",
    "moe_router_load_balancing_type": "load_balancing",
}
_SCAN = {
    "mamba_state_dim": "mamba_state_dim",
    "mamba_head_dim": "mamba_head_dim",
    "mamba_num_heads": "mamba_num_heads",
    "mamba_num_groups": "mamba_num_groups",
}
_AXES = {
    "tensor_model_parallel_size": "parallelism.tensor",
    "sequence_parallel": "parallelism.sequence",
    "pipeline_model_parallel_size": "parallelism.pipeline",
    "virtual_pipeline_model_parallel_size": "parallelism.virtual_pipeline",
    "overlap_p2p_comm": "parallelism.virtual_pipeline",
    "batch_p2p_comm": "parallelism.virtual_pipeline",
    "context_parallel_size": "parallelism.context",
    "expert_model_parallel_size": "parallelism.expert",
    "expert_tensor_parallel_size": "parallelism.expert_tensor",
}
_DTYPES = ("params_dtype", "pipeline_dtype", "autocast_dtype", "bf16", "fp16")

_WINDOWED = Condition("with `engine.window_size`", lambda of: of("window_size") is not None)
_ROTATED = Condition("with `position_embedding: rope`", lambda of: of("position_embedding") in ("rope", None))

OWNED: Final[Verdicts] = {
    **{name: Owned(by) for name, by in _MODEL.items()},
    **{name: Owned(by, _BOTH) for name, by in _ATTENTION_LAYERS.items()},
    **{name: Owned(by, _ATTENTION) for name, by in _ONLY_ATTENTION.items()},
    "window_attn_skip_freq": Owned("full_attention_every", _BOTH, _WINDOWED),
    "no_rope_freq": Owned("no_rope_every", _ATTENTION, _ROTATED),
    **{name: Owned(by, MLP.symbol + _MOE) for name, by in _FEED_FORWARD.items()},
    **{name: Owned(by, _MLA) for name, by in _LATENT.items()},
    **{name: Owned(by, _MLA, setting("rope_type", "yarn")) for name, by in _YARN.items()},
    **{name: Owned(by, _MOE) for name, by in _EXPERTS.items()},
    **{name: Owned(by, _MAMBA) for name, by in _SCAN.items()},
    **{name: Owned(by) for name, by in _AXES.items()},
    **dict.fromkeys(_DTYPES, Owned("precision.params")),
}
"""The owned fields."""
