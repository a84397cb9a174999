"""Members that the engine uses only sometimes: a part that wants the feature adds them, no part has to.

Protocols have no optional members, so each of these is a Protocol of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class SupportsSetLayerNumber(Protocol):
    """An MLP that wants to know its layer: `TransformerLayer.__init__` tells it right after building it."""

    def set_layer_number(self, layer_number: int, /) -> None:
        """Take the layer's number.

        Args:
            layer_number: Counted from 1 over the whole model.
        """
        ...


class SupportsBackwardDw(Protocol):
    """A part that can compute weight gradients apart from the backward pass (`delay_wgrad_compute`).

    `SelfAttention.backward_dw` calls it on `linear_qkv` and `linear_proj`, `MLP.backward_dw` on `linear_fc1` and
    `linear_fc2`, the pipeline schedule plan on the MLP and the attention.
    """

    def backward_dw(self) -> None:
        """Compute the weight gradients that the backward pass left out."""
        ...


class SupportsShardedStateDict(Protocol):
    """A part that says itself how its tensors are sharded in a distributed checkpoint.

    `sharded_state_dict_default` of the engine calls it; for a part without it, every tensor is taken as replicated
    over the tensor-parallel group, which is wrong for a part that holds a shard.
    """

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple[tuple[int, int, int], ...] = (), metadata: Any = None
    ) -> dict[str, Any]:
        """Describe every tensor of this part.

        Args:
            prefix: Written before every key.
            sharded_offsets: `(dim, position, count)` of each sharding that encloses this part.
            metadata: The engine's dictionary of checkpoint settings, or `None`.

        Returns:
            Checkpoint key to the engine's `ShardedTensor`, `ShardedObject` or `ShardedTensorFactory`.
        """
        ...


class SupportsSetInputTensor(Protocol):
    """A part that can be handed its input by the pipeline schedule instead of as an argument."""

    def set_input_tensor(self, input_tensor: Tensor | None, /) -> None:
        """Take the input of the next forward.

        Args:
            input_tensor: `[s, b, h]` received from the previous stage; `None` on the first stage.
        """
        ...


class SupportsSetForRecomputeInputLayernorm(Protocol):
    """A self-attention whose input norm may be recomputed under fp8 or fp4 (`recompute_modules: layernorm`)."""

    def set_for_recompute_input_layernorm(self) -> None:
        """Keep the original input of the first projection. Called by `TransformerLayer.__init__`."""
        ...


class SupportsClipQk(Protocol):
    """A self-attention that can clip its query and key weights (`config.qk_clip`)."""

    def clip_qk(self) -> None:
        """Rescale the weights whose largest logit passed the threshold. Called after the optimizer's step."""
        ...


class SupportsMaxAttnLogits(Protocol):
    """A core attention that records its largest logits, which `clip_qk` reads and resets to `None`."""

    current_max_attn_logits: Tensor | None
    """`[n / tensor-parallel size]`, or `None` before the first forward."""


class SupportsScatterToSequenceParallel(Protocol):
    """An embedding under sequence parallelism: `HybridModel.forward` scatters its output itself when this is false."""

    @property
    def scatter_to_sequence_parallel(self) -> bool:
        """Whether the embedding already returns this rank's part of the sequence."""
        ...


class SupportsSequenceParallel(Protocol):
    """An output layer that can gather the sequence: generation with last-token logits turns this off for a call."""

    sequence_parallel: bool
    """Whether the input is this rank's part of the sequence."""


class SupportsDsaInputs(Protocol):
    """A core attention that says whether latent attention passes it `x` and `qr`; it does not where this is missing."""

    @property
    def requires_dsa_inputs(self) -> bool:
        """Whether the input of the attention and the compressed queries are passed."""
        ...


class SupportsAbsorbedUpProjection(Protocol):
    """A core attention of absorbed latent attention that may apply the values' up-projection itself."""

    @property
    def consumes_absorbed_v_up_projection(self) -> bool:
        """Whether it does; where this is missing or false, the attention around it does."""
        ...


class SupportsGatherOutput(Protocol):
    """An output layer that says whether its logits are whole: multi-token prediction counts its hits on them."""

    @property
    def gather_output(self) -> bool:
        """Whether the logits are gathered over the tensor-parallel group; taken to be false where it is missing."""
        ...


class SupportsLayerNormWeight(Protocol):
    """A linear layer with its norm fused in (`linear_qkv`, `linear_fc1`): fused inference kernels read the weight."""

    @property
    def layer_norm_weight(self) -> Tensor:
        """`[h]`."""
        ...


class SupportsWeight(Protocol):
    """Anything with a weight that the engine marks, ties or clips."""

    @property
    def weight(self) -> Tensor:
        """The parameter."""
        ...


class SupportsMambaStateShapes(Protocol):
    """A Mamba mixer or layer that can generate: the stack asks for the shapes before it allocates the states."""

    def mamba_state_shapes_per_request(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Say how large the states of one sequence are.

        Returns:
            Shape of the convolution's state and of the scan's.
        """
        ...


class SupportsRoutingMap(Protocol):
    """Experts under the inference dispatcher, which passes what the router chose."""

    def forward(
        self,
        dispatched_input: Tensor,
        tokens_per_expert: Tensor,
        permuted_probs: Tensor,
        /,
        *,
        routing_map: Tensor,
    ) -> tuple[Tensor, Tensor | None]:
        """Run every expert on its tokens.

        Args:
            dispatched_input: See `ExpertsInterface.forward`.
            tokens_per_expert: See `ExpertsInterface.forward`.
            permuted_probs: See `ExpertsInterface.forward`.
            routing_map: Which experts each token goes to.

        Returns:
            See `ExpertsInterface.forward`.
        """
        ...


class SupportsZeroCopyBuffers(Protocol):
    """Experts under a dispatcher that offers memory to write to (`get_expert_zero_copy_buffers`)."""

    def forward(
        self,
        dispatched_input: Tensor,
        tokens_per_expert: Tensor,
        permuted_probs: Tensor,
        /,
        *,
        output_buffer: Tensor | None = None,
        grad_input_buffer: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Run every expert on its tokens.

        Args:
            dispatched_input: See `ExpertsInterface.forward`.
            tokens_per_expert: See `ExpertsInterface.forward`.
            permuted_probs: See `ExpertsInterface.forward`.
            output_buffer: Where the output goes.
            grad_input_buffer: Where the gradient of the input goes.

        Returns:
            See `ExpertsInterface.forward`.
        """
        ...


class SupportsSharedExperts(Protocol):
    """A token dispatcher that runs the shared experts while tokens travel (`moe_shared_expert_overlap`)."""

    def set_shared_experts(self, shared_experts: Any, /) -> None:
        """Take the shared experts. Called by `MoELayer.__init__`.

        Args:
            shared_experts: What fills the shared experts' slot.
        """
        ...


class SupportsSetForRecomputePreMlpLayernorm(Protocol):
    """A mixture of experts whose input norm may be recomputed under fp8 or fp4 (`recompute_modules: layernorm`)."""

    def set_for_recompute_pre_mlp_layernorm(self) -> None:
        """Keep the original input of the first projections. Called by `TransformerLayer.__init__`."""
        ...
