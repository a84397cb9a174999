"""`MoeModelBuilder`: a decoder whose blocks are attention and then an MLP or a mixture of experts."""

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import override

from modelwright.builders import Hook
from modelwright.layers import (
    TORCH,
    AttentionLayerSpec,
    Backend,
    DecoderModelBuilder,
    SelfAttentionSpec,
    StackSpec,
    decoder_stack,
    missing_for_te,
)
from modelwright.moe._heads_norm import HeadsNorm
from modelwright.moe.config import MoeModelConfig
from modelwright.protocols import ModelwrightError


def moe_stack(config: MoeModelConfig, backend: Backend = TORCH) -> StackSpec:
    """What fills the slots of a model of experts: the spec to change with `dataclasses.replace`.

    Args:
        config: Decides on the norms of queries and keys and on the rotary scaling.
        backend: Whose parts fill the generic slots.

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
    """Builds the model of a `MoeModelConfig`; override `build_model` or `build_distributed_models` to change how.

    Args:
        config: What to build.
        spec: What fills every slot, or the name that it was registered under; `moe_stack` when None.
        backend: Which parts the family's own spec is made of: `torch`, `te` or `auto`.
        hooks: Run around the wrap, in order.
        meta: Build on the meta device first, then materialise; the model is the same.

    Raises:
        ModelwrightError: There is no such backend or spec, or the backend, or a part that the config asks for, cannot
            be used here.
    """

    def __init__(
        self,
        config: MoeModelConfig,
        *,
        spec: StackSpec | str | None = None,
        backend: str = "torch",
        hooks: Iterable[Hook] = (),
        meta: bool = False,
    ) -> None:
        missing = missing_for_te() if config.expert_latent_size is not None else []
        if missing:
            raise ModelwrightError(
                f"`expert_latent_size` must be null where the engine cannot project with Transformer Engine, but is"
                f" {config.expert_latent_size} and {' and '.join(missing)}; leave it out."
            )
        super().__init__(config, spec=spec, backend=backend, hooks=hooks, meta=meta)

    @override
    def default_spec(self) -> StackSpec:
        return moe_stack(self.config, self.backend)
