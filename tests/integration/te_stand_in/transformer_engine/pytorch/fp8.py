"""The old place of the contexts, where Megatron-Core looks for them."""

from transformer_engine.pytorch.quantization import FP8GlobalStateManager, fp8_autocast, fp8_model_init

__all__ = ["FP8GlobalStateManager", "fp8_autocast", "fp8_model_init"]
