"""Protocols of Megatron-Core's multi-token prediction slots (`/` in a stack pattern).

Gloeckle et al. 2024, arXiv 2404.19737; DeepSeek-V3, arXiv 2412.19437. Each layer of the block predicts one token
further. It combines the hidden states with the embedding of the next token and runs a layer, or a short stack, on the
result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from megatron.core.packed_seq_params import PackedSeqParams
    from megatron.core.process_groups_config import ProcessGroupCollection
    from megatron.core.transformer.transformer_config import TransformerConfig
    from torch import Tensor
    from torch.distributed import ProcessGroup

    from modelwright.protocols.slots.embedding import EmbeddingInterface


class EhProjInterface(Protocol):
    """A built `eh_proj`, which projects embedding and hidden states to the hidden size."""

    def forward(self, both_SBH: Tensor, /) -> tuple[Tensor, object]:
        """Project. Called by `MultiTokenPredictionLayer._concat_embeddings`.

        Args:
            both_SBH: `[s, b, 2 * h]`, the normalized embedding of the next token followed by the normalized hidden
                states.

        Returns:
            `[s, b, h / tensor-parallel size]`, which the engine gathers, and a second value that it ignores.
        """
        ...

    def __call__(self, both_SBH: Tensor, /) -> tuple[Tensor, object]:
        """Call `forward`; `torch.nn.Module` provides this method."""
        ...


class EhProjBuilder(Protocol):
    """Builder of `eh_proj`.

    Call site: `multi_token_prediction.py`, `MultiTokenPredictionLayer.__init__` (untyped there, through
    `build_module`).
    """

    def __call__(
        self,
        input_size: int,
        output_size: int,
        /,
        *,
        config: TransformerConfig,
        init_method: Callable[[Tensor], None],
        gather_output: bool,
        bias: bool,
        skip_bias_add: bool,
        is_expert: bool,
        tp_comm_buffer_name: str,
        tp_group: ProcessGroup | None,
        name: str | None,
    ) -> EhProjInterface:
        """Build the layer.

        Args:
            input_size: `2 * h`.
            output_size: `h`.
            config: The engine's config.
            init_method: Function that initializes the weight in place.
            gather_output: Whether to gather the output over the tensor-parallel group; always false here.
            bias: Whether the layer has a bias; always false here.
            skip_bias_add: Whether to return the bias instead of adding it; always false here.
            is_expert: Whether the layer belongs to an expert.
            tp_comm_buffer_name: Name of Transformer Engine's communication buffer, `"mtp_eh_proj"`.
            tp_group: Tensor-parallel group.
            name: Dotted name of this module in the model, or `None`.

        Returns:
            The layer.
        """
        ...


class MtpModelLayerInterface(Protocol):
    """A built inner layer of a multi-token-prediction layer.

    Used in a GPT only. In a hybrid model the inner layers are a `HybridStack` that follows the pattern.
    """

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
        attention_bias: Tensor | None,
        inference_params: object,
        packed_seq_params: PackedSeqParams | None,
        sequence_len_offset: Tensor | None,
        padding_mask: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Run the layer. Called by `MultiTokenPredictionLayer._proj_and_transformer_layer`.

        Args:
            hidden_states: `[s, b, h]`.
            attention_mask: See `CoreAttentionInterface.forward`.
            context: Context of cross-attention; always `None`.
            context_mask: Always `None`; passed only under full recomputation.
            rotary_pos_emb: `[s, 1, 1, d]` angles, or `None` without rotary embedding.
            rotary_pos_cos: Cosines for fused decoding, or `None`.
            rotary_pos_sin: Sines for fused decoding, or `None`.
            attention_bias: Bias added to the logits, or `None`.
            inference_params: The `inference_context` of other layers, under its old name.
            packed_seq_params: Boundaries of packed sequences, or `None`.
            sequence_len_offset: `[b]` offsets for decoding, or `None`.
            padding_mask: `[b, s]`, true where a token is padding, or `None`.

        Returns:
            `[s, b, h]`, and a second value that the engine ignores.
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
        attention_bias: Tensor | None,
        inference_params: object,
        packed_seq_params: PackedSeqParams | None,
        sequence_len_offset: Tensor | None,
        padding_mask: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Call `forward`; `torch.nn.Module` provides this method."""
        ...


class MtpModelLayerBuilder(Protocol):
    """Builder of the inner layer.

    Call site: `multi_token_prediction.py`, `MultiTokenPredictionLayer.__init__` (untyped there, through
    `build_module`).
    """

    def __call__(
        self,
        *,
        config: TransformerConfig,
        vp_stage: int | None,
        layer_number: int,
        is_mtp_layer: bool,
        pg_collection: ProcessGroupCollection,
        name: str | None,
    ) -> MtpModelLayerInterface:
        """Build the layer.

        Args:
            config: The engine's config.
            vp_stage: Virtual pipeline stage, or `None`.
            layer_number: Number of the layer among the multi-token-prediction layers, from 1.
            is_mtp_layer: Whether the layer belongs to a multi-token-prediction block; always true here.
            pg_collection: Process groups.
            name: Dotted name of this module in the model, or `None`.

        Returns:
            The layer.
        """
        ...


