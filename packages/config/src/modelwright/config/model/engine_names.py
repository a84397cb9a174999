"""Names of Megatron-Core for fields of ours that hold the same value, where the two names differ."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

EXPERT_ENGINE_NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "num_moe_experts": "num_experts",
        "moe_router_topk": "top_k",
        "moe_ffn_hidden_size": "expert_ffn_hidden_size",
        "moe_shared_expert_gate": "shared_expert_gate",
        "moe_latent_size": "expert_latent_size",
        "moe_router_score_function": "router_score",
        "moe_router_pre_softmax": "router_pre_softmax",
        "moe_router_num_groups": "router_groups",
        "moe_router_group_topk": "router_top_groups",
        "moe_router_topk_scaling_factor": "router_scaling",
        "moe_router_enable_expert_bias": "expert_bias",
        "moe_router_bias_update_rate": "expert_bias_rate",
        "moe_aux_loss_coeff": "load_balancing_coefficient",
        "moe_z_loss_coeff": "z_loss_coefficient",
        "moe_expert_capacity_factor": "capacity_factor",
        "moe_token_drop_policy": "drop_policy",
        "moe_pad_expert_input_to_capacity": "pad_to_capacity",
        "moe_token_dispatcher_type": "dispatcher",
    }
)
"""Fields of the engine's config by name, with the field of `ExpertsConfig` that sets each."""
