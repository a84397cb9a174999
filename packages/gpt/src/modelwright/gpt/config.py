"""`GPTModelConfig`: config of a decoder-only transformer. No torch.

A GPT has the stack pattern `*-` (attention, dense MLP), once for each block. Importing this module registers the kind
`gpt`.
"""

from typing import ClassVar, override

from modelwright.config import (
    ATTENTION,
    MLP,
    Count,
    DecoderConfig,
    config_class,
    register_config,
    register_preset_module,
    register_upstream_module,
)

__all__ = ["GPTModelConfig"]

_BLOCK = ATTENTION.symbol + MLP.symbol


@register_config
@config_class
class GPTModelConfig(DecoderConfig):
    """A decoder-only transformer."""

    kind: ClassVar[str] = "gpt"
    builder: ClassVar[str] = "modelwright.gpt.builder:GPTModelBuilder"
    block_size: ClassVar[int] = len(_BLOCK)

    num_layers: Count
    """Number of transformer blocks, each an attention layer and an MLP layer."""

    num_attention_heads: Count
    """Number of query heads."""

    @property
    @override
    def stack_pattern(self) -> str:
        """Stack pattern: `*-` (attention, dense MLP) for each block."""
        return _BLOCK * self.num_layers

    @property
    @override
    def symbols(self) -> frozenset[str]:
        return frozenset(_BLOCK)

    @property
    @override
    def blocks(self) -> int:
        return self.num_layers


register_preset_module("modelwright.gpt.presets")
register_upstream_module("modelwright.gpt.from_megatron")
