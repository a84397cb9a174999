"""Protocols of Megatron-Core's rotary embedding slot: angles for every attention layer, computed once per forward."""

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
            packed_seq: Whether several sequences are packed into one. Positions are then not split over the
                context-parallel group.

        Returns:
            `[s, 1, 1, rotary_percent * d]`.
        """
        ...

    def __call__(self, max_seq_len: int, /, *, packed_seq: bool) -> Tensor:
        """Call `forward`; `torch.nn.Module` provides this method."""
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
        """Return the number of positions that the next forward needs. Called by `HybridModel.forward` on every stage.

        Args:
            inference_context: Key and value cache of a generation, or `None`.
            stack: Stack of this stage. From the second stage on, its `input_tensor` has the length.
            hidden_SBH: `[s, b, h]` from the embedding, or `None` from the second stage on.
            config: The engine's config, for the shards of `s` under sequence and context parallelism.
            packed_seq_params: Boundaries of packed sequences, or `None`.

        Returns:
            Length of the unsharded sequence.
        """
        ...


class RotaryEmbeddingBuilder(Protocol):
    """Builder of the rotary embedding.

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
            rotary_percent: Fraction of `d` that is rotated, in (0, 1].
            seq_len_interpolation_factor: Divisor of the positions. `None`: 1.
            rotary_base: Base of the wavelengths. The engine annotates an `int` but accepts any number.
            use_cpu_initialization: Whether to create the frequencies on the CPU.
            cp_group: Context-parallel group, over which the positions are split.

        Returns:
            The rotary embedding.
        """
        ...
