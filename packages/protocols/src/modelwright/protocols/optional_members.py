"""Protocols of optional members, which Megatron-Core uses only if a feature needs them.

Protocols have no optional members, so each of these is a separate Protocol. A part implements those of the features
that it supports. `check_conformance` requires none of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class SupportsSetLayerNumber(Protocol):
    """An MLP that receives the number of its layer, from `TransformerLayer.__init__` right after it is built."""

    def set_layer_number(self, layer_number: int, /) -> None:
        """Set the layer's number.

        Args:
            layer_number: Number of the layer in the whole model, from 1.
        """
        ...


class SupportsBackwardDw(Protocol):
    """A part that computes weight gradients after the backward pass (`delay_wgrad_compute`).

    `SelfAttention.backward_dw` calls it on `linear_qkv` and `linear_proj`. `MLP.backward_dw` calls it on `linear_fc1`
    and `linear_fc2`. The pipeline schedule plan calls it on the MLP and the attention.
    """

    def backward_dw(self) -> None:
        """Compute the weight gradients that the backward pass omitted."""
        ...


class SupportsShardedStateDict(Protocol):
    """A part that defines how its tensors are sharded in a distributed checkpoint.

    The engine's `sharded_state_dict_default` calls it. Without it, the engine treats every tensor as replicated over
    the tensor-parallel group, which is wrong for a part that stores shards.
    """

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple[tuple[int, int, int], ...] = (), metadata: Any = None
    ) -> dict[str, Any]:
        """Return the sharded state dict of this part.

        Args:
            prefix: Prefix of every key.
            sharded_offsets: `(dim, position, count)` of each enclosing sharding, such as that of the pipeline stages.
            metadata: Checkpoint settings of the engine, or `None`.

        Returns:
            The engine's `ShardedTensor`, `ShardedObject` or `ShardedTensorFactory` under each checkpoint key.
        """
        ...


class SupportsSetInputTensor(Protocol):
    """A part that can receive its input from the pipeline schedule instead of as an argument."""

    def set_input_tensor(self, input_tensor: Tensor | None, /) -> None:
        """Set the input of the next forward.

        Args:
            input_tensor: `[s, b, h]` from the previous stage, or `None` on the first stage.
        """
        ...


class SupportsSetForRecomputeInputLayernorm(Protocol):
    """A self-attention with an input norm that may be recomputed under fp8 or fp4 (`recompute_modules: layernorm`)."""

    def set_for_recompute_input_layernorm(self) -> None:
        """Keep the unquantized input of the first projection. Called by `TransformerLayer.__init__`."""
        ...


class SupportsClipQk(Protocol):
    """A self-attention that can clip its query and key weights (`config.qk_clip`)."""

    def clip_qk(self) -> None:
        """Rescale the weights of heads with a largest logit above the threshold. Called after the optimizer step."""
        ...


class SupportsMaxAttnLogits(Protocol):
    """A core attention that records its largest logits, which `clip_qk` reads and resets to `None`."""

    current_max_attn_logits: Tensor | None
    """Largest logit of each head, `[n / tensor-parallel size]`, or `None` before the first forward."""


class SupportsScatterToSequenceParallel(Protocol):
    """An embedding that scatters its output under sequence parallelism.

    If the value is false, `HybridModel.forward` scatters the output.
    """

    @property
    def scatter_to_sequence_parallel(self) -> bool:
        """True if the embedding returns this rank's shard of the sequence."""
        ...


class SupportsSequenceParallel(Protocol):
    """An output layer that gathers the sequence under sequence parallelism.

    Generation turns the attribute off for a call that needs the logits of the last token only.
    """

    sequence_parallel: bool
    """True if the input is this rank's shard of the sequence."""


class SupportsDsaInputs(Protocol):
    """A core attention that receives `x` and `qr` from MLA. Without this member MLA does not pass them."""

    @property
    def requires_dsa_inputs(self) -> bool:
        """True if MLA passes the input of the attention (`x`) and the compressed queries (`qr`)."""
        ...


class SupportsAbsorbedUpProjection(Protocol):
    """A core attention of absorbed MLA that applies the up-projection of the values."""

    @property
    def consumes_absorbed_v_up_projection(self) -> bool:
        """True if the core attention applies it. Otherwise the enclosing attention does."""
        ...


class SupportsGatherOutput(Protocol):
    """An output layer that reports if its logits are gathered, for the acceptance metric of multi-token prediction."""

    @property
    def gather_output(self) -> bool:
        """True if the logits are gathered over the tensor-parallel group. The default of the engine is false."""
        ...


class SupportsLayerNormWeight(Protocol):
    """A linear layer with a fused norm (`linear_qkv`, `linear_fc1`); fused inference kernels read the norm's weight."""

    @property
    def layer_norm_weight(self) -> Tensor:
        """Weight of the norm, `[h]`."""
        ...


class SupportsWeight(Protocol):
    """A module with a weight that the engine marks, ties or clips."""

    @property
    def weight(self) -> Tensor:
        """The parameter."""
        ...


class SupportsMambaStateShapes(Protocol):
    """A Mamba mixer or layer that supports generation. The stack reads the shapes before it allocates the states."""

    def mamba_state_shapes_per_request(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the shapes of the states of one sequence.

        Returns:
            Shapes of the state of the convolution and of the state of the scan.
        """
        ...


class SupportsRoutingMap(Protocol):
    """Experts that support the inference dispatcher, which also passes the routing map."""

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
            routing_map: `[tokens, e]`, true where a token goes to an expert.

        Returns:
            See `ExpertsInterface.forward`.
        """
        ...


class SupportsZeroCopyBuffers(Protocol):
    """Experts that support the zero-copy dispatcher, which provides buffers (`get_expert_zero_copy_buffers`)."""

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
            output_buffer: Buffer for the output, or `None`.
            grad_input_buffer: Buffer for the gradient of the input, or `None`.

        Returns:
            See `ExpertsInterface.forward`.
        """
        ...


class SupportsSharedExperts(Protocol):
    """A token dispatcher that runs the shared experts during communication (`moe_shared_expert_overlap`)."""

    def set_shared_experts(self, shared_experts: Any, /) -> None:
        """Set the shared experts. Called by `MoELayer.__init__`.

        Args:
            shared_experts: The built shared experts.
        """
        ...


class SupportsSetForRecomputePreMlpLayernorm(Protocol):
    """An MoE part with an input norm that may be recomputed under fp8 or fp4 (`recompute_modules: layernorm`)."""

    def set_for_recompute_pre_mlp_layernorm(self) -> None:
        """Keep the unquantized input of the first projections. Called by `TransformerLayer.__init__`."""
        ...
