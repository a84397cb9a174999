"""`MoeModelBuilder`: assembles a decoder with blocks of attention and then an MLP or MoE layer."""

from dataclasses import replace
from functools import partial
from typing import override

from modelwright.layers import (
    TORCH,
    AttentionLayerSpec,
    Backend,
    DecoderModelBuilder,
    HeadsNorm,
    SelfAttentionSpec,
    StackSpec,
    decoder_stack,
)
from modelwright.moe.config import MoeModelConfig


def moe_stack(config: MoeModelConfig, backend: Backend = TORCH) -> StackSpec:
    """Return the default spec of an MoE model; change it with `dataclasses.replace`.

    Args:
        config: Decides about norms of queries and keys, and about rotary scaling.
        backend: Backend of the generic parts.

    Returns:
        The spec.
    """
    stack = decoder_stack(config, backend)
    if config.qk_norm_over == "head":
        return stack
    attention = SelfAttentionSpec(
        linear_qkv=backend.norm_linear,
        core_attention=backend.core_attention,
        linear_proj=backend.row_linear,
        q_layernorm=partial(HeadsNorm, heads=config.heads),
        k_layernorm=partial(HeadsNorm, heads=config.resolved_query_groups),
    )
    layer = AttentionLayerSpec(input_layernorm=backend.norm_before_linear, self_attention=attention)
    return replace(stack, attention=layer)


class MoeModelBuilder(DecoderModelBuilder[MoeModelConfig]):
    """Builds the model of a `MoeModelConfig`.

    Override `build_model` for another module, or `build_distributed_models` for another lifecycle.
    """

    @override
    def default_spec(self) -> StackSpec:
        return moe_stack(self.config, self.backend)
