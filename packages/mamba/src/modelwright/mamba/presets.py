"""Presets: published Mamba models and hybrids, by name. Each function returns a new config. No torch."""

from modelwright.config import register_preset
from modelwright.mamba.config import MambaModelConfig

__all__ = ["hybrid_tiny", "mamba2_2_7b", "mamba2_130m", "mamba_tiny", "nemotron_h_8b"]


@register_preset
def mamba_tiny() -> MambaModelConfig:
    """Byte-level model that trains in minutes on two CPU cores; the model of `docs/examples/mamba-tiny.yaml`."""
    return MambaModelConfig(
        num_layers=4,
        hidden_size=256,
        mamba_state_dim=32,
        mamba_head_dim=32,
        mamba_num_groups=2,
        chunk_size=64,
        vocab_size=256,
        seq_length=256,
    )


@register_preset
def hybrid_tiny() -> MambaModelConfig:
    """Byte-level hybrid that trains in minutes on two CPU cores; the model of `docs/examples/hybrid-tiny.yaml`."""
    return MambaModelConfig(
        pattern="M*M-M*ME",
        hidden_size=256,
        num_attention_heads=8,
        num_query_groups=4,
        num_experts=4,
        top_k=2,
        expert_ffn_hidden_size=256,
        mamba_state_dim=32,
        mamba_head_dim=32,
        mamba_num_groups=2,
        chunk_size=64,
        vocab_size=256,
        seq_length=256,
    )


@register_preset
def mamba2_130m() -> MambaModelConfig:
    """Mamba-2 130M (Dao and Gu 2024, arXiv:2405.21060, appendix D; the published `state-spaces/mamba2-130m`)."""
    return _mamba2(num_layers=24, hidden_size=768)


@register_preset
def mamba2_2_7b() -> MambaModelConfig:
    """Mamba-2 2.7B (Dao and Gu 2024, arXiv:2405.21060, appendix D; the published `state-spaces/mamba2-2.7b`)."""
    return _mamba2(num_layers=64, hidden_size=2560)


@register_preset
def nemotron_h_8b() -> MambaModelConfig:
    """Nemotron-H 8B (arXiv:2504.03624, table 1; the published `nvidia/Nemotron-H-8B-Base-8K`)."""
    return MambaModelConfig(
        pattern="M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-",
        hidden_size=4096,
        num_attention_heads=32,
        num_query_groups=8,
        head_dim=128,
        ffn_hidden_size=21504,
        activation="squared_relu",
        mamba_state_dim=128,
        mamba_head_dim=64,
        mamba_num_heads=128,
        mamba_num_groups=8,
        vocab_size=131072,
        seq_length=8192,
    )


def _mamba2(*, num_layers: int, hidden_size: int) -> MambaModelConfig:
    return MambaModelConfig(
        num_layers=num_layers,
        hidden_size=hidden_size,
        chunk_size=256,
        vocab_size=50277,
        vocab_multiple=16,
        seq_length=2048,
        tie_embeddings=True,
    )
