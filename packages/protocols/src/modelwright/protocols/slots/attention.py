"""The attention slots: self- and cross-attention as a layer calls them, and the core attention inside them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from megatron.core.inference.contexts.base_context import BaseInferenceContext
    from megatron.core.packed_seq_params import PackedSeqParams
    from megatron.core.process_groups_config import ProcessGroupCollection
    from megatron.core.transformer.enums import AttnMaskType
    from megatron.core.transformer.transformer_config import TransformerConfig
    from torch import Tensor


class CoreAttentionInterface(Protocol):
    """A built core attention. A `torch.nn.Module` at run time: the engine refuses anything else."""

    def forward(
        self,
        query_SBND: Tensor,
        key_SBND: Tensor,
        value_SBND: Tensor,
        attention_mask: Tensor | None,
        /,
        *,
        attn_mask_type: AttnMaskType,
        attention_bias: Tensor | None,
        packed_seq_params: PackedSeqParams | None,
    ) -> Tensor:
        """Attend. Called by `Attention.forward` and, under selective recomputation, `_run_core_attention`.

        Args:
            query_SBND: `[s, b, n, d]`, with this tensor-parallel rank's heads; `[s, n, d]` for packed sequences.
            key_SBND: `[s, b, query groups, d]`; grouped queries are not repeated for you.
            value_SBND: As `key_SBND`.
            attention_mask: True where *not* to attend, broadcastable to `[b, n, s, s]`; `None` where
                `attn_mask_type` says all.
            attn_mask_type: Which mask is meant: causal, padding, both, none.
            attention_bias: Added to the logits, or `None`.
            packed_seq_params: Boundaries of packed sequences, or `None`.

        Returns:
            `[s, b, n * d]`; `[s, n * d]` or `[s, n, d]` for packed sequences.
        """
        ...

    def __call__(
        self,
        query_SBND: Tensor,
        key_SBND: Tensor,
        value_SBND: Tensor,
        attention_mask: Tensor | None,
        /,
        *,
        attn_mask_type: AttnMaskType,
        attention_bias: Tensor | None,
        packed_seq_params: PackedSeqParams | None,
    ) -> Tensor:
        """As `forward`; `torch.nn.Module` provides it."""
        ...


class CoreAttentionBuilder(Protocol):
    """Makes a core attention.

    Call site: `attention.py`, `Attention.__init__`. Latent attention builds and calls this slot with more
    (`k_channels`, `v_channels`; `x`, `qr`) and has a Protocol of its own.
    """

    def __call__(
        self,
        *,
        config: TransformerConfig,
        layer_number: int,
        attn_mask_type: AttnMaskType,
        attention_type: str,
        cp_comm_type: str | None,
        softmax_scale: float | None,
        pg_collection: ProcessGroupCollection,
    ) -> CoreAttentionInterface:
        """Build the core attention.

        Args:
            config: The engine's config; a copy with more query groups when there are fewer than tensor-parallel
                ranks.
            layer_number: Counted from 1 over the whole model.
            attn_mask_type: The mask to apply when a call names none.
            attention_type: `"self"` or `"cross"`.
            cp_comm_type: How keys and values travel under context parallelism, or `None` without it.
            softmax_scale: Multiplies the logits; `None` means `1 / sqrt(d)`.
            pg_collection: The process groups; `tp` splits the heads, `cp` the sequence.

        Returns:
            The core attention.
        """
        ...


class SelfAttentionInterface(Protocol):
    """A built self-attention."""

    def forward(
        self,
        hidden_SBH: Tensor,
        /,
        *,
        attention_mask: Tensor | None,
        inference_context: BaseInferenceContext | None,
        rotary_pos_emb: Tensor | None,
        rotary_pos_cos: Tensor | None,
        rotary_pos_sin: Tensor | None,
        rotary_pos_cos_sin: Tensor | None,
        attention_bias: Tensor | None,
        packed_seq_params: PackedSeqParams | None,
        sequence_len_offset: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Mix positions. Called by `TransformerLayer._forward_attention`.

        Args:
            hidden_SBH: `[s, b, h]`, normalized; under sequence parallelism this rank's part of `s`.
            attention_mask: See `CoreAttentionInterface.forward`.
            inference_context: Holds the key and value cache in generation, else `None`.
            rotary_pos_emb: `[s, 1, 1, d]` angles, or `None` without rotary embedding.
            rotary_pos_cos: Cosines for fused decoding, or `None`.
            rotary_pos_sin: Sines for fused decoding, or `None`.
            rotary_pos_cos_sin: Both in one tensor for fused decoding, or `None`.
            attention_bias: Added to the logits, or `None`.
            packed_seq_params: Boundaries of packed sequences, or `None`.
            sequence_len_offset: `[b]` offsets for decoding under CUDA graphs, or `None`.

        Returns:
            `[s, b, h]`, and the bias that was not added, `[h]`, or `None`.
        """
        ...

    def __call__(
        self,
        hidden_SBH: Tensor,
        /,
        *,
        attention_mask: Tensor | None,
        inference_context: BaseInferenceContext | None,
        rotary_pos_emb: Tensor | None,
        rotary_pos_cos: Tensor | None,
        rotary_pos_sin: Tensor | None,
        rotary_pos_cos_sin: Tensor | None,
        attention_bias: Tensor | None,
        packed_seq_params: PackedSeqParams | None,
        sequence_len_offset: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """As `forward`; `torch.nn.Module` provides it."""
        ...


class SelfAttentionBuilder(Protocol):
    """Makes a self-attention.

    Call site: `transformer_layer.py`, `TransformerLayer.__init__` (untyped there, through `build_module`).
    """

    def __call__(
        self,
        *,
        config: TransformerConfig,
        layer_number: int,
        pg_collection: ProcessGroupCollection,
        name: str | None,
        cp_comm_type: str | None = None,
        pp_layer_offset: int | None = None,
    ) -> SelfAttentionInterface:
        """Build the self-attention.

        Args:
            config: The engine's config.
            layer_number: Counted from 1 over the whole model.
            pg_collection: The process groups; `tp` splits the heads, `cp` the sequence.
            name: Dotted name of this module in the model, or `None`.
            cp_comm_type: How keys and values travel; passed only under context parallelism.
            pp_layer_offset: Number of layers before this stage; passed by `HybridStack`, not by
                `TransformerBlock`.

        Returns:
            The self-attention.
        """
        ...
