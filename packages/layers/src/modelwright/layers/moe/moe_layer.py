"""Specs of the MoE layer, symbol `E`: the layer, its router, token dispatcher, experts and shared experts.

`MoeLayerSpec` builds Megatron-Core's layer, and `MoeSpec` the engine's MoE part in it. The engine has no slot for the
token dispatcher and chooses one by `moe_token_dispatcher_type`. A builder in the dispatcher's slot replaces that one.
"""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, cast, override

import torch
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.moe.experts import GroupedMLPSubmodules, SequentialMLP, TEGroupedMLP
from megatron.core.transformer.moe.moe_layer import MoELayer, MoESubmodules
from megatron.core.transformer.moe.router import TopKRouter
from megatron.core.transformer.moe.shared_experts import SharedExpertMLP
from megatron.core.transformer.transformer_layer import MoETransformerLayer
from torch import Tensor, nn

from modelwright.engine import track_losses_of_every_model
from modelwright.layers.layer_spec import LayerSpec
from modelwright.layers.mlp.mlp_layer import mlp_parts
from modelwright.layers.moe.grouped_experts import GroupedExperts
from modelwright.layers.moe.token_dispatcher import LocalTokenDispatcher, token_dispatcher
from modelwright.layers.norm import TorchNorm
from modelwright.layers.residual import bias_dropout_add
from modelwright.layers.slot_check import check_slots
from modelwright.protocols import (
    BiasDropoutAddBuilder,
    ExpertsBuilder,
    ExpertsInterface,
    GroupedLinearFc1Builder,
    GroupedLinearFc2Builder,
    LinearFc1Builder,
    LinearFc2Builder,
    ModelwrightError,
    MoeBuilder,
    MoeLayerInterface,
    NormBuilder,
    RouterBuilder,
    SharedExpertsBuilder,
    SharedExpertsInterface,
    TokenDispatcherBuilder,
)

if TYPE_CHECKING:
    from megatron.core.process_groups_config import ProcessGroupCollection
    from megatron.core.transformer import TransformerConfig
    from megatron.core.transformer.moe import experts as engine_experts
    from megatron.core.transformer.moe import moe_layer as engine
    from megatron.core.transformer.moe.token_dispatcher import MoETokenDispatcher


@dataclass(frozen=True, kw_only=True)
class SequentialExpertsSpec:
    """The engine's experts, computed one after another, each an MLP with these parts; fills `MoeSpec.experts`."""

    linear_fc1: LinearFc1Builder = ColumnParallelLinear
    """Projection to the inner size, or to twice the inner size for a gated activation."""
    linear_fc2: LinearFc2Builder = RowParallelLinear
    """Projection back to the hidden size."""

    def __post_init__(self) -> None:
        check_slots(self)

    def __call__(
        self,
        num_local_experts: int,
        config: "TransformerConfig",
        /,
        *,
        pg_collection: "ProcessGroupCollection",
        name: str | None = None,
    ) -> ExpertsInterface:
        """Build the experts of one rank.

        Args:
            num_local_experts: Number of experts on this rank.
            config: The engine's config.
            pg_collection: Process groups of this rank.
            name: Dotted name of this module in the model, or None.

        Returns:
            The experts.
        """
        parts = mlp_parts(self.linear_fc1, self.linear_fc2)
        return SequentialMLP(num_local_experts, config, parts, pg_collection=pg_collection, name=name)