class MtpLayerInterface(Protocol):
    """A built multi-token-prediction layer."""

    def forward(
        self,
        *,
        input_ids: Tensor,
        position_ids: Tensor,
        hidden_states: Tensor,
        attention_mask: Tensor | None,
        padding_mask: Tensor | None,
        inference_params: object,
        rotary_pos_emb: Tensor | None,
        rotary_pos_cos: Tensor | None,
        rotary_pos_sin: Tensor | None,
        packed_seq_params: PackedSeqParams | None,
        sequence_len_offset: Tensor | None,
        embedding: EmbeddingInterface,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Predict one token further. Called by `MultiTokenPredictionBlock.forward`.

        Args:
            input_ids: `[b, s]`, shifted by one token for each layer before this one.
            position_ids: `[b, s]`, shifted in the same way.
            hidden_states: `[s, b, h]` from the layer before this one, or from the decoder.
            attention_mask: See `CoreAttentionInterface.forward`.
            padding_mask: `[b, s]`, shifted in the same way, or `None`.
            inference_params: The `inference_context` of other layers, under its old name.
            rotary_pos_emb: `[s, 1, 1, d]` angles, or `None` without rotary embedding.
            rotary_pos_cos: Cosines for fused decoding, or `None`.
            rotary_pos_sin: Sines for fused decoding, or `None`.
            packed_seq_params: Boundaries of packed sequences, or `None`.
            sequence_len_offset: `[b]` offsets for decoding, or `None`.
            embedding: The model's embedding, for the next token.

        Returns:
            `[s, b, h]`, and token ids, positions and padding mask shifted by one.
        """
        ...

    def __call__(
        self,
        *,
        input_ids: Tensor,
        position_ids: Tensor,
        hidden_states: Tensor,
        attention_mask: Tensor | None,
        padding_mask: Tensor | None,
        inference_params: object,
        rotary_pos_emb: Tensor | None,
        rotary_pos_cos: Tensor | None,
        rotary_pos_sin: Tensor | None,
        packed_seq_params: PackedSeqParams | None,
        sequence_len_offset: Tensor | None,
        embedding: EmbeddingInterface,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Call `forward`; `torch.nn.Module` provides this method."""
        ...


class MtpLayerBuilder(Protocol):
    """Builder of a multi-token-prediction layer.

    Call site: `multi_token_prediction.py`, `MultiTokenPredictionBlock._build_layers` (untyped there, through
    `build_module`).
    """

    def __call__(
        self,
        *,
        config: TransformerConfig,
        layer_number: int,
        vp_stage: int | None,
        pg_collection: ProcessGroupCollection,
        mtp_layer_pattern: str | None,
        name: str | None,
        hybrid_submodules: Any = None,
    ) -> MtpLayerInterface:
        """Build the layer.

        Args:
            config: The engine's config.
            layer_number: Number of the layer among the multi-token-prediction layers, from 1.
            vp_stage: Virtual pipeline stage, or `None`.
            pg_collection: Process groups.
            mtp_layer_pattern: Stack pattern of the inner layers, or `None` in a GPT.
            name: Dotted name of this module in the model, or `None`.
            hybrid_submodules: The engine's `HybridStackSubmodules` for the inner layers. Omitted in a GPT.

        Returns:
            The layer.
        """
        ...


class MtpBlockInterface(Protocol):
    """A built multi-token-prediction block."""

    def forward(
        self,
        *,
        input_ids: Tensor,
        position_ids: Tensor,
        hidden_states: Tensor,
        attention_mask: Tensor | None,
        inference_params: object,
        rotary_pos_emb: Tensor | None,
        packed_seq_params: PackedSeqParams | None,
        embedding: EmbeddingInterface,
    ) -> Tensor:
        """Run all layers. Called by `HybridModel.forward` in training, on the last stage.

        Args:
            input_ids: `[b, s]`.
            position_ids: `[b, s]`.
            hidden_states: `[s, b, h]` from the stack.
            attention_mask: See `CoreAttentionInterface.forward`.
            inference_params: The `inference_context` of other layers, under its old name.
            rotary_pos_emb: `[s, 1, 1, d]` angles, or `None` without rotary embedding.
            packed_seq_params: Boundaries of packed sequences, or `None`.
            embedding: The model's embedding, for the next tokens.

        Returns:
            `[(1 + layers) * s, b, h]`: the output of the stack followed by that of each layer.
        """
        ...

    def __call__(
        self,
        *,
        input_ids: Tensor,
        position_ids: Tensor,
        hidden_states: Tensor,
        attention_mask: Tensor | None,
        inference_params: object,
        rotary_pos_emb: Tensor | None,
        packed_seq_params: PackedSeqParams | None,
        embedding: EmbeddingInterface,
    ) -> Tensor:
        """Call `forward`; `torch.nn.Module` provides this method."""
        ...


class MtpBlockBuilder(Protocol):
    """Builder of a multi-token-prediction block.

    Call site: `hybrid_model.py`, `HybridModel.__init__`, where the class is fixed (`MultiTokenPredictionBlock`).
    """

    def __call__(
        self,
        *,
        config: TransformerConfig,
        spec: Any,
        pg_collection: ProcessGroupCollection,
        vp_stage: int | None,
        mtp_layer_pattern: str | None,
        mtp_num_depths: int,
        hybrid_submodules: Any,
        name: str | None,
    ) -> MtpBlockInterface:
        """Build the block.

        Args:
            config: The engine's config.
            spec: Value of `HybridStackSubmodules.mtp_block_spec`.
            pg_collection: Process groups.
            vp_stage: Virtual pipeline stage, or `None`.
            mtp_layer_pattern: Stack pattern of the inner layers.
            mtp_num_depths: Number of further tokens that the block predicts.
            hybrid_submodules: The engine's `HybridStackSubmodules` for the inner layers.
            name: Dotted name of this module in the model, or `None`.

        Returns:
            The block.
        """
        ...
