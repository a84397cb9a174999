"""Specs of the mixture-of-experts layer: the layer, the mixture in it, its experts and its shared experts.

`MoeLayerSpec` is symbol `E` of the stack pattern. Its mixture is the engine's, with the parts of a `MoeSpec`: router,
token dispatcher, experts and shared experts. The engine has no slot for the dispatcher and chooses one itself, by
`moe_token_dispatcher_type`; a builder in the dispatcher's slot replaces that choice.
"""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast, override

import torch
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.mlp import MLPSubmodules
from megatron.core.transformer.moe.experts import GroupedMLPSubmodules, SequentialMLP, TEGroupedMLP
from megatron.core.transformer.moe.moe_layer import MoELayer, MoESubmodules
from megatron.core.transformer.moe.router import TopKRouter
from megatron.core.transformer.moe.shared_experts import SharedExpertMLP
from megatron.core.transformer.transformer_layer import MoETransformerLayer, TransformerLayerSubmodules
from torch import Tensor, nn

from modelwright.engine import as_engine, as_function_spec, check_slots
from modelwright.layers.moe.grouped_experts import GroupedExperts
from modelwright.layers.moe.token_dispatcher import LocalTokenDispatcher, token_dispatcher
from modelwright.layers.norm import TorchNorm
from modelwright.layers.residual import bias_dropout_add
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


@dataclass(frozen=True, kw_only=True)
class SequentialExpertsSpec:
    """The engine's experts one after another, each an MLP with these parts; fills `MoeSpec.experts`."""

    linear_fc1: LinearFc1Builder = ColumnParallelLinear
    """Widens; twice as wide for a gated activation."""
    linear_fc2: LinearFc2Builder = RowParallelLinear
    """Narrows."""

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
        """Build the experts of one rank."""
        parts = MLPSubmodules(linear_fc1=as_engine(self.linear_fc1), linear_fc2=as_engine(self.linear_fc2))
        experts: ExpertsInterface = as_engine(
            SequentialMLP(num_local_experts, config, parts, pg_collection=pg_collection, name=name)
        )
        return experts


@dataclass(frozen=True, kw_only=True)
class GroupedExpertsSpec:
    """The engine's experts in grouped products, with linears that hold those of all experts; fills `MoeSpec.experts`.

    The engine's grouped linears are Transformer Engine's, so there is no default that runs anywhere.
    """

    linear_fc1: GroupedLinearFc1Builder
    """Widens the rows of every expert; twice as wide for a gated activation."""
    linear_fc2: GroupedLinearFc2Builder
    """Narrows them."""

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
        """Build the experts of one rank."""
        parts = GroupedMLPSubmodules(linear_fc1=as_engine(self.linear_fc1), linear_fc2=as_engine(self.linear_fc2))
        experts: ExpertsInterface = as_engine(
            TEGroupedMLP(num_local_experts, config, parts, pg_collection=pg_collection, name=name)
        )
        return experts


@dataclass(frozen=True, kw_only=True)
class SharedExpertsSpec:
    """The engine's shared experts, one MLP that sees every token, with these parts; fills `MoeSpec.shared_experts`."""

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
        gate: bool,
        name: str | None = None,
    ) -> SharedExpertsInterface:
        """Build the shared experts of one layer.

        Raises:
            ModelwrightError: The linears of the model have biases, which the engine's shared experts cannot.
        """
        if config.add_bias_linear:
            raise ModelwrightError(
                "`add_bias_linear` must be off in a model with shared experts, but is on; switch it off, or give "
                "`shared_experts` a part of your own."
            )
        parts = MLPSubmodules(linear_fc1=as_engine(self.linear_fc1), linear_fc2=as_engine(self.linear_fc2))
        experts: SharedExpertsInterface = as_engine(
            SharedExpertMLP(config, parts, gate, pg_collection=pg_collection, name=name)
        )
        return experts


