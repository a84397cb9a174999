"""The mixture-of-experts family: config, builder, presets and Hugging Face name maps.

`import modelwright.moe` loads no torch; the builder and `moe_stack` are imported when they are first asked for.
"""

from typing import TYPE_CHECKING

from modelwright.moe.config import LatentAttention, MoeModelConfig
from modelwright.moe.presets import deepseek_v3, mixtral_8x7b, moe_tiny, olmoe_1b_7b, qwen3_30b_a3b

if TYPE_CHECKING:
    from modelwright.moe.builder import MoeModelBuilder, moe_stack

__all__ = [
    "LatentAttention",
    "MoeModelBuilder",
    "MoeModelConfig",
    "deepseek_v3",
    "mixtral_8x7b",
    "moe_stack",
    "moe_tiny",
    "olmoe_1b_7b",
    "qwen3_30b_a3b",
]


def __getattr__(name: str) -> object:
    """Import the builder when it is asked for (PEP 562)."""
    if name in ("MoeModelBuilder", "moe_stack"):
        from modelwright.moe import builder

        return getattr(builder, name)
    raise AttributeError(f"module `{__name__}` has no attribute `{name}`")
