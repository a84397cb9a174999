"""The Mamba family, Mamba-2 and hybrids: config, builder, presets and the weight maps to Hugging Face.

`import modelwright.mamba` loads no torch: `MambaModelBuilder`, `mamba_stack` and the maps are imported when they are
first used.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelwright.mamba.builder import MambaModelBuilder, mamba_stack
    from modelwright.mamba.config import MambaModelConfig, hybrid_pattern
    from modelwright.mamba.hf import mamba2_map, nemotron_h_map
    from modelwright.mamba.presets import hybrid_tiny, mamba2_2_7b, mamba2_130m, mamba_tiny, nemotron_h_8b
else:
    from modelwright.protocols import lazy_door

    __getattr__, __dir__ = lazy_door(__name__, __file__)

__all__ = [
    "MambaModelBuilder",
    "MambaModelConfig",
    "hybrid_pattern",
    "hybrid_tiny",
    "mamba2_2_7b",
    "mamba2_130m",
    "mamba2_map",
    "mamba_stack",
    "mamba_tiny",
    "nemotron_h_8b",
    "nemotron_h_map",
]
