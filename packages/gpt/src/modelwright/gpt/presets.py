"""Presets: published GPT models, by name. Each function returns a new config. No torch."""

from modelwright.config import Llama3RopeScaling, register_preset
from modelwright.gpt.config import GPTModelConfig

__all__ = ["gpt2_124m", "gpt_tiny", "llama3_8b", "llama3_70b", "llama31_405b"]


@register_preset
def gpt_tiny() -> GPTModelConfig:
    """Byte-level model that trains in minutes on two CPU cores; the model of `docs/examples/gpt-tiny.yaml`."""
    return GPTModelConfig(
        num_layers=4, hidden_size=256, num_attention_heads=8, num_query_groups=4, vocab_size=256, seq_length=256
    )


@register_preset
def gpt2_124m() -> GPTModelConfig:
    """GPT-2 small (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", table 2)."""
    return GPTModelConfig(
        num_layers=12,
        hidden_size=768,
        num_attention_heads=12,
        ffn_hidden_size=3072,
        activation="gelu_tanh",
        normalization="layernorm",
        position_embedding="learned",
        vocab_size=50257,
        seq_length=1024,
        tie_embeddings=True,
        linear_bias=True,
        attention_dropout=0.1,
        hidden_dropout=0.1,
    )


@register_preset
def llama3_8b() -> GPTModelConfig:
    """Llama 3 8B ("The Llama 3 Herd of Models", arXiv:2407.21783, table 3; model card of Meta-Llama-3-8B)."""
    return GPTModelConfig(
        num_layers=32,
        hidden_size=4096,
        num_attention_heads=32,
        num_query_groups=8,
        ffn_hidden_size=14336,
        rotary_base=500000.0,
        vocab_size=128256,
        seq_length=8192,
    )


@register_preset
def llama3_70b() -> GPTModelConfig:
    """Llama 3 70B ("The Llama 3 Herd of Models", arXiv:2407.21783, table 3; model card of Meta-Llama-3-70B)."""
    return GPTModelConfig(
        num_layers=80,
        hidden_size=8192,
        num_attention_heads=64,
        num_query_groups=8,
        ffn_hidden_size=28672,
        rotary_base=500000.0,
        vocab_size=128256,
        seq_length=8192,
    )


@register_preset
def llama31_405b() -> GPTModelConfig:
    """Llama 3.1 405B ("The Llama 3 Herd of Models", arXiv:2407.21783, table 3; model card of Llama-3.1-405B)."""
    return GPTModelConfig(
        num_layers=126,
        hidden_size=16384,
        num_attention_heads=128,
        num_query_groups=8,
        ffn_hidden_size=53248,
        rotary_base=500000.0,
        rope_scaling=Llama3RopeScaling(),
        vocab_size=128256,
        seq_length=131072,
    )
