"""The rotary slots of a model: angles for every attention layer, computed once a forward."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from megatron.core.inference.contexts.base_context import BaseInferenceContext
    from megatron.core.packed_seq_params import PackedSeqParams
    from megatron.core.transformer.transformer_config import TransformerConfig
    from torch import Tensor
    from torch.distributed import ProcessGroup

    from modelwright.protocols.slots.stack import StackInterface


class RotaryEmbeddingInterface(Protocol):
    """A built rotary embedding."""

    def forward(self, max_seq_len: int, /, *, packed_seq: bool) -> Tensor:
        """Compute the angles. Called by `HybridModel.forward` on every stage.

        Args:
            max_seq_len: Positions to cover, from `get_rotary_seq_len`.
            packed_seq: Whether several sequences are packed into one, so that positions are not split over the
                context-parallel group.

        Returns:
            `[s, 1, 1, d]` (less than `d` with a rotary percentage below 1).
        """
        ...

    def __call__(self, max_seq_len: int, /, *, packed_seq: bool) -> Tensor:
        """As `forward`; `torch.nn.Module` provides it."""
        ...

    def get_rotary_seq_len(
        self,
        inference_context: BaseInferenceContext | None,
        stack: StackInterface,
        hidden_SBH: Tensor | None,
        config: TransformerConfig,
        packed_seq_params: PackedSeqParams | None,
        /,
    ) -> int:
        """Say how many positions the next forward needs. Called by `HybridModel.forward` on every stage.

        Args:
            inference_context: Holds the key and value cache in generation, else `None`.
            stack: The stack of this stage; from the second stage on its `input_tensor` has the length.
            hidden_SBH: `[s, b, h]` from the embedding; `None` from the second stage on.
            config: The engine's config: sequence and context parallelism shorten what a rank sees of `s`.
            packed_seq_params: Boundaries of packed sequences, or `None`.

        Returns:
            The whole sequence's length.
        """
        ...


class RotaryEmbeddingBuilder(Protocol):
    """Makes the rotary embedding.

    Call site: `hybrid_model.py`, `HybridModel.__init__`, where the class is fixed (`RotaryEmbedding`).
    """

    def __call__(
        self,
        *,
        kv_channels: int,
        rotary_percent: float,
        seq_len_interpolation_factor: float | None,
        rotary_base: float,
        use_cpu_initialization: bool,
        cp_group: ProcessGroup,
    ) -> RotaryEmbeddingInterface:
        """Build the rotary embedding.

        Args:
            kv_channels: Head size `d`.
            rotary_percent: Part of `d` that is rotated, above 0 up to 1.
            seq_len_interpolation_factor: Divides the positions; `None` leaves them.
            rotary_base: Base of the wavelengths; the engine annotates an `int` and computes with any number.
            use_cpu_initialization: Whether to hold the frequencies on the CPU at first.
            cp_group: The context-parallel group, over which the positions are split.

        Returns:
            The rotary embedding.
        """
        ...
