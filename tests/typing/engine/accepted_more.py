"""Both ways, for mixtures of experts, latent attention, state-space layers and multi-token prediction.

Checked, never run.
"""

import functools

from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.ssm.mamba_mixer import MambaMixer, MambaMixerSubmodules
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer import mlp as engine_mlp
from megatron.core.transformer import torch_norm as engine_norm
from megatron.core.transformer.mlp import MLPSubmodules
from megatron.core.transformer.moe import moe_layer as engine_moe
from megatron.core.transformer.moe.experts import SequentialMLP
from megatron.core.transformer.moe.moe_layer import MoELayer, MoESubmodules
from megatron.core.transformer.moe.router import TopKRouter
from megatron.core.transformer.moe.shared_experts import SharedExpertMLP
from megatron.core.transformer.moe.token_dispatcher import MoEAllGatherTokenDispatcher
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor, nn

from modelwright import protocols

out_proj: protocols.OutProjBuilder = RowParallelLinear
cross: protocols.LinearLayerBuilder = ColumnParallelLinear
q_proj: protocols.LinearQProjBuilder = ColumnParallelLinear
down: protocols.LinearDownProjBuilder = ColumnParallelLinear
up: protocols.LinearUpProjBuilder = ColumnParallelLinear
eh_proj: protocols.EhProjBuilder = ColumnParallelLinear
router: protocols.RouterBuilder = TopKRouter
all_gather: protocols.TokenDispatcherBuilder = MoEAllGatherTokenDispatcher


def experts(submodules: MLPSubmodules) -> protocols.ExpertsBuilder:
    """One MLP after another."""
    return functools.partial(SequentialMLP, submodules=submodules)


def shared(submodules: MLPSubmodules) -> protocols.SharedExpertsBuilder:
    """The engine's shared experts."""
    return functools.partial(SharedExpertMLP, submodules=submodules)


def mixture(submodules: MoESubmodules) -> protocols.MoeBuilder:
    """The engine's mixture of experts fills its own slot."""
    return functools.partial(MoELayer, submodules=submodules)


def mixture_as_mlp(submodules: MoESubmodules) -> protocols.MlpBuilder:
    """And the MLP slot of a layer."""
    return functools.partial(MoELayer, submodules=submodules)


def mixer(submodules: MambaMixerSubmodules) -> protocols.MambaMixerBuilder:
    """The engine's mixer."""
    return functools.partial(MambaMixer, submodules=submodules)


def config(engine: TransformerConfig) -> protocols.EngineConfig:
    """The engine's config is what a part may annotate without the engine."""
    return engine


def ours_in_the_engine(
    norm: protocols.NormBuilder, activation: protocols.ActivationFunctionBuilder
) -> tuple[engine_norm.LayerNormBuilder, engine_mlp.TEActivationFunctionBuilder]:
    """Where the engine asks for no more than it uses."""
    return norm, activation


class Router(nn.Module):
    """Fits our slot and the engine's, which never heard of `is_mtp_layer` or `padding_mask`."""

    def __init__(
        self, *, config: TransformerConfig, pg_collection: ProcessGroupCollection | None, is_mtp_layer: bool = False
    ) -> None:
        super().__init__()

    def forward(self, hidden_SBH: Tensor, padding_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return hidden_SBH, hidden_SBH

    def set_layer_number(self, layer_number: int) -> None:
        """Take it."""


class Experts(nn.Module):
    """Fits our slot and the engine's, which demands `backward_dw` and a default for `name`."""

    def __init__(
        self,
        num_local_experts: int,
        config: TransformerConfig,
        *,
        pg_collection: ProcessGroupCollection | None,
        name: str | None = None,
    ) -> None:
        super().__init__()

    def forward(self, tokens: Tensor, tokens_per_expert: Tensor, probs: Tensor) -> tuple[Tensor, Tensor | None]:
        return tokens, None

    def backward_dw(self) -> None:
        """There is nothing to delay."""


our_router: protocols.RouterBuilder = Router
their_router: engine_moe.RouterBuilder = Router
our_experts: protocols.ExpertsBuilder = Experts
their_experts: engine_moe.ExpertsBuilder = Experts
submodules = MoESubmodules(experts=Experts, router=Router)
