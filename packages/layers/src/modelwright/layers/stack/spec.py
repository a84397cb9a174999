"""Specs: frozen dataclasses of typed builders, one field per slot, each itself a builder.

`StackSpec` holds a layer spec per symbol of the stack pattern, a layer spec holds the parts of a layer, and so on down.
Calling a spec builds the engine's module with those parts, so a spec fits wherever its builder does, and a whole layer,
one attention or one linear is swapped by the same `dataclasses.replace`. Every field has the `torch` backend's part as
its default; a builder that does not fit its slot is refused when the spec is made.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from megatron.core.models.hybrid.hybrid_block import HybridStack, HybridStackSubmodules
from megatron.core.ssm.mlp_layer import MLPLayer
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.transformer_layer import TransformerLayer, TransformerLayerSubmodules

from modelwright.engine import as_engine, as_function_spec, as_module_spec, check_slots
from modelwright.layers.attention.latent_attention import LatentAttentionLayerSpec
from modelwright.layers.attention.sdpa import SdpaCoreAttention
from modelwright.layers.mamba.mamba_layer import MambaLayerSpec
from modelwright.layers.moe.moe_layer import MoeLayerSpec
from modelwright.layers.norm import TorchNorm
from modelwright.layers.residual import bias_dropout_add
from modelwright.protocols import (
    AttentionLayerBuilder,
    AttentionLayerInterface,
    BiasDropoutAddBuilder,
    CoreAttentionBuilder,
    EmbeddingBuilder,
    LatentAttentionLayerBuilder,
    LinearFc1Builder,
    LinearFc2Builder,
    LinearProjBuilder,
    LinearQkvBuilder,
    MambaLayerBuilder,
    MlpBuilder,
    MlpLayerBuilder,
    MlpLayerInterface,
    ModelwrightError,
    MoeLayerBuilder,
    NormBuilder,
    OutputLayerBuilder,
    RotaryEmbeddingBuilder,
    SelfAttentionBuilder,
    SelfAttentionInterface,
)

if TYPE_CHECKING:
    import torch
    from megatron.core.process_groups_config import ProcessGroupCollection
    from megatron.core.transformer import TransformerConfig


FUSED_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "self_attention.linear_qkv.layer_norm_": "input_layernorm.",
        "mlp.linear_fc1.layer_norm_": "pre_mlp_layernorm.",
    }
)
"""Where a linear holds the weights of the norm before it, and the name of a norm of its own; both begin names."""


@dataclass(frozen=True, kw_only=True)
class SelfAttentionSpec:
    """The engine's self-attention with these parts; fills `AttentionLayerSpec.self_attention`."""

    linear_qkv: LinearQkvBuilder = ColumnParallelLinear
    """Makes queries, keys and values in one product."""
    core_attention: CoreAttentionBuilder = SdpaCoreAttention
    """Attends."""
    linear_proj: LinearProjBuilder = RowParallelLinear
    """Projects the heads back to the hidden size."""
    q_layernorm: NormBuilder | None = None
    """Normalizes each query head; None leaves it out."""
    k_layernorm: NormBuilder | None = None
    """Normalizes each key head; None leaves it out."""

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
        """Build the attention of one layer, causal."""
        _check_query_key_norms(self, config)
        parts = SelfAttentionSubmodules(
            linear_qkv=as_engine(self.linear_qkv),
            core_attention=as_engine(self.core_attention),
            linear_proj=as_engine(self.linear_proj),
            q_layernorm=self.q_layernorm,
            k_layernorm=self.k_layernorm,
        )
        attention: SelfAttentionInterface = as_engine(
            SelfAttention(
                config=config,
                submodules=parts,
                layer_number=layer_number,
                attn_mask_type=AttnMaskType.causal,
                cp_comm_type=cp_comm_type,
                pg_collection=pg_collection,
                pp_layer_offset=pp_layer_offset,
                name=name,
            )
        )
        return attention


def _check_query_key_norms(spec: SelfAttentionSpec, config: "TransformerConfig") -> None:
    """The engine's config and the spec must agree on whether queries and keys are normalized."""
    given = [name for name in ("q_layernorm", "k_layernorm") if getattr(spec, name) is not None]
    if given and not (config.qk_layernorm or config.qk_l2_norm):
        raise ModelwrightError(
            f"`{given[0]}` must be None in a spec for a model that does not normalize queries and keys, but is set; "
            "leave it out, or switch the norms on (`qk_norm` of the model)."
        )
    if len(given) < 2 and config.qk_layernorm:
        missing = "q_layernorm" if "q_layernorm" not in given else "k_layernorm"
        raise ModelwrightError(
            f"`{missing}` must be set in a spec for a model that normalizes queries and keys, but is None; give it a "
            "norm such as `TorchNorm`, or switch the norms off (`qk_norm` of the model)."
        )


@dataclass(frozen=True, kw_only=True)
class MlpSpec:
    """The engine's MLP with these parts; fills `MlpLayerSpec.mlp`."""

    linear_fc1: LinearFc1Builder = ColumnParallelLinear
    """Widens; twice as wide for a gated activation."""
    linear_fc2: LinearFc2Builder = RowParallelLinear
    """Narrows."""

    def __post_init__(self) -> None:
        check_slots(self)

    def __call__(
        self,
        *,
        config: "TransformerConfig",
        pg_collection: "ProcessGroupCollection",
        is_mtp_layer: bool,
        name: str | None = None,
    ) -> MLP:
        """Build the MLP of one layer."""
        return MLP.as_mlp_submodule(
            MLPSubmodules(linear_fc1=as_engine(self.linear_fc1), linear_fc2=as_engine(self.linear_fc2)),
            config=config,
            pg_collection=pg_collection,
            is_mtp_layer=is_mtp_layer,
            ffn_hidden_size=config.ffn_hidden_size,
            name=name,
        )