@dataclass(frozen=True, kw_only=True)
class MoeSpec:
    """The engine's mixture of experts with these parts; fills `MoeLayerSpec.mlp`."""

    router: RouterBuilder = TopKRouter
    """Chooses experts for each token."""
    token_dispatcher: TokenDispatcherBuilder | None = token_dispatcher
    """Brings tokens to their experts and back; None takes the engine's of `moe_token_dispatcher_type`."""
    experts: ExpertsBuilder = GroupedExperts
    """The experts of one rank."""
    shared_experts: SharedExpertsBuilder = SharedExpertsSpec()
    """See every token; built where the config gives `moe_shared_expert_intermediate_size`."""

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
        """Build the mixture of one layer."""
        parts = MoESubmodules(
            experts=as_engine(self.experts),
            shared_experts=as_engine(self.shared_experts),
            router=as_engine(self.router),
        )
        layer = _Mixture(config, parts, pg_collection=pg_collection, is_mtp_layer=is_mtp_layer, name=name)
        if self.token_dispatcher is not None:
            _replace_dispatcher(layer, self.token_dispatcher, pg_collection)
        if type(layer.router) is not TopKRouter:
            as_engine(layer.router).register_forward_hook(
                partial(_check_routing, layer.num_local_experts * pg_collection.ep.size())
            )
        return layer


def _check_routing(experts: int, router: nn.Module, given: tuple[Tensor, ...], answer: object) -> None:
    """What a router of a user's own returns, before the engine stumbles over it.

    Raises:
        ModelwrightError: It is not what `RouterBuilder` says.
    """
    shape = (given[0].shape[:-1].numel(), experts)
    parts = cast("tuple[object, ...]", answer) if isinstance(answer, tuple) else (answer,)
    shown = [f"{list(part.shape)} of {part.dtype}" if isinstance(part, Tensor) else repr(part)[:40] for part in parts]
    tensors = [part for part in parts if isinstance(part, Tensor) and part.shape == shape]
    if len(parts) != 2 or len(tensors) != 2 or tensors[1].dtype != torch.bool:
        raise ModelwrightError(
            f"`{type(router).__name__}` must return probabilities and a bool map of the experts that are chosen, both "
            f"[tokens, experts] = {list(shape)}, but returned {' and '.join(shown)}; see `RouterBuilder`."
        )


class _Mixture(MoELayer):
    """The engine's mixture, which lets experts pick their rows out of the tokens where both can."""

    @override
    def routed_experts_compute(self, hidden_states: Tensor, probs: Tensor) -> tuple[Tensor, None]:
        dispatcher, experts, config = as_engine(self.token_dispatcher), self.experts, as_engine(self.config)
        if (
            not isinstance(dispatcher, LocalTokenDispatcher)
            or not isinstance(experts, GroupedExperts)
            or config.moe_apply_probs_on_input
            or config.overlap_dispatch_backward_with_experts_wgrad
        ):
            computed: tuple[Tensor, None] = as_engine(super()).routed_experts_compute(hidden_states, probs)
            return computed
        return experts.run(hidden_states, probs, dispatcher.routes), None


def _replace_dispatcher(layer: Any, build: TokenDispatcherBuilder, pg_collection: "ProcessGroupCollection") -> None:
    """The engine has no slot for it, so what it built is replaced, called as it calls its own."""
    dispatcher: Any = build(
        layer.num_local_experts, layer.local_expert_indices, config=layer.config, pg_collection=pg_collection
    )
    if layer.use_shared_expert and layer.shared_expert_overlap:
        dispatcher.set_shared_experts(layer.shared_experts)
    layer.token_dispatcher = dispatcher


@dataclass(frozen=True, kw_only=True)
class MoeLayerSpec:
    """A layer of norm, mixture of experts and residual add: symbol `E`."""

    pre_mlp_layernorm: NormBuilder = TorchNorm
    """Before the mixture."""
    mlp: MoeBuilder = MoeSpec()
    """The mixture, in the engine's slot of an MLP."""
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
    ) -> MoeLayerInterface:
        """Build one mixture-of-experts layer."""
        parts = TransformerLayerSubmodules(
            pre_mlp_layernorm=self.pre_mlp_layernorm,
            mlp=as_engine(self.mlp),
            mlp_bda=as_function_spec(self.mlp_bda),
        )
        layer: MoeLayerInterface = as_engine(
            MoETransformerLayer(
                config=config,
                submodules=parts,
                layer_number=layer_number,
                pg_collection=pg_collection,
                add_layer_offset=add_layer_offset,
                name=name,
            )
        )
        return layer
