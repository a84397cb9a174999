"""The slot of the rotary embedding with YaRN. Peng et al. 2023, arXiv 2309.00071."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from megatron.core.inference.contexts.base_context import BaseInferenceContext
    from megatron.core.packed_seq_params import PackedSeqParams
    from megatron.core.transformer.transformer_config import TransformerConfig
    from torch import Tensor
    from torch.distributed import ProcessGroup

    from modelwright.protocols.slots.stack import StackInterface


class YarnRotaryEmbeddingInterface(Protocol):
    """A built rotary embedding with YaRN, which returns a scale beside the angles."""

    def forward(self, max_seq_len: int, /, *, packed_seq: bool) -> tuple[Tensor, float]:
        """Compute the angles. Called by `HybridModel.forward` on every stage, and by latent attention.

        Args:
            max_seq_len: Positions to cover, from `get_rotary_seq_len`.
            packed_seq: Whether several sequences are packed into one.

        Returns:
            `[s, 1, 1, d]`, and the scale of the rotated channels, which `HybridModel` ignores.
        """
        ...

    def __call__(self, max_seq_len: int, /, *, packed_seq: bool) -> tuple[Tensor, float]:
        """As `forward`; `torch.nn.Module` provides it."""
        ...

    def get_rotary_seq_len(
        self,
        inference_context: BaseInferenceContext | None,
        stack: StackInterface | None,
        hidden_SBH: Tensor | None,
        config: TransformerConfig,
        packed_seq_params: PackedSeqParams | None,
        /,
    ) -> int:
        """Say how many positions the next forward needs. Called before every forward.

        Args:
            inference_context: Holds the key and value cache in generation, else `None`.
            stack: The stack of this stage; `None` inside latent attention.
            hidden_SBH: `[s, b, h]`; `None` from the second stage on.
            config: The engine's config.
            packed_seq_params: Boundaries of packed sequences, or `None`.

        Returns:
            The whole sequence's length.
        """
        ...


class YarnRotaryEmbeddingBuilder(Protocol):
    """Makes the rotary embedding with `position_embedding_type="yarn"`. Peng et al. 2023, arXiv 2309.00071.

    Call site: `hybrid_model.py`, `HybridModel.__init__`, where the class is fixed (`YarnRotaryEmbedding`). Latent
    attention with `config.rope_type` `"yarn"` builds it too, without the last four of these arguments.
    """

    def __call__(
        self,
        kv_channels: int,
        *,
        rotary_base: float,
        scaling_factor: float,
        original_max_position_embeddings: int,
        beta_fast: float,
        beta_slow: float,
        mscale: float,
        mscale_all_dim: float,
        cp_group: ProcessGroup,
        rotary_percent: float = 1.0,
        seq_len_interpolation_factor: float | None = None,
        correction_range_round_to_int: bool = True,
        use_cpu_initialization: bool = False,
    ) -> YarnRotaryEmbeddingInterface:
        """Build the rotary embedding.

        Args:
            kv_channels: Head size `d`, or the rotary channels of latent attention.
            rotary_base: Base of the wavelengths.
            scaling_factor: How much longer the context is than the original.
            original_max_position_embeddings: Context of the original training, in tokens.
            beta_fast: Turns within the original context above which a frequency is kept.
            beta_slow: Turns below which a frequency is slowed by `scaling_factor`.
            mscale: Scales the rotated channels.
            mscale_all_dim: Scales the logits of latent attention.
            cp_group: The context-parallel group, over which the positions are split.
            rotary_percent: Part of `d` that is rotated.
            seq_len_interpolation_factor: Divides the positions; `None` leaves them.
            correction_range_round_to_int: Whether the range between kept and slowed is made of whole channels.
            use_cpu_initialization: Whether to hold the frequencies on the CPU at first.

        Returns:
            The rotary embedding.
        """
        ...
