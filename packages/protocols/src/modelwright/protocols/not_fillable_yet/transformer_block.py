"""Protocols of the layer slot of Megatron-Core's `TransformerBlock`, a stack of layers with attention and MLP each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from megatron.core.inference.contexts.base_context import BaseInferenceContext
    from megatron.core.packed_seq_params import PackedSeqParams
    from megatron.core.process_groups_config import ProcessGroupCollection
    from megatron.core.transformer.transformer_config import TransformerConfig
    from torch import Tensor


class TransformerLayerBuilder(Protocol):
    """Builder of a transformer layer with attention and MLP, for the engine's `TransformerBlock`.

    Call site: `transformer_block.py`, `TransformerBlock._build_layers` (untyped there, through `build_module`).
    """

    def __call__(
        self,
        *,
        config: TransformerConfig,
        layer_number: int,
        pg_collection: ProcessGroupCollection,
        vp_stage: int | None,
    ) -> BlockLayerInterface:
        """Build the layer.

        Args:
            config: The engine's config of this layer.
            layer_number: Number of the layer in the stage, from 1. The layer adds the offset of the stage.
            pg_collection: Process groups.
            vp_stage: Virtual pipeline stage, or `None`.

        Returns:
            The layer.
        """
        ...


class BlockLayerInterface(Protocol):
    """A built layer of a `TransformerBlock`."""

    def forward(
        self,
        *,
        hidden_states: Tensor,
        attention_mask: Tensor | None,
        context: Tensor | None,
        context_mask: Tensor | None,
        rotary_pos_emb: Tensor | None,
        rotary_pos_cos: Tensor | None,
        rotary_pos_sin: Tensor | None,
        rotary_pos_cos_sin: Tensor | None,
        attention_bias: Tensor | None,
        inference_context: BaseInferenceContext | None,
        packed_seq_params: PackedSeqParams | None,
        sequence_len_offset: Tensor | None,
        padding_mask: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Run the layer. Called by `TransformerBlock.forward`.

        Args:
            hidden_states: `[s, b, h]`; under sequence parallelism this rank's shard of `s`.
            attention_mask: See `CoreAttentionInterface.forward`.
            context: `[context s, b, h]` for cross-attention, or `None`.
            context_mask: Mask of the context, or `None`.
            rotary_pos_emb: `[s, 1, 1, d]` angles, or `None` without rotary embedding.
            rotary_pos_cos: Cosines for fused decoding, or `None`.
            rotary_pos_sin: Sines for fused decoding, or `None`.
            rotary_pos_cos_sin: Cosines and sines in one tensor for fused decoding, or `None`.
            attention_bias: Bias added to the logits, or `None`.
            inference_context: Key and value cache of a generation, or `None`.
            packed_seq_params: Boundaries of packed sequences, or `None`.
            sequence_len_offset: `[b]` offsets for decoding, or `None`.
            padding_mask: `[b, s]`, true where a token is padding, or `None`.

        Returns:
            `[s, b, h]`, and the context for the next layer's cross-attention.
        """
        ...

    def __call__(
        self,
        *,
        hidden_states: Tensor,
        attention_mask: Tensor | None,
        context: Tensor | None,
        context_mask: Tensor | None,
        rotary_pos_emb: Tensor | None,
        rotary_pos_cos: Tensor | None,
        rotary_pos_sin: Tensor | None,
        rotary_pos_cos_sin: Tensor | None,
        attention_bias: Tensor | None,
        inference_context: BaseInferenceContext | None,
        packed_seq_params: PackedSeqParams | None,
        sequence_len_offset: Tensor | None,
        padding_mask: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Call `forward`; `torch.nn.Module` provides this method."""
        ...
