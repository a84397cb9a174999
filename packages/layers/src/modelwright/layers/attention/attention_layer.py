"""Specs of the attention layer, symbol `*`: the layer, and the self-attention in it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.transformer_layer import TransformerLayer

from modelwright.layers.attention.sdpa import SdpaCoreAttention
from modelwright.layers.layer_spec import LayerSpec
from modelwright.layers.norm import TorchNorm
from modelwright.layers.residual import bias_dropout_add
from modelwright.layers.slot_check import check_slots
from modelwright.protocols import (
    AttentionLayerInterface,
    BiasDropoutAddBuilder,
    CoreAttentionBuilder,
    LinearProjBuilder,
    LinearQkvBuilder,
    ModelwrightError,
    NormBuilder,
    SelfAttentionBuilder,
    SelfAttentionInterface,
)

if TYPE_CHECKING:
    from megatron.core.process_groups_config import ProcessGroupCollection
    from megatron.core.transformer import TransformerConfig
    from megatron.core.transformer import attention as engine


@dataclass(frozen=True, kw_only=True)
class SelfAttentionSpec:
    """The engine's self-attention with these parts; fills `AttentionLayerSpec.self_attention`."""

    linear_qkv: LinearQkvBuilder = ColumnParallelLinear
    """Projection to queries, keys and values in one product."""
    core_attention: CoreAttentionBuilder = SdpaCoreAttention
    """Softmax attention."""
    linear_proj: LinearProjBuilder = RowParallelLinear
    """Projection of the heads back to the hidden size."""
    q_layernorm: NormBuilder | None = None
    """Norm of each query head; None: no norm."""
    k_layernorm: NormBuilder | None = None
    """Norm of each key head; None: no norm."""

    def __post_init__(self) -> None:
        check_slots(self)

    def __call__(
        self,
        *,
        config: "TransformerConfig",
        layer_number: int,
        pg_collection: "ProcessGroupCollection",
        pp_layer_offset: int | None = None,
        cp_comm_type: str | None = None,
        name: str | None = None,
    ) -> SelfAttentionInterface:
        """Build the causal self-attention of one layer.

        Args:
            config: The engine's config.
            layer_number: Number of the layer in the model, from 1.
            pg_collection: Process groups of this rank.
            pp_layer_offset: Number of layers before this stage.
            cp_comm_type: How context ranks exchange keys and values in the engine's own core attention.
            name: Dotted name of this module in the model, or None.

        Returns:
            The self-attention.

        Raises:
            ModelwrightError: The spec and the config disagree on norms of queries and keys.
        """
        _check_query_key_norms(self, config)
        parts = SelfAttentionSubmodules(
            # The engine's Protocols require more than its calls use: defaults and `backward_dw`.
            linear_qkv=cast("engine.LinearQkvBuilder", self.linear_qkv),
            core_attention=cast("engine.CoreAttentionBuilder", self.core_attention),
            linear_proj=cast("engine.LinearProjBuilder", self.linear_proj),
            q_layernorm=self.q_layernorm,
            k_layernorm=self.k_layernorm,
        )
        attention = SelfAttention(
            config=config,
            submodules=parts,
            layer_number=layer_number,
            attn_mask_type=AttnMaskType.causal,
            cp_comm_type=cp_comm_type,
            pg_collection=pg_collection,
            pp_layer_offset=pp_layer_offset,
            name=name,
        )
        # The engine declares `attention_mask` and `sequence_len_offset` more narrowly than it calls them.
        return cast("SelfAttentionInterface", attention)


def _check_query_key_norms(spec: SelfAttentionSpec, config: "TransformerConfig") -> None:
    """Refuse a spec that disagrees with the engine's config on whether queries and keys are normalized."""
    given = [name for name in ("q_layernorm", "k_layernorm") if getattr(spec, name) is not None]
    if given and not (config.qk_layernorm or config.qk_l2_norm):
        raise ModelwrightError(
            f"`{given[0]}` must be None in a spec for a model that does not normalize queries and keys, but is set; "
            "leave it out, or enable the norms (`qk_norm` of the model)."
        )
    if len(given) < 2 and config.qk_layernorm:
        missing = "q_layernorm" if "q_layernorm" not in given else "k_layernorm"
        raise ModelwrightError(
            f"`{missing}` must be set in a spec for a model that normalizes queries and keys, but is None; give it a "
            "norm such as `TorchNorm`, or disable the norms (`qk_norm` of the model)."
        )


@dataclass(frozen=True, kw_only=True)
class AttentionLayerSpec(LayerSpec[AttentionLayerInterface]):
    """Layer of norm, self-attention and residual add: symbol `*`."""

    engine_class = TransformerLayer

    input_layernorm: NormBuilder = TorchNorm
    """Norm before the attention."""
    self_attention: SelfAttentionBuilder = SelfAttentionSpec()
    """Attention with its projections."""
    self_attn_bda: BiasDropoutAddBuilder = bias_dropout_add
    """Bias, dropout and residual add after the attention."""