@dataclass(frozen=True, kw_only=True)
class GroupedExpertsSpec:
    """The engine's experts in grouped products, with linears for all experts at once; fills `MoeSpec.experts`.

    The engine's grouped linears are Transformer Engine's, so no default runs everywhere.
    """

    linear_fc1: GroupedLinearFc1Builder
    """Projection of every expert to its inner size, or to twice that for a gated activation."""
    linear_fc2: GroupedLinearFc2Builder
    """Projection of every expert back to the hidden size."""

    def __post_init__(self) -> None:
        check_slots(self)

    def __call__(
        self,
        num_local_experts: int,
        config: "TransformerConfig",
        /,
        *,
        pg_collection: "ProcessGroupCollection",
        name: str | None = None,
    ) -> ExpertsInterface:
        """Build the experts of one rank.

        Args:
            num_local_experts: Number of experts on this rank.
            config: The engine's config.
            pg_collection: Process groups of this rank.
            name: Dotted name of this module in the model, or None.

        Returns:
            The experts.
        """
        parts = GroupedMLPSubmodules(
            # The engine's Protocols require `backward_dw`, which it calls only where weight gradients are delayed.
            linear_fc1=cast("engine_experts.GroupedLinearFc1Builder", self.linear_fc1),
            linear_fc2=cast("engine_experts.GroupedLinearFc2Builder", self.linear_fc2),
        )
        return TEGroupedMLP(num_local_experts, config, parts, pg_collection=pg_collection, name=name)


@dataclass(frozen=True, kw_only=True)
class SharedExpertsSpec:
    """The engine's shared experts, one MLP for every token, with these parts; fills `MoeSpec.shared_experts`."""

    linear_fc1: LinearFc1Builder = ColumnParallelLinear
    """Projection to the inner size, or to twice the inner size for a gated activation."""
    linear_fc2: LinearFc2Builder = RowParallelLinear
    """Projection back to the hidden size."""

    def __post_init__(self) -> None:
        check_slots(self)

    def __call__(
        self,
        *,
        config: "TransformerConfig",
        pg_collection: "ProcessGroupCollection",
        gate: bool,
        name: str | None = None,
    ) -> SharedExpertsInterface:
        """Build the shared experts of one layer.

        Args:
            config: The engine's config.
            pg_collection: Process groups of this rank.
            gate: True if a learned gate scales the output for each token.
            name: Dotted name of this module in the model, or None.

        Returns:
            The shared experts.

        Raises:
            ModelwrightError: The linears of the model have biases, which the engine's shared experts do not support.
        """
        if config.add_bias_linear:
            raise ModelwrightError(
                "`add_bias_linear` must be off in a model with shared experts, but is on; turn it off, or use a custom "
                "part for `shared_experts`."
            )
        parts = mlp_parts(self.linear_fc1, self.linear_fc2)
        return SharedExpertMLP(config, parts, gate, pg_collection=pg_collection, name=name)


@dataclass(frozen=True, kw_only=True)
class MoeSpec:
    """The engine's MoE part with these parts; fills `MoeLayerSpec.mlp`."""

    router: RouterBuilder = TopKRouter
    """Choice of experts for each token, with router probabilities."""
    token_dispatcher: TokenDispatcherBuilder | None = token_dispatcher
    """Exchange of tokens between ranks before and after the experts; None: the engine's own, by
    `moe_token_dispatcher_type`."""
    experts: ExpertsBuilder = GroupedExperts
    """Experts of one rank."""
    shared_experts: SharedExpertsBuilder = SharedExpertsSpec()
    """Experts for every token; built if the config sets `moe_shared_expert_intermediate_size`."""

    def __post_init__(self) -> None:
        check_slots(self)

    def __call__(
        self,
        *,
        config: "TransformerConfig",
        pg_collection: "ProcessGroupCollection",
        is_mtp_layer: bool,
        name: str | None = None,
    ) -> MoELayer:
        """Build the MoE part of one layer.

        Args:
            config: The engine's config.
            pg_collection: Process groups of this rank.
            is_mtp_layer: True in a multi-token prediction block.
            name: Dotted name of this module in the model, or None.

        Returns:
            The engine's MoE part; called a layer there.
        """
        track_losses_of_every_model()
        parts = MoESubmodules(
            # The engine's Protocols require `backward_dw` and know no `is_mtp_layer`, which it passes to routers.
            experts=cast("engine.ExpertsBuilder", self.experts),
            shared_experts=cast("engine.SharedExpertsBuilder", self.shared_experts),
            router=cast("engine.RouterBuilder", self.router),
        )
        layer = _DirectMoELayer(config, parts, pg_collection=pg_collection, is_mtp_layer=is_mtp_layer, name=name)
        if self.token_dispatcher is not None:
            _replace_dispatcher(layer, self.token_dispatcher, pg_collection)
        if type(layer.router) is not TopKRouter:
            router = cast("nn.Module", layer.router)
            router.register_forward_hook(partial(_check_routing, layer.num_local_experts * pg_collection.ep.size()))
        return layer


