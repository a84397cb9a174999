"""Specs of the MLA layer, symbol `+`: multi-head latent attention, with queries, keys and values from low-rank vectors.

DeepSeek-AI 2024, "DeepSeek-V2", arXiv 2405.04434. In names of code it is `latent_attention`, as in run files.

Seam: Megatron-Core accepts only classes of its own list for the down-projections. The one class of that list that needs
no Transformer Engine is its column-parallel linear. That class is wrong over several tensor ranks: all heads share the
rotated part of the keys, and its gradient is not summed over the ranks. So the engine builds its attention with that
class, and `LatentAttentionSpec` then replaces both down-projections by those of the spec.
`packages/layers/tests/attention/test_mla.py` fails when the engine builds or calls them differently.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.multi_latent_attention import MLASelfAttention, MLASelfAttentionSubmodules
from megatron.core.transformer.transformer_layer import TransformerLayer
from torch import Tensor, nn

from modelwright.engine import as_module_spec
from modelwright.layers.attention.sdpa import SdpaCoreAttention
from modelwright.layers.layer_spec import LayerSpec
from modelwright.layers.norm import TorchNorm
from modelwright.layers.parameter_marks import mark_sequence_parallel
from modelwright.layers.residual import bias_dropout_add
from modelwright.layers.slot_check import check_slots
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
    from megatron.core.transformer import MLATransformerConfig, TransformerConfig
    from megatron.core.transformer import attention as engine
    from megatron.core.transformer.torch_norm import LayerNormBuilder
    from torch.distributed import ProcessGroup


class DuplicatedLinear(nn.Module):
    """Linear with its full weight on every tensor rank, applied to the rank's own part of the sequence.

    Args:
        input_size: Size of the last dim of the input.
        output_size: Size of the last dim of the output.
        config: The engine's config.
        init_method: Initializes the weight in place.
        bias: Must be False.
        skip_bias_add: Ignored: there is no bias.
        is_expert: Ignored.
        tp_comm_buffer_name: Ignored.
        skip_weight_param_allocation: Ignored.
        tp_group: Ignored: every rank has the full weight.
        name: Ignored.
        gather_output: Ignored: the output is complete.

    Raises:
        ModelwrightError: `bias` is True.
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
        mark_sequence_parallel(self.weight, enabled=config.sequence_parallel)

    def forward(self, hidden_SBH: Tensor, /) -> tuple[Tensor, None]:
        """Project the last dim.

        Args:
            hidden_SBH: `[s, b, input size]`; under sequence parallelism this rank's part of `s`.

        Returns:
            `[s, b, output size]`, and None: there is no bias.
        """
        return nn.functional.linear(hidden_SBH, self.weight), None


@dataclass(frozen=True, kw_only=True)
class LatentAttentionSpec:
    """The engine's MLA with these parts; fills `LatentAttentionLayerSpec.self_attention`."""

    linear_q_down_proj: LinearDownProjBuilder = DuplicatedLinear
    """Projection to the low-rank vector of the queries."""
    linear_q_up_proj: LinearUpProjBuilder = ColumnParallelLinear
    """Projection from that vector to the queries."""
    linear_kv_down_proj: LinearDownProjBuilder = DuplicatedLinear
    """Projection to the low-rank vector of keys and values, and to the rotated part of the keys."""
    linear_kv_up_proj: LinearUpProjBuilder = ColumnParallelLinear
    """Projection from that vector to keys and values."""
    core_attention: LatentCoreAttentionBuilder = SdpaCoreAttention
    """Softmax attention."""
    linear_proj: LinearProjBuilder = RowParallelLinear
    """Projection of the heads back to the hidden size."""
    q_layernorm: NormBuilder = TorchNorm
    """Norm of the low-rank vector of the queries, in models with `qk_layernorm`."""
    kv_layernorm: NormBuilder = TorchNorm
    """Norm of the low-rank vector of keys and values, in models with `qk_layernorm`."""

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
        """Build the causal MLA of one layer.

        Args:
            config: The engine's config; an `MLATransformerConfig`.
            layer_number: Number of the layer in the model, from 1.
            pg_collection: Process groups of this rank.
            name: Dotted name of this module in the model, or None.
            cp_comm_type: How context ranks exchange keys and values in the engine's own core attention.
            pp_layer_offset: Number of layers before this stage.

        Returns:
            The attention.
        """
        latent = cast("MLATransformerConfig", config)  # declared as its base class by the stack
        attention = MLASelfAttention(
            config=latent,
            submodules=self._parts(latent),
            layer_number=layer_number,
            attn_mask_type=AttnMaskType.causal,
            cp_comm_type=cp_comm_type,
            pg_collection=pg_collection,
            pp_layer_offset=pp_layer_offset,
            name=name,
        )
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
                init_method=cast("Callable[[Tensor], None]", latent.init_method),
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
        return cast("LatentAttentionInterface", attention)

    def _parts(self, config: "MLATransformerConfig") -> MLASelfAttentionSubmodules:
        """Return the parts for the engine, with its own class in place of the down-projections."""
        q_layernorm = self.q_layernorm if config.qk_layernorm else IdentityOp
        kv_layernorm = self.kv_layernorm if config.qk_layernorm else IdentityOp
        return MLASelfAttentionSubmodules(
            linear_q_down_proj=ColumnParallelLinear,
            linear_q_up_proj=as_module_spec(self.linear_q_up_proj),
            linear_kv_down_proj=ColumnParallelLinear,
            linear_kv_up_proj=as_module_spec(self.linear_kv_up_proj),
            core_attention=as_module_spec(self.core_attention),
            # The engine's Protocol requires `backward_dw`, which it calls only where weight gradients are delayed.
            linear_proj=cast("engine.LinearProjBuilder", self.linear_proj),
            q_layernorm=cast("LayerNormBuilder", q_layernorm),
            kv_layernorm=cast("LayerNormBuilder", kv_layernorm),
        )


@dataclass(frozen=True, kw_only=True)
class LatentAttentionLayerSpec(LayerSpec[LatentAttentionLayerInterface]):
    """Layer of norm, MLA and residual add: symbol `+`."""

    engine_class = TransformerLayer

    input_layernorm: NormBuilder = TorchNorm
    """Norm before the attention."""
    self_attention: LatentAttentionBuilder = LatentAttentionSpec()
    """MLA with its projections."""
    self_attn_bda: BiasDropoutAddBuilder = bias_dropout_add
    """Bias, dropout and residual add after the attention."""
