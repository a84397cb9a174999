"""The parts for PyTorch."""

from transformer_engine.pytorch import cpu_offload_v1, distributed, ops
from transformer_engine.pytorch.attention import DotProductAttention
from transformer_engine.pytorch.module.linear import GroupedLinear, LayerNormLinear, Linear
from transformer_engine.pytorch.module.norm import LayerNorm, RMSNorm
from transformer_engine.pytorch.module.padding import Fp8Padding, Fp8Unpadding
from transformer_engine.pytorch.quantization import fp8_autocast, fp8_model_init

__all__ = [
    "DotProductAttention",
    "Fp8Padding",
    "Fp8Unpadding",
    "GroupedLinear",
    "LayerNorm",
    "LayerNormLinear",
    "Linear",
    "RMSNorm",
    "cpu_offload_v1",
    "distributed",
    "fp8_autocast",
    "fp8_model_init",
    "ops",
]
