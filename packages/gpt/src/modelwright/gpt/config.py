"""What a GPT is: the inputs of a decoder-only transformer. No torch.

A GPT is the stack pattern `*-` (attention, dense MLP), once for each block. Importing this module registers the kind
`gpt`.
"""

from typing import ClassVar, override

from modelwright.config import (
    Count,
    DecoderConfig,
    config_class,
    register_config,
    register_preset_module,
    register_upstream_module,
)

__all__ = ["GPTModelConfig"]


@register_config
@config_class
class GPTModelConfig(DecoderConfig):
    """A decoder-only transformer."""

    kind: ClassVar[str] = "gpt"
    builder: ClassVar[str] = "modelwright.gpt.builder:GPTModelBuilder"
    block_size: ClassVar[int] = 2

    num_layers: Count
    """Transformer blocks, each an attention layer and an MLP layer."""

    num_attention_heads: Count
    """Query heads."""

    @property
    @override
    def stack_pattern(self) -> str:
        """One symbol for each layer: `*` attention, `-` dense MLP."""
        return "*-" * self.num_layers

    @property
    @override
    def symbols(self) -> frozenset[str]:
        return frozenset("*-")

    @property
    @override
    def blocks(self) -> int:
        return self.num_layers


register_preset_module("modelwright.gpt.presets")
register_upstream_module("modelwright.gpt.from_megatron")
