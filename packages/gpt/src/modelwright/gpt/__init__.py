"""The GPT family: config, builder, presets and Hugging Face name maps.

`import modelwright.gpt` loads no torch; the builder is imported when it is first asked for.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelwright.gpt.builder import GPTModelBuilder
    from modelwright.gpt.config import GPTModelConfig
    from modelwright.gpt.presets import gpt2_124m, gpt_tiny, llama3_8b, llama3_70b, llama31_405b
else:
    from modelwright.protocols import lazy_door

    __getattr__, __dir__ = lazy_door(__name__, __file__)

__all__ = [
    "GPTModelBuilder",
    "GPTModelConfig",
    "gpt2_124m",
    "gpt_tiny",
    "llama3_8b",
    "llama3_70b",
    "llama31_405b",
]
