"""The Mamba family: Mamba-2 and hybrids of Mamba, attention and MLP; config, builder, presets and name maps.

`import modelwright.mamba` loads no torch; the builder and its spec are imported when they are first asked for.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelwright.mamba.builder import MambaModelBuilder, mamba_stack
    from modelwright.mamba.config import MambaModelConfig, hybrid_pattern
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
    "mamba_stack",
    "mamba_tiny",
    "nemotron_h_8b",
]
