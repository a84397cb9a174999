"""Protocols of Megatron-Core's rotary embedding with YaRN. Peng et al. 2023, arXiv 2309.00071."""

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
    """A built rotary embedding with YaRN, which returns a scale together with the angles."""

    def forward(self, max_seq_len: int, /, *, packed_seq: bool) -> tuple[Tensor, float]:
        """Compute the angles. Called by `HybridModel.forward` on every stage, and by MLA.

        Args:
            max_seq_len: Positions to cover, from `get_rotary_seq_len`.
            packed_seq: Whether several sequences are packed into one.

        Returns:
            `[s, 1, 1, d]`, and the scale of the rotated channels, which `HybridModel` ignores.
        """
        ...

    def __call__(self, max_seq_len: int, /, *, packed_seq: bool) -> tuple[Tensor, float]:
        """Call `forward`; `torch.nn.Module` provides this method."""
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
        """Return the number of positions that the next forward needs. Called before every forward.

        Args:
            inference_context: Key and value cache of a generation, or `None`.
            stack: Stack of this stage, or `None` inside MLA.
            hidden_SBH: `[s, b, h]`, or `None` from the second stage on.
            config: The engine's config.
            packed_seq_params: Boundaries of packed sequences, or `None`.

        Returns:
            Length of the unsharded sequence.
        """
        ...


class YarnRotaryEmbeddingBuilder(Protocol):
    """Builder of the rotary embedding if `position_embedding_type` is `"yarn"`.

    Call site: `hybrid_model.py`, `HybridModel.__init__`, where the class is fixed (`YarnRotaryEmbedding`). MLA with
    `config.rope_type` `"yarn"` builds it too, without the last four arguments.
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
            kv_channels: Head size `d`, or the number of rotary channels of MLA.
            rotary_base: Base of the wavelengths.
            scaling_factor: Ratio of the context length to the original one.
            original_max_position_embeddings: Context length of the original training, in tokens.
            beta_fast: Number of turns within the original context above which a frequency is unchanged.
            beta_slow: Number of turns within the original context below which a frequency is divided by
                `scaling_factor`.
            mscale: Coefficient of the scale of the rotated channels.
            mscale_all_dim: Coefficient of the scale of the logits of MLA.
            cp_group: Context-parallel group, over which the positions are split.
            rotary_percent: Fraction of `d` that is rotated.
            seq_len_interpolation_factor: Divisor of the positions. `None`: 1.
            correction_range_round_to_int: Whether to round the bounds of the range between the two to whole channels.
            use_cpu_initialization: Whether to create the frequencies on the CPU.

        Returns:
            The rotary embedding.
        """
        ...
