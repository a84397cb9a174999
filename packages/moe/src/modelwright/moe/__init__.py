"""The MoE family: config, builder, presets and the weight map to Hugging Face.

`import modelwright.moe` loads no torch: `MoeModelBuilder`, `moe_stack` and `moe_map` are imported when they are first
used.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelwright.moe.builder import MoeModelBuilder, moe_stack
    from modelwright.moe.config import LatentAttention, MoeModelConfig
    from modelwright.moe.hf import moe_map
    from modelwright.moe.presets import deepseek_v3, mixtral_8x7b, moe_tiny, olmoe_1b_7b, qwen3_30b_a3b
else:
    from modelwright.protocols import lazy_door

    __getattr__, __dir__ = lazy_door(__name__, __file__)

__all__ = [
    "LatentAttention",
    "MoeModelBuilder",
    "MoeModelConfig",
    "deepseek_v3",
    "mixtral_8x7b",
    "moe_map",
    "moe_stack",
    "moe_tiny",
    "olmoe_1b_7b",
    "qwen3_30b_a3b",
]
