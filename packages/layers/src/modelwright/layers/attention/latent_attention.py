"""Specs of the latent attention layer, symbol `+`: queries, keys and values out of small shared vectors.

DeepSeek-AI 2024, "DeepSeek-V2", arXiv 2405.04434. The engine compares what makes those vectors with a list of its own
classes and refuses any other, and the one of that list that needs no Transformer Engine, its column-parallel linear,
goes wrong over several tensor ranks: the gradient of the rotated part of the keys, which all heads share, is not summed
over the ranks. So the engine is given that class, and what it made is replaced.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.multi_latent_attention import MLASelfAttention, MLASelfAttentionSubmodules
from megatron.core.transformer.transformer_layer import TransformerLayer, TransformerLayerSubmodules
from torch import Tensor, nn

from modelwright.engine import as_engine, as_function_spec, as_module_spec, check_slots
from modelwright.layers.attention.sdpa import SdpaCoreAttention
from modelwright.layers.norm import TorchNorm
from modelwright.layers.residual import bias_dropout_add
from modelwright.protocols import (
    BiasDropoutAddBuilder,
    LatentAttentionBuilder,
    LatentAttentionInterface,
    LatentAttentionLayerInterface,
    LatentCoreAttentionBuilder,
    LinearDownProjBuilder,
    LinearProjBuilder,
    LinearUpProjBuilder,
    ModelwrightError,
    NormBuilder,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from megatron.core.process_groups_config import ProcessGroupCollection
    from megatron.core.transformer import TransformerConfig
    from torch.distributed import ProcessGroup


class DuplicatedLinear(nn.Module):
    """A linear that every tensor rank holds whole and runs on its own part of the sequence.

    Args:
        input_size: Of the last dim of what comes in.
        output_size: Of the last dim of what goes out.
        config: The engine's config.
        init_method: Initializes the weight in place.
        bias: Whether there is a bias; must be false.
        skip_bias_add: Of no effect without a bias.
        is_expert: Of no effect.
        tp_comm_buffer_name: Of no effect.
        skip_weight_param_allocation: Of no effect.
        tp_group: Of no effect; the weight is whole on every rank.
        name: Of no effect.
        gather_output: Of no effect; the output is whole.

    Raises:
        ModelwrightError: A bias is asked for.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        /,
        *,
        config: "TransformerConfig",
        init_method: "Callable[[Tensor], None]",
        bias: bool,
        skip_bias_add: bool,
        is_expert: bool,
        tp_comm_buffer_name: str,
        skip_weight_param_allocation: bool,
        tp_group: "ProcessGroup | None",
        name: str | None,
        gather_output: bool,
    ) -> None:
        super().__init__()
        if bias:
            raise ModelwrightError("`bias` must be false for a `DuplicatedLinear`, but is true; use another linear.")
        device = torch.cuda.current_device()
        self.weight = nn.Parameter(torch.empty(output_size, input_size, dtype=config.params_dtype, device=device))
        init_method(self.weight)
        setattr(self.weight, "sequence_parallel", config.sequence_parallel)  # noqa: B010 - an attribute of the engine

    def forward(self, hidden_SBH: Tensor, /) -> tuple[Tensor, None]:
        """Project the last dim; there is no bias to return."""
        return nn.functional.linear(hidden_SBH, self.weight), None


@dataclass(frozen=True, kw_only=True)
class LatentAttentionSpec:
    """The engine's latent attention with these parts; fills `LatentAttentionLayerSpec.self_attention`."""

    linear_q_down_proj: LinearDownProjBuilder = DuplicatedLinear
    """Makes the small vector of the queries."""
    linear_q_up_proj: LinearUpProjBuilder = ColumnParallelLinear
    """Makes the queries."""
    linear_kv_down_proj: LinearDownProjBuilder = DuplicatedLinear
    """Makes the small vector of keys and values, and the rotated part of the keys."""
    linear_kv_up_proj: LinearUpProjBuilder = ColumnParallelLinear
    """Makes keys and values."""
    core_attention: LatentCoreAttentionBuilder = SdpaCoreAttention
    """Attends."""
    linear_proj: LinearProjBuilder = RowParallelLinear
    """Projects the heads back to the hidden size."""
    q_layernorm: NormBuilder = TorchNorm
    """Normalizes the small vector of the queries, where the model asks for it."""
    kv_layernorm: NormBuilder = TorchNorm
    """Normalizes the small vector of keys and values, where the model asks for it."""

    def __post_init__(self) -> None:
        check_slots(self)

    def __call__(
        self,
        *,
        config: "TransformerConfig",
        layer_number: int,
        pg_collection: "ProcessGroupCollection",
        name: str | None,
        cp_comm_type: str | None = None,
        pp_layer_offset: int | None = None,
    ) -> LatentAttentionInterface:
        """Build the attention of one layer, causal."""
        parts = MLASelfAttentionSubmodules(
            linear_q_down_proj=ColumnParallelLinear,
            linear_q_up_proj=as_module_spec(self.linear_q_up_proj),
            linear_kv_down_proj=ColumnParallelLinear,
            linear_kv_up_proj=as_module_spec(self.linear_kv_up_proj),
            core_attention=as_module_spec(self.core_attention),
            linear_proj=as_engine(self.linear_proj),
            q_layernorm=as_engine(self.q_layernorm if config.qk_layernorm else IdentityOp),
            kv_layernorm=as_engine(self.kv_layernorm if config.qk_layernorm else IdentityOp),
        )
        attention: Any = MLASelfAttention(
            config=as_engine(config),
            submodules=parts,
            layer_number=layer_number,
            attn_mask_type=AttnMaskType.causal,
            cp_comm_type=cp_comm_type,
            pg_collection=pg_collection,
            pp_layer_offset=pp_layer_offset,
            name=name,
        )
        latent: Any = config
        ranks = {
            "linear_q_down_proj": latent.q_lora_rank,
            "linear_kv_down_proj": latent.kv_lora_rank + latent.qk_pos_emb_head_dim,
        }
        for slot, rank in ranks.items():
            build: LinearDownProjBuilder = getattr(self, slot)
            down = build(  # as the engine calls its own
                config.hidden_size,
                rank,
                config=config,
                init_method=latent.init_method,
                bias=False,
                skip_bias_add=False,
                is_expert=False,
                tp_comm_buffer_name=slot.removeprefix("linear_"),
                skip_weight_param_allocation=False,
                tp_group=pg_collection.tp,
                name=None if name is None else f"{name}.{slot}",
                gather_output=False,
            )
            setattr(attention, slot, down)
        made: LatentAttentionInterface = attention
        return made


@dataclass(frozen=True, kw_only=True)
class LatentAttentionLayerSpec:
    """A layer of norm, latent attention and residual add: symbol `+`."""

    input_layernorm: NormBuilder = TorchNorm
    """Before the attention."""
    self_attention: LatentAttentionBuilder = LatentAttentionSpec()
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
    ) -> LatentAttentionLayerInterface:
        """Build one latent attention layer."""
        parts = TransformerLayerSubmodules(
            input_layernorm=self.input_layernorm,
            self_attention=as_module_spec(self.self_attention),
            self_attn_bda=as_function_spec(self.self_attn_bda),
        )
        layer: LatentAttentionLayerInterface = as_engine(
            TransformerLayer(
                config=config,
                submodules=parts,
                layer_number=layer_number,
                pg_collection=pg_collection,
                is_mtp_layer=is_mtp_layer,
                add_layer_offset=add_layer_offset,
                pp_layer_offset=pp_layer_offset,
            )
        )
        return layer
