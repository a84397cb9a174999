"""Both ways: the engine's own parts fill our slots, and what is typed as ours goes where the engine declares its own.

Checked, never run.
"""

import functools

from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer import torch_norm as engine_norm
from megatron.core.transformer import transformer_layer as engine_layer
from megatron.core.transformer.dot_product_attention import DotProductAttention
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.torch_norm import L2Norm
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor, nn

from modelwright import protocols

qkv: protocols.LinearQkvBuilder = ColumnParallelLinear
proj: protocols.LinearProjBuilder = RowParallelLinear
fc1: protocols.LinearFc1Builder = ColumnParallelLinear
fc2: protocols.LinearFc2Builder = RowParallelLinear
output_layer: protocols.OutputLayerBuilder = ColumnParallelLinear
core_attention: protocols.CoreAttentionBuilder = DotProductAttention
no_norm: protocols.NormBuilder = IdentityOp
l2_norm: protocols.NormBuilder = L2Norm


def mlp(submodules: MLPSubmodules) -> protocols.MlpBuilder:
    """The engine's MLP, as its own layer specs hold it since it has typed this slot."""
    return functools.partial(MLP.as_mlp_submodule, submodules=submodules)


def process_groups(collection: ProcessGroupCollection) -> protocols.ProcessGroups:
    """The engine's collection has every group that we name."""
    return collection


def norm_where_the_engine_declares_its_own(builder: protocols.NormBuilder) -> engine_norm.LayerNormBuilder:
    """Any norm of ours goes into any norm slot of the engine."""
    return builder


class Mlp(nn.Module):
    """Fits our slot and the engine's.

    The engine's Protocol demands two things more than its call site passes or needs of a dense MLP: a default for
    `name`, and `intermediate_tensors`, which only its mixture of experts is called with.
    """

    def __init__(
        self,
        *,
        config: TransformerConfig,
        pg_collection: ProcessGroupCollection,
        is_mtp_layer: bool,
        name: str | None = None,
    ) -> None:
        super().__init__()

    def forward(
        self,
        hidden_SBH: Tensor,
        /,
        *,
        intermediate_tensors: tuple[Tensor, ...] | None = None,
        padding_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        return hidden_SBH, None


ours: protocols.MlpBuilder = Mlp
theirs: engine_layer.MlpBuilder = Mlp
submodules = engine_layer.TransformerLayerSubmodules(mlp=Mlp, input_layernorm=no_norm)
