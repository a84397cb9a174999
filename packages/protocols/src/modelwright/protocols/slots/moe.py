"""Protocols of the slots of Megatron-Core's MoE layer: router, experts, shared experts and token dispatcher.

Shazeer et al. 2017, arXiv 1701.06538; shared experts: DeepSeekMoE, arXiv 2401.06066. The MoE part fills the MLP slot of
a layer. `e` counts the experts of the whole model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from modelwright.protocols.slots.mlp import MlpInterface

if TYPE_CHECKING:
    from collections.abc import Callable

    from megatron.core.process_groups_config import ProcessGroupCollection
    from megatron.core.transformer.transformer_config import TransformerConfig
    from torch import Tensor


class MoeInterface(MlpInterface, Protocol):
    """A built MoE part: router, experts and token dispatcher, in the MLP slot of a layer.

    The engine unfolds packed sequences for the router, and supports partial CUDA graphs, only if the part is an
    instance of its `MoELayer`.
    """

    def set_layer_number(self, layer_number: int, /) -> None:
        """Set the layer's number, under which losses of the router are logged. Called right after building.

        Args:
            layer_number: Number of the layer in the whole model, from 1.
        """
        ...


class MoeBuilder(Protocol):
    """Builder of an MoE part.

    Call site: `transformer_layer.py`, `TransformerLayer.__init__`, the same as for an MLP.
    """

    def __call__(
        self,
        *,
        config: TransformerConfig,
        pg_collection: ProcessGroupCollection,
        is_mtp_layer: bool,
        name: str | None,
    ) -> MoeInterface:
        """Build the MoE part.

        Args:
            config: The engine's config.
            pg_collection: Process groups; `ep` splits the set of experts, `expt_tp` each expert.
            is_mtp_layer: Whether the layer belongs to a multi-token-prediction block.
            name: Dotted name of this module in the model, or `None`.

        Returns:
            The MoE part.
        """
        ...


class RouterInterface(Protocol):
    """A built router. It must be a `torch.nn.Module`; the engine refuses anything else."""

    def forward(self, hidden_SBH: Tensor, padding_mask: Tensor | None, /) -> tuple[Tensor, Tensor]:
        """Choose experts for each token. Called by `MoELayer.route`; the engine's own Protocol lacks `padding_mask`.

        Args:
            hidden_SBH: `[s, b, h]`; under sequence parallelism this rank's shard of `s`.
            padding_mask: `[s, b]`, true where a token is padding, or `None`.

        Returns:
            Router probabilities and routing map, both `[s * b, e]`. The map is true where a token goes to an expert.
        """
        ...

    def __call__(self, hidden_SBH: Tensor, padding_mask: Tensor | None, /) -> tuple[Tensor, Tensor]:
        """Call `forward`; `torch.nn.Module` provides this method."""
        ...

    def set_layer_number(self, layer_number: int, /) -> None:
        """Set the layer's number. Called by `BaseMoELayer.set_layer_number`.

        Args:
            layer_number: Number of the layer in the whole model, from 1.
        """
        ...


class RouterBuilder(Protocol):
    """Builder of a router.

    Call site: `moe_layer.py`, `MoELayer.__init__`. The engine's own `RouterBuilder` lacks `is_mtp_layer`, which that
    call passes.
    """

    def __call__(
        self, *, config: TransformerConfig, pg_collection: ProcessGroupCollection, is_mtp_layer: bool
    ) -> RouterInterface:
        """Build the router.

        Args:
            config: The engine's config.
            pg_collection: Process groups.
            is_mtp_layer: Whether the layer belongs to a multi-token-prediction block.

        Returns:
            The router.
        """
        ...


class ExpertsInterface(Protocol):
    """The built experts of one rank. It must be a `torch.nn.Module`; the engine refuses anything else.

    Two dispatchers pass more keywords, which are not required here. The inference dispatcher passes `routing_map`
    (`SupportsRoutingMap`). The zero-copy dispatcher passes `output_buffer` and `grad_input_buffer`
    (`SupportsZeroCopyBuffers`).
    """

    def forward(
        self, dispatched_input: Tensor, tokens_per_expert: Tensor, permuted_probs: Tensor, /
    ) -> tuple[Tensor, Tensor | None]:
        """Run every expert on its tokens. Called by `MoELayer.routed_experts_compute`.

        Args:
            dispatched_input: `[tokens, h]`, sorted by expert.
            tokens_per_expert: `[local e]`, number of tokens of each expert.
            permuted_probs: `[tokens]`, router probability by which the output of each token is multiplied.

        Returns:
            `[tokens, h]`, and `None`, because the engine asserts that no bias is left to add.
        """
        ...

    def __call__(
        self, dispatched_input: Tensor, tokens_per_expert: Tensor, permuted_probs: Tensor, /
    ) -> tuple[Tensor, Tensor | None]:
        """Call `forward`; `torch.nn.Module` provides this method."""
        ...


class ExpertsBuilder(Protocol):
    """Builder of the experts of one rank.

    Call site: `moe_layer.py`, `MoELayer.__init__`.
    """

    def __call__(
        self,
        num_local_experts: int,
        config: TransformerConfig,
        /,
        *,
        pg_collection: ProcessGroupCollection,
        name: str | None,
    ) -> ExpertsInterface:
        """Build the experts.

        Args:
            num_local_experts: Experts of this rank.
            config: The engine's config.
            pg_collection: Process groups; `expt_tp` splits each expert.
            name: Dotted name of this module in the model, or `None`.

        Returns:
            The experts.
        """
        ...


class SharedExpertsInterface(Protocol):
    """The built shared experts. It must be a `torch.nn.Module`; the engine refuses anything else."""

    def forward(self, hidden_SBH: Tensor, /) -> Tensor:
        """Run on every token. Called by `MoELayer.shared_experts_compute`.

        Args:
            hidden_SBH: `[s, b, h]`; under sequence parallelism this rank's shard of `s`.

        Returns:
            `[s, b, h]`.
        """
        ...

    def __call__(self, hidden_SBH: Tensor, /) -> Tensor:
        """Call `forward`; `torch.nn.Module` provides this method."""
        ...


class SharedExpertsBuilder(Protocol):
    """Builder of the shared experts.

    Call site: `moe_layer.py`, `MoELayer.__init__`.
    """

    def __call__(
        self, *, config: TransformerConfig, pg_collection: ProcessGroupCollection, gate: bool, name: str | None
    ) -> SharedExpertsInterface:
        """Build the shared experts.

        Args:
            config: The engine's config. The inner size is `moe_shared_expert_intermediate_size`.
            pg_collection: Process groups; `tp` splits the weights.
            gate: Whether to multiply the output by a learned gate.
            name: Dotted name of this module in the model, or `None`.

        Returns:
            The shared experts.
        """
        ...


class GroupedLinearInterface(Protocol):
    """A built linear layer of all experts of a rank. It must be a `torch.nn.Module`, or the engine refuses it."""

    def forward(self, tokens: Tensor, tokens_per_expert: list[int], /) -> tuple[Tensor, Tensor | None]:
        """Project the tokens of each expert. Called by `TEGroupedMLP.forward`.

        Args:
            tokens: `[tokens, input size]`, sorted by expert.
            tokens_per_expert: Number of tokens of each expert of the rank.

        Returns:
            `[tokens, output size]`, and the biases that the caller has to add, or `None`.
        """
        ...

    def __call__(self, tokens: Tensor, tokens_per_expert: list[int], /) -> tuple[Tensor, Tensor | None]:
        """Call `forward`; `torch.nn.Module` provides this method."""
        ...


class GroupedLinearFc1Interface(GroupedLinearInterface, Protocol):
    """A built `linear_fc1` of grouped experts."""


class GroupedLinearFc2Interface(GroupedLinearInterface, Protocol):
    """A built `linear_fc2` of grouped experts."""


class GroupedLinearFc1Builder(Protocol):
    """Builder of `linear_fc1` of grouped experts.

    Call site: `experts.py`, `TEGroupedMLP.__init__`.
    """

    def __call__(
        self,
        num_local_experts: int,
        input_size: int,
        output_size: int,
        /,
        *,
        config: TransformerConfig,
        init_method: Callable[[Tensor], None],
        bias: bool,
        skip_bias_add: bool,
        is_expert: bool,
        tp_comm_buffer_name: str,
        pg_collection: ProcessGroupCollection,
        name: str | None,
    ) -> GroupedLinearFc1Interface:
        """Build the layer.

        Args:
            num_local_experts: Experts of this rank.
            input_size: `h`, or the latent size.
            output_size: Inner size of an expert, doubled for a gated expert.
            config: The engine's config.
            init_method: Function that initializes a weight in place.
            bias: Whether the layer has a bias.
            skip_bias_add: Whether to return the bias instead of adding it; always false here.
            is_expert: Whether the layer belongs to an expert; always true here.
            tp_comm_buffer_name: Name of Transformer Engine's communication buffer, `"fc1"`.
            pg_collection: Process groups; `expt_tp` splits the output.
            name: Dotted name of this module in the model, or `None`.

        Returns:
            The layer.
        """
        ...


class GroupedLinearFc2Builder(Protocol):
    """Builder of `linear_fc2` of grouped experts.

    Call site: `experts.py`, `TEGroupedMLP.__init__`.
    """

    def __call__(
        self,
        num_local_experts: int,
        input_size: int,
        output_size: int,
        /,
        *,
        config: TransformerConfig,
        init_method: Callable[[Tensor], None],
        bias: bool,
        skip_bias_add: bool,
        is_expert: bool,
        tp_comm_buffer_name: str,
        pg_collection: ProcessGroupCollection,
        name: str | None,
    ) -> GroupedLinearFc2Interface:
        """Build the layer.

        Args:
            num_local_experts: Experts of this rank.
            input_size: Inner size of an expert.
            output_size: `h`, or the latent size.
            config: The engine's config.
            init_method: Function that initializes a weight in place.
            bias: Whether the layer has a bias.
            skip_bias_add: Whether to return the bias instead of adding it; always true here.
            is_expert: Whether the layer belongs to an expert; always true here.
            tp_comm_buffer_name: Name of Transformer Engine's communication buffer, `"fc2"`.
            pg_collection: Process groups; `expt_tp` splits the input.
            name: Dotted name of this module in the model, or `None`.

        Returns:
            The layer.
        """
        ...


class LatentProjInterface(Protocol):
    """A built projection into or out of the latent size of an MoE part (`fc1_latent_proj`, `fc2_latent_proj`)."""

    def forward(self, hidden_states: Tensor, /) -> tuple[Tensor, object]:
        """Project. Called by `MoELayer.preprocess` and `MoELayer.postprocess`.

        Args:
            hidden_states: `[s, b, input size]`.

        Returns:
            `[s, b, output size]`, and a second value that the engine ignores.
        """
        ...

    def __call__(self, hidden_states: Tensor, /) -> tuple[Tensor, object]:
        """Call `forward`; `torch.nn.Module` provides this method."""
        ...


class LatentProjBuilder(Protocol):
    """Builder of a latent projection.

    Call site: `moe_layer.py`, `MoELayer.__init__`, where the class is fixed (`TELinear`).
    """

    def __call__(
        self,
        input_size: int,
        output_size: int,
        /,
        *,
        parallel_mode: str,
        config: TransformerConfig,
        init_method: Callable[[Tensor], None],
        bias: bool,
        skip_bias_add: bool,
        skip_weight_param_allocation: bool,
        is_expert: bool,
        name: str | None,
    ) -> LatentProjInterface:
        """Build the projection.

        Args:
            input_size: `h`, or the latent size.
            output_size: The latent size, or `h`.
            parallel_mode: `"duplicated"`, because every tensor-parallel rank stores the unsharded weight.
            config: The engine's config.
            init_method: Function that initializes the weight in place.
            bias: Whether the layer has a bias.
            skip_bias_add: Whether to return the bias instead of adding it; always false here.
            skip_weight_param_allocation: Whether to allocate no weight; always false here.
            is_expert: Whether the layer belongs to an expert; always false here.
            name: Dotted name of this module in the model, or `None`.

        Returns:
            The projection.
        """
        ...


class TokenDispatcherInterface(Protocol):
    """A built token dispatcher, which sends each token to its experts and back. It has no parameters and is no module.

    `MoELayer` calls the six steps in this order. Only `token_dispatch` and `token_combine` communicate.
    """

    def dispatch_preprocess(self, tokens: Tensor, routing_map: Tensor, probs: Tensor, /) -> tuple[Tensor, Tensor]:
        """Prepare the tokens to send.

        Args:
            tokens: `[s, b, h]`.
            routing_map: `[s * b, e]`, true where a token goes to an expert.
            probs: `[s * b, e]`, router probabilities.

        Returns:
            Tokens and router probabilities to send.
        """
        ...

    def token_dispatch(self, hidden_states: Tensor, probs: Tensor, /) -> tuple[Tensor, Tensor]:
        """Send the tokens to the ranks of their experts.

        Args:
            hidden_states: From `dispatch_preprocess`.
            probs: From `dispatch_preprocess`.

        Returns:
            Received tokens and router probabilities.
        """
        ...

    def dispatch_postprocess(self, hidden_states: Tensor, probs: Tensor, /) -> tuple[Tensor, Tensor, Tensor]:
        """Sort the received tokens by expert.

        Args:
            hidden_states: From `token_dispatch`.
            probs: From `token_dispatch`.

        Returns:
            The arguments of `ExpertsInterface.forward`: tokens, tokens per expert, router probabilities.
        """
        ...

    def combine_preprocess(self, hidden_states: Tensor, /) -> Tensor:
        """Undo the sorting.

        Args:
            hidden_states: `[tokens, h]` from the experts.

        Returns:
            Outputs to send back.
        """
        ...

    def token_combine(self, hidden_states: Tensor, /) -> Tensor:
        """Send the outputs back to the ranks of their tokens.

        Args:
            hidden_states: From `combine_preprocess`.

        Returns:
            Received outputs.
        """
        ...

    def combine_postprocess(self, hidden_states: Tensor, /) -> Tensor:
        """Sum the outputs of each token.

        Args:
            hidden_states: From `token_combine`.

        Returns:
            `[s, b, h]`.
        """
        ...

    def get_expert_zero_copy_buffers(self) -> tuple[Tensor | None, Tensor | None]:
        """Return buffers that the experts write to. Called before the experts on every forward.

        Returns:
            Buffers for the output of the experts and for the gradient of their input, or `(None, None)`.
        """
        ...


class TokenDispatcherBuilder(Protocol):
    """Builder of a token dispatcher.

    Call site: `moe_layer.py`, `MoELayer.__init__`, where the class is fixed by `config.moe_token_dispatcher_type`.
    """

    def __call__(
        self,
        num_local_experts: int,
        local_expert_indices: list[int],
        /,
        *,
        config: TransformerConfig,
        pg_collection: ProcessGroupCollection,
    ) -> TokenDispatcherInterface:
        """Build the dispatcher.

        Args:
            num_local_experts: Experts of this rank.
            local_expert_indices: Global indices of these experts.
            config: The engine's config.
            pg_collection: Process groups; tokens are exchanged over `ep`, `expt_tp` and `tp_ep`.

        Returns:
            The dispatcher.
        """
        ...
