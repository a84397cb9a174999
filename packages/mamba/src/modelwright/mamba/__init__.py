"""The Mamba family: Mamba-2 and hybrids of Mamba, attention and MLP; config, builder, presets and name maps.

`import modelwright.mamba` loads no torch; the builder and its spec are imported when they are first asked for.
"""

from typing import TYPE_CHECKING

from modelwright.mamba.config import MambaModelConfig, hybrid_pattern
from modelwright.mamba.presets import hybrid_tiny, mamba2_2_7b, mamba2_130m, mamba_tiny, nemotron_h_8b

if TYPE_CHECKING:
    from modelwright.mamba.builder import MambaModelBuilder, mamba_stack

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


def __getattr__(name: str) -> object:
    """Import the builder and its spec when they are asked for (PEP 562)."""
    if name in {"MambaModelBuilder", "mamba_stack"}:
        from modelwright.mamba import builder

        found: object = getattr(builder, name)
        return found
    raise AttributeError(f"module `{__name__}` has no attribute `{name}`")