def _check_routing(experts: int, router: nn.Module, given: tuple[Tensor, ...], answer: object) -> None:
    """Check what a custom router returned, before the engine fails on it.

    Raises:
        ModelwrightError: The result does not follow `RouterBuilder`.
    """
    shape = (given[0].shape[:-1].numel(), experts)
    parts = cast("tuple[object, ...]", answer) if isinstance(answer, tuple) else (answer,)
    shown = [f"{list(part.shape)} of {part.dtype}" if isinstance(part, Tensor) else repr(part)[:40] for part in parts]
    tensors = [part for part in parts if isinstance(part, Tensor) and part.shape == shape]
    if len(parts) != 2 or len(tensors) != 2 or tensors[1].dtype != torch.bool:
        raise ModelwrightError(
            f"`{type(router).__name__}` must return router probabilities and a bool map of the chosen experts, both "
            f"[tokens, experts] = {list(shape)}, but returned {' and '.join(shown)}; see `RouterBuilder`."
        )


class _DirectMoELayer(MoELayer):
    """The engine's MoE part, in which experts read their rows directly from the tokens where both parts can.

    Seam: overrides `routed_experts_compute`, which the engine calls between `dispatch_preprocess` and
    `combine_preprocess`. `packages/layers/tests/moe/test_moe_layer.py` compares with the engine's own parts and fails
    when the engine changes that order.
    """

    @override
    def routed_experts_compute(self, hidden_states: Tensor, probs: Tensor) -> tuple[Tensor, None]:
        dispatcher, experts = cast("object", self.token_dispatcher), cast("object", self.experts)
        if (
            not isinstance(dispatcher, LocalTokenDispatcher)
            or not isinstance(experts, GroupedExperts)
            or self.config.moe_apply_probs_on_input
            or self.config.overlap_dispatch_backward_with_experts_wgrad
        ):
            return cast("tuple[Tensor, None]", super().routed_experts_compute(hidden_states, probs))
        # Called as a module, so that hooks run: those of `fully_shard` gather the weights.
        return cast("tuple[Tensor, None]", experts(hidden_states, None, probs, routes=dispatcher.routes))


def _replace_dispatcher(
    layer: MoELayer, build: TokenDispatcherBuilder, pg_collection: "ProcessGroupCollection"
) -> None:
    """Replace the token dispatcher that the engine built.

    Seam: the engine has no slot for the dispatcher. The replacement is constructed with the arguments of the engine's
    call, and is given the shared experts as the engine gives them to its own.
    `packages/layers/tests/moe/test_moe_layer.py` fails when the engine constructs or uses dispatchers differently.
    """
    experts, indices = cast("int", layer.num_local_experts), cast("list[int]", layer.local_expert_indices)
    built = build(experts, indices, config=layer.config, pg_collection=pg_collection)
    dispatcher = cast("MoETokenDispatcher", built)  # declared as the base class of the engine's dispatchers
    if layer.use_shared_expert and layer.shared_expert_overlap:
        dispatcher.set_shared_experts(layer.shared_experts)
    layer.token_dispatcher = dispatcher


@dataclass(frozen=True, kw_only=True)
class MoeLayerSpec(LayerSpec[MoeLayerInterface]):
    """Layer of norm, MoE part and residual add: symbol `E`."""

    engine_class = MoETransformerLayer

    pre_mlp_layernorm: NormBuilder = TorchNorm
    """Norm before the router and the experts."""
    mlp: MoeBuilder = MoeSpec()
    """Router and experts, in the engine's slot of the MLP."""
    mlp_bda: BiasDropoutAddBuilder = bias_dropout_add
    """Bias, dropout and residual add after the experts."""
