"""The slots of a mixture of experts: router, experts with their grouped linears, shared experts, token dispatcher.

Shazeer et al. 2017, arXiv 1701.06538; shared experts: DeepSeekMoE, arXiv 2401.06066. The mixture as a whole fills the
MLP slot of a layer.
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
    """A built mixture of experts, in the MLP slot of a layer.

    `TransformerLayer` asks `isinstance(mlp, MoELayer)`: only for subclasses of that class are packed sequences unfolded
    for the router, and partial CUDA graphs possible.
    """

    def set_layer_number(self, layer_number: int, /) -> None:
        """Take the layer's number, under which losses of the router are logged. Called right after building.

        Args:
            layer_number: Counted from 1 over the whole model.
        """
        ...


class MoeBuilder(Protocol):
    """Makes a mixture of experts.

    Call site: `transformer_layer.py`, `TransformerLayer.__init__`, as for any MLP.
    """

    def __call__(
        self,
        *,
        config: TransformerConfig,
        pg_collection: ProcessGroupCollection,
        is_mtp_layer: bool,
        name: str | None,
    ) -> MoeInterface:
        """Build the mixture.

        Args:
            config: The engine's config.
            pg_collection: The process groups; `ep` splits the experts, `expt_tp` each of them.
            is_mtp_layer: Whether the layer belongs to a multi-token-prediction block.
            name: Dotted name of this module in the model, or `None`.

        Returns:
            The mixture.
        """
        ...


class RouterInterface(Protocol):
    """A built router. A `torch.nn.Module` at run time: the engine refuses anything else."""

    def forward(self, hidden_SBH: Tensor, padding_mask: Tensor | None, /) -> tuple[Tensor, Tensor]:
        """Choose experts for each token. Called by `MoELayer.route`; the engine's own Protocol lacks `padding_mask`.

        Args:
            hidden_SBH: `[s, b, h]`; under sequence parallelism this rank's part of `s`.
            padding_mask: `[s, b]`, true where a token is padding, or `None`.

        Returns:
            Probabilities and routing map, both `[s * b, e]`; the map is true where a token goes to an expert.
        """
        ...

    def __call__(self, hidden_SBH: Tensor, padding_mask: Tensor | None, /) -> tuple[Tensor, Tensor]:
        """As `forward`; `torch.nn.Module` provides it."""
        ...

    def set_layer_number(self, layer_number: int, /) -> None:
        """Take the layer's number. Called by `BaseMoELayer.set_layer_number`.

        Args:
            layer_number: Counted from 1 over the whole model.
        """
        ...


class RouterBuilder(Protocol):
    """Makes a router.

    Call site: `moe_layer.py`, `MoELayer.__init__`. The engine's own `RouterBuilder` lacks `is_mtp_layer`, which that
    call passes.
    """

    def __call__(
        self, *, config: TransformerConfig, pg_collection: ProcessGroupCollection, is_mtp_layer: bool
    ) -> RouterInterface:
        """Build the router.

        Args:
            config: The engine's config.
            pg_collection: The process groups.
            is_mtp_layer: Whether the layer belongs to a multi-token-prediction block.

        Returns:
            The router.
        """
        ...


class ExpertsInterface(Protocol):
    """The built experts of one rank. A `torch.nn.Module` at run time: the engine refuses anything else.

    Three more keywords are passed only to those who ask for the feature, and are not demanded here: `routing_map` by
    the inference dispatcher, `output_buffer` and `grad_input_buffer` by the zero-copy dispatcher. See
    `SupportsZeroCopyBuffers` and `SupportsRoutingMap`.
    """

    def forward(
        self, dispatched_input: Tensor, tokens_per_expert: Tensor, permuted_probs: Tensor, /
    ) -> tuple[Tensor, Tensor | None]:
        """Run every expert on its tokens. Called by `MoELayer.routed_experts_compute`.

        Args:
            dispatched_input: `[tokens, h]`, sorted by expert.
            tokens_per_expert: `[local e]`, how many rows belong to each.
            permuted_probs: `[tokens]`, which the output of each row is multiplied with.

        Returns:
            `[tokens, h]`, and `None`: the engine asserts that there is no bias left to add.
        """
        ...

    def __call__(
        self, dispatched_input: Tensor, tokens_per_expert: Tensor, permuted_probs: Tensor, /
    ) -> tuple[Tensor, Tensor | None]:
        """As `forward`; `torch.nn.Module` provides it."""
        ...


class ExpertsBuilder(Protocol):
    """Makes the experts of one rank.

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
            pg_collection: The process groups; `expt_tp` splits each expert.
            name: Dotted name of this module in the model, or `None`.

        Returns:
            The experts.
        """
        ...


class SharedExpertsInterface(Protocol):
    """The built shared experts. A `torch.nn.Module` at run time: the engine refuses anything else."""

    def forward(self, hidden_SBH: Tensor, /) -> Tensor:
        """Run on every token. Called by `MoELayer.shared_experts_compute`.

        Args:
            hidden_SBH: `[s, b, h]`; under sequence parallelism this rank's part of `s`.

        Returns:
            `[s, b, h]`.
        """
        ...

    def __call__(self, hidden_SBH: Tensor, /) -> Tensor:
        """As `forward`; `torch.nn.Module` provides it."""
        ...


class SharedExpertsBuilder(Protocol):
    """Makes the shared experts.

    Call site: `moe_layer.py`, `MoELayer.__init__`.
    """

    def __call__(
        self, *, config: TransformerConfig, pg_collection: ProcessGroupCollection, gate: bool, name: str | None
    ) -> SharedExpertsInterface:
        """Build the shared experts.

        Args:
            config: The engine's config; the inner size is `moe_shared_expert_intermediate_size`.
            pg_collection: The process groups; `tp` splits the weights.
            gate: Whether the output is multiplied with a learned gate.
            name: Dotted name of this module in the model, or `None`.

        Returns:
            The shared experts.
        """
        ...


class GroupedLinearInterface(Protocol):
    """A built linear layer of all experts of a rank. A `torch.nn.Module` at run time: the engine refuses others."""

    def forward(self, tokens: Tensor, tokens_per_expert: list[int], /) -> tuple[Tensor, Tensor | None]:
        """Project each expert's rows. Called by `TEGroupedMLP.forward`.

        Args:
            tokens: `[tokens, input size]`, sorted by expert.
            tokens_per_expert: How many rows belong to each of the rank's experts.

        Returns:
            `[tokens, output size]`, and the biases that were not added, or `None`.
        """
        ...

    def __call__(self, tokens: Tensor, tokens_per_expert: list[int], /) -> tuple[Tensor, Tensor | None]:
        """As `forward`; `torch.nn.Module` provides it."""
        ...


class GroupedLinearFc1Interface(GroupedLinearInterface, Protocol):
    """A built `linear_fc1` of grouped experts."""


class GroupedLinearFc2Interface(GroupedLinearInterface, Protocol):
    """A built `linear_fc2` of grouped experts."""


class GroupedLinearFc1Builder(Protocol):
    """Makes `linear_fc1` of grouped experts.

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
            output_size: An expert's inner size, doubled for a gated one.
            config: The engine's config.
            init_method: Initializes a weight in place.
            bias: Whether there is a bias.
            skip_bias_add: Whether to return the bias instead of adding it; always false here.
            is_expert: Always true.
            tp_comm_buffer_name: Name of Transformer Engine's communication buffer, `"fc1"`.
            pg_collection: The process groups; `expt_tp` splits the output.
            name: Dotted name of this module in the model, or `None`.

        Returns:
            The layer.
        """
        ...


class GroupedLinearFc2Builder(Protocol):
    """Makes `linear_fc2` of grouped experts.

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
            input_size: An expert's inner size.
            output_size: `h`, or the latent size.
            config: The engine's config.
            init_method: Initializes a weight in place.
            bias: Whether there is a bias.
            skip_bias_add: Whether to return the bias instead of adding it; always true here.
            is_expert: Always true.
            tp_comm_buffer_name: Name of Transformer Engine's communication buffer, `"fc2"`.
            pg_collection: The process groups; `expt_tp` splits the input.
            name: Dotted name of this module in the model, or `None`.

        Returns:
            The layer.
        """
        ...


class LatentProjInterface(Protocol):
    """A built projection into or out of the latent size of a mixture (`fc1_latent_proj`, `fc2_latent_proj`)."""

    def forward(self, hidden_states: Tensor, /) -> tuple[Tensor, object]:
        """Project. Called by `MoELayer.preprocess` and `MoELayer.postprocess`.

        Args:
            hidden_states: `[s, b, input size]`.

        Returns:
            `[s, b, output size]`, and a second value that the engine ignores.
        """
        ...

    def __call__(self, hidden_states: Tensor, /) -> tuple[Tensor, object]:
        """As `forward`; `torch.nn.Module` provides it."""
        ...


class LatentProjBuilder(Protocol):
    """Makes a latent projection.

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
            parallel_mode: `"duplicated"`: every tensor-parallel rank holds it whole.
            config: The engine's config.
            init_method: Initializes the weight in place.
            bias: Whether there is a bias.
            skip_bias_add: Whether to return the bias instead of adding it; always false here.
            skip_weight_param_allocation: Whether to have no weight; always false here.
            is_expert: Whether this is a layer of an expert; always false here.
            name: Dotted name of this module in the model, or `None`.

        Returns:
            The projection.
        """
        ...


class TokenDispatcherInterface(Protocol):
    """A built token dispatcher: brings each token to its experts and back. No module: it has no parameters.

    The six steps run in this order, all called by `MoELayer`; the two `token_…` steps communicate, the rest do not.
    """

    def dispatch_preprocess(self, tokens: Tensor, routing_map: Tensor, probs: Tensor, /) -> tuple[Tensor, Tensor]:
        """Prepare tokens for the way out.

        Args:
            tokens: `[s, b, h]`.
            routing_map: `[s * b, e]`, true where a token goes to an expert.
            probs: `[s * b, e]`.

        Returns:
            Tokens and probabilities to send.
        """
        ...

    def token_dispatch(self, hidden_states: Tensor, probs: Tensor, /) -> tuple[Tensor, Tensor]:
        """Send tokens to the ranks of their experts.

        Args:
            hidden_states: From `dispatch_preprocess`.
            probs: From `dispatch_preprocess`.

        Returns:
            Tokens and probabilities received.
        """
        ...

    def dispatch_postprocess(self, hidden_states: Tensor, probs: Tensor, /) -> tuple[Tensor, Tensor, Tensor]:
        """Sort received tokens by expert.

        Args:
            hidden_states: From `token_dispatch`.
            probs: From `token_dispatch`.

        Returns:
            What `ExpertsInterface.forward` takes: tokens, tokens per expert, probabilities.
        """
        ...

    def combine_preprocess(self, hidden_states: Tensor, /) -> Tensor:
        """Undo the sorting.

        Args:
            hidden_states: `[tokens, h]` from the experts.

        Returns:
            Rows to send back.
        """
        ...

    def token_combine(self, hidden_states: Tensor, /) -> Tensor:
        """Send rows back to the ranks that their tokens came from.

        Args:
            hidden_states: From `combine_preprocess`.

        Returns:
            Rows received.
        """
        ...

    def combine_postprocess(self, hidden_states: Tensor, /) -> Tensor:
        """Sum the rows of each token.

        Args:
            hidden_states: From `token_combine`.

        Returns:
            `[s, b, h]`.
        """
        ...

    def get_expert_zero_copy_buffers(self) -> tuple[Tensor | None, Tensor | None]:
        """Offer the experts memory to write to. Called before the experts on every forward.

        Returns:
            Buffers for the experts' output and the gradient of their input; `(None, None)` for no such memory.
        """
        ...


class TokenDispatcherBuilder(Protocol):
    """Makes a token dispatcher.

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
            local_expert_indices: Which of all experts they are.
            config: The engine's config.
            pg_collection: The process groups; `ep`, `expt_tp` and `tp_ep` say where tokens go.

        Returns:
            The dispatcher.
        """
        ...
