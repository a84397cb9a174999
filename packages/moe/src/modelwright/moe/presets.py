"""Presets: published MoE models, by name. Each function returns a new config. No torch."""

from modelwright.config import register_preset
from modelwright.moe.config import LatentAttention, MoeModelConfig

__all__ = ["deepseek_v3", "mixtral_8x7b", "moe_tiny", "olmoe_1b_7b", "qwen3_30b_a3b"]


@register_preset
def moe_tiny() -> MoeModelConfig:
    """Byte-level model that trains in minutes on two CPU cores; the model of `docs/examples/moe-tiny.yaml`."""
    return MoeModelConfig(
        num_layers=4,
        hidden_size=192,
        num_attention_heads=6,
        num_query_groups=3,
        num_experts=8,
        top_k=2,
        expert_ffn_hidden_size=256,
        vocab_size=256,
        seq_length=256,
    )


@register_preset
def mixtral_8x7b() -> MoeModelConfig:
    """Mixtral 8x7B ("Mixtral of Experts", arXiv:2401.04088, table 1; config of Mixtral-8x7B-v0.1)."""
    return MoeModelConfig(
        num_layers=32,
        hidden_size=4096,
        num_attention_heads=32,
        num_query_groups=8,
        num_experts=8,
        top_k=2,
        expert_ffn_hidden_size=14336,
        load_balancing_coefficient=0.02,
        rotary_base=1e6,
        vocab_size=32000,
        seq_length=32768,
    )


@register_preset
def olmoe_1b_7b() -> MoeModelConfig:
    """OLMoE-1B-7B ("OLMoE: Open Mixture-of-Experts Language Models", arXiv:2409.02060, table 1; config of 0924)."""
    return MoeModelConfig(
        num_layers=16,
        hidden_size=2048,
        num_attention_heads=16,
        qk_norm=True,
        qk_norm_over="heads",
        num_experts=64,
        top_k=8,
        expert_ffn_hidden_size=1024,
        router_pre_softmax=True,
        z_loss_coefficient=1e-3,
        vocab_size=50304,
        seq_length=4096,
    )


@register_preset
def qwen3_30b_a3b() -> MoeModelConfig:
    """Qwen3-30B-A3B ("Qwen3 Technical Report", arXiv:2505.09388, table 2; config of Qwen3-30B-A3B)."""
    return MoeModelConfig(
        num_layers=48,
        hidden_size=2048,
        num_attention_heads=32,
        num_query_groups=4,
        head_dim=128,
        norm_epsilon=1e-6,
        qk_norm=True,
        num_experts=128,
        top_k=8,
        expert_ffn_hidden_size=768,
        load_balancing="global_aux",
        load_balancing_coefficient=1e-3,
        rotary_base=1e6,
        vocab_size=151936,
        seq_length=40960,
    )


@register_preset
def deepseek_v3() -> MoeModelConfig:
    """DeepSeek-V3 ("DeepSeek-V3 Technical Report", arXiv:2412.19437, section 4.2; config of DeepSeek-V3).

    The model of pre-training with 4,096 tokens, before YaRN extended the context, and without multi-token prediction.
    """
    return MoeModelConfig(
        num_layers=61,
        first_dense_layers=3,
        hidden_size=7168,
        num_attention_heads=128,
        latent_attention=LatentAttention(),
        ffn_hidden_size=18432,
        norm_epsilon=1e-6,
        qk_norm=True,
        num_experts=256,
        top_k=8,
        expert_ffn_hidden_size=2048,
        shared_experts=1,
        router_score="sigmoid",
        router_groups=8,
        router_top_groups=4,
        router_scaling=2.5,
        expert_bias=True,
        load_balancing="seq_aux",
        load_balancing_coefficient=1e-4,
        init_std=0.006,
        vocab_size=129280,
        seq_length=4096,
    )
