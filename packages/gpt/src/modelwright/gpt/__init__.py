"""The GPT family: config, builder, presets and Hugging Face name maps.

`import modelwright.gpt` loads no torch; the builder is imported when it is first asked for.
"""

from typing import TYPE_CHECKING

from modelwright.gpt.config import GPTModelConfig
from modelwright.gpt.presets import gpt2_124m, gpt_tiny, llama3_8b, llama3_70b, llama31_405b

if TYPE_CHECKING:
    from modelwright.gpt.builder import GPTModelBuilder

__all__ = [
    "GPTModelBuilder",
    "GPTModelConfig",
    "gpt2_124m",
    "gpt_tiny",
    "llama3_8b",
    "llama3_70b",
    "llama31_405b",
]


def __getattr__(name: str) -> object:
    """Import the builder when it is asked for (PEP 562)."""
    if name == "GPTModelBuilder":
        from modelwright.gpt.builder import GPTModelBuilder

        return GPTModelBuilder
    raise AttributeError(f"module `{__name__}` has no attribute `{name}`")