@dataclass(frozen=True, kw_only=True)
class AttentionLayerSpec:
    """A layer of norm, self-attention and residual add: symbol `*`."""

    input_layernorm: NormBuilder = TorchNorm
    """Before the attention."""
    self_attention: SelfAttentionBuilder = SelfAttentionSpec()
    """The attention with its projections."""
    self_attn_bda: BiasDropoutAddBuilder = bias_dropout_add
    """Bias, dropout and residual add after it."""

    def __post_init__(self) -> None:
        check_slots(self)

    def __call__(
        self,
        *,
        config: "TransformerConfig",
        layer_number: int,
        pg_collection: "ProcessGroupCollection",
        is_mtp_layer: bool = False,
        add_layer_offset: bool = True,
        pp_layer_offset: int | None = None,
        name: str | None = None,
    ) -> AttentionLayerInterface:
        """Build one attention layer."""
        parts = TransformerLayerSubmodules(
            input_layernorm=self.input_layernorm,
            self_attention=as_module_spec(self.self_attention),
            self_attn_bda=as_function_spec(self.self_attn_bda),
            sharded_state_dict_keys_map=dict(FUSED_NAMES),
        )
        layer: AttentionLayerInterface = as_engine(
            TransformerLayer(
                config=config,
                submodules=parts,
                layer_number=layer_number,
                pg_collection=pg_collection,
                is_mtp_layer=is_mtp_layer,
                add_layer_offset=add_layer_offset,
                pp_layer_offset=pp_layer_offset,
                name=name,
            )
        )
        return layer


@dataclass(frozen=True, kw_only=True)
class MlpLayerSpec:
    """A layer of norm, MLP and residual add: symbol `-`."""

    pre_mlp_layernorm: NormBuilder = TorchNorm
    """Before the MLP."""
    mlp: MlpBuilder = MlpSpec()
    """The MLP."""
    mlp_bda: BiasDropoutAddBuilder = bias_dropout_add
    """Bias, dropout and residual add after it."""

    def __post_init__(self) -> None:
        check_slots(self)

    def __call__(
        self,
        *,
        config: "TransformerConfig",
        layer_number: int,
        pg_collection: "ProcessGroupCollection",
        add_layer_offset: bool = True,
        name: str | None = None,
    ) -> MlpLayerInterface:
        """Build one MLP layer."""
        parts = TransformerLayerSubmodules(
            pre_mlp_layernorm=self.pre_mlp_layernorm,
            mlp=as_engine(self.mlp),
            mlp_bda=as_function_spec(self.mlp_bda),
            sharded_state_dict_keys_map=dict(FUSED_NAMES),
        )
        layer: MlpLayerInterface = as_engine(
            MLPLayer(
                config=config,
                submodules=parts,
                layer_number=layer_number,
                pg_collection=pg_collection,
                add_layer_offset=add_layer_offset,
                name=name,
            )
        )
        return layer


@dataclass(frozen=True, kw_only=True)
class StackSpec:
    """Everything of a model that a user may swap: a layer per symbol, the final norm, and what stands around them."""

    attention: AttentionLayerBuilder = AttentionLayerSpec()
    """Symbol `*`."""
    mlp: MlpLayerBuilder = MlpLayerSpec()
    """Symbol `-`."""
    latent_attention: LatentAttentionLayerBuilder = field(default_factory=LatentAttentionLayerSpec)
    """Symbol `+`."""
    moe: MoeLayerBuilder = field(default_factory=MoeLayerSpec)
    """Symbol `E`."""
    mamba: MambaLayerBuilder = field(default_factory=MambaLayerSpec)
    """Symbol `M`."""
    final_norm: NormBuilder = TorchNorm
    """After the last layer."""
    embedding: EmbeddingBuilder | None = None
    """Tokens to hidden states; None takes the engine's."""
    rotary_embedding: RotaryEmbeddingBuilder | None = None
    """Angles of the rotary position embedding; None takes the engine's, where the config asks for one."""
    output_layer: OutputLayerBuilder | None = None
    """Hidden states to logits; None takes the engine's."""

    def __post_init__(self) -> None:
        check_slots(self)

    def __call__(
        self,
        config: "TransformerConfig",
        *,
        pre_process: bool,
        layer_type_list: list[str],
        pp_layer_offset: int,
        post_process: bool,
        dtype: "torch.dtype",
        pg_collection: "ProcessGroupCollection",
        name: str | None = None,
    ) -> HybridStack:
        """Build the layers of one stage.

        The engine's stack hard-codes Transformer Engine's final norm, so it is built without and given the slot's.
        """
        stack = HybridStack(
            config,
            HybridStackSubmodules(
                attention_layer=as_module_spec(self.attention),
                mlp_layer=as_module_spec(self.mlp),
                mla_layer=as_module_spec(self.latent_attention),
                moe_layer=as_module_spec(self.moe),
                mamba_layer=as_module_spec(self.mamba),
            ),
            pre_process=pre_process,
            layer_type_list=layer_type_list,
            pp_layer_offset=pp_layer_offset,
            post_layer_norm=False,
            post_process=post_process,
            dtype=dtype,
            pg_collection=pg_collection,
            name=name,
        )
        if post_process:
            stack.final_norm = as_engine(
                self.final_norm(config=config, hidden_size=config.hidden_size, eps=config.layernorm_epsilon)
            )
            stack.post_layer_norm = True
        return stack
