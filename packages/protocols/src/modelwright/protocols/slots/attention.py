"""Protocols of Megatron-Core's attention slots: self-attention, and the core attention inside it."""

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
    """A built core attention. It must be a `torch.nn.Module`; the engine refuses anything else."""

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
            key_SBND: `[s, b, query groups, d]`. Keys are not repeated for grouped queries.
            value_SBND: Same shape as `key_SBND`.
            attention_mask: Mask broadcastable to `[b, n, s, s]`, true where a query must *not* attend. `None` if
                `attn_mask_type` defines the mask.
            attn_mask_type: Kind of the mask: causal, padding, both or none.
            attention_bias: Bias added to the logits, or `None`.
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
        """Call `forward`; `torch.nn.Module` provides this method."""
        ...


class CoreAttentionBuilder(Protocol):
    """Builder of a core attention.

    Call site: `attention.py`, `Attention.__init__`. MLA builds and calls this slot with more arguments, see
    `LatentCoreAttentionBuilder`.
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
            config: The engine's config. If there are fewer query groups than tensor-parallel ranks, a copy with more
                groups.
            layer_number: Number of the layer in the whole model, from 1.
            attn_mask_type: Kind of the mask if a call specifies none.
            attention_type: `"self"` or `"cross"`.
            cp_comm_type: Kind of communication of keys and values under context parallelism, or `None` without it.
            softmax_scale: Factor of the logits. `None`: `1 / sqrt(d)`.
            pg_collection: Process groups; `tp` splits the heads, `cp` the sequence.

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
        """Attend over the positions of each sequence. Called by `TransformerLayer._forward_attention`.

        Args:
            hidden_SBH: `[s, b, h]`, normalized; under sequence parallelism this rank's shard of `s`.
            attention_mask: See `CoreAttentionInterface.forward`.
            inference_context: Key and value cache of a generation, or `None`.
            rotary_pos_emb: `[s, 1, 1, d]` angles, or `None` without rotary embedding.
            rotary_pos_cos: Cosines for fused decoding, or `None`.
            rotary_pos_sin: Sines for fused decoding, or `None`.
            rotary_pos_cos_sin: Cosines and sines in one tensor for fused decoding, or `None`.
            attention_bias: Bias added to the logits, or `None`.
            packed_seq_params: Boundaries of packed sequences, or `None`.
            sequence_len_offset: `[b]` offsets for decoding under CUDA graphs, or `None`.

        Returns:
            `[s, b, h]`,, and the bias `[h]` that the caller has to add, or `None`.
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
        """Call `forward`; `torch.nn.Module` provides this method."""
        ...


class SelfAttentionBuilder(Protocol):
    """Builder of a self-attention.

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
            layer_number: Number of the layer in the whole model, from 1.
            pg_collection: Process groups; `tp` splits the heads, `cp` the sequence.
            name: Dotted name of this module in the model, or `None`.
            cp_comm_type: Kind of communication of keys and values. Passed only under context parallelism.
            pp_layer_offset: Number of layers before this stage. Passed by `HybridStack`, not by `TransformerBlock`.

        Returns:
            The self-attention.
        """
        ...
