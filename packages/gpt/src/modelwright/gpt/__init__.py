"""The GPT family: config, builder, presets and the weight map to Hugging Face.

`import modelwright.gpt` loads no torch: `GPTModelBuilder` and `llama_map` are imported when they are first used.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelwright.gpt.builder import GPTModelBuilder
    from modelwright.gpt.config import GPTModelConfig
    from modelwright.gpt.hf import llama_map
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
    "llama_map",
]
