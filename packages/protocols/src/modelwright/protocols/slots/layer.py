"""Protocols of the layer slots of a Megatron-Core stack, one per symbol of the stack pattern.

Each layer adds its own residual, so a transformer block of the literature is an attention layer (`*`) followed by an
MLP layer (`-`). The engine calls instances of `TransformerLayer` in one way and all other layers like a Mamba layer
(`M`). A layer of every other symbol must therefore be a subclass of `TransformerLayer`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from megatron.core.inference.contexts.base_context import BaseInferenceContext
    from megatron.core.packed_seq_params import PackedSeqParams
    from megatron.core.process_groups_config import ProcessGroupCollection
    from megatron.core.transformer.transformer_config import TransformerConfig
    from torch import Tensor


class TransformerLayerInterface(Protocol):
    """A built layer that the engine calls like its `TransformerLayer`; the common base of the layer Interfaces."""

    @property
    def layer_number(self) -> int:
        """Number of the layer in the whole model, from 1. Read by `HybridStack` in forward and in its checkpoint."""
        ...

    def forward(
        self,
        *,
        hidden_states: Tensor,
        attention_mask: Tensor | None,
        inference_context: BaseInferenceContext | None,
        rotary_pos_emb: Tensor | None,
        packed_seq_params: PackedSeqParams | None,
        padding_mask: Tensor | None,
        sequence_len_offset: Tensor | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        attention_bias: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Run the layer. Called by `HybridStack.forward`, and by `checkpointed_forward` under full recomputation.

        Args:
            hidden_states: `[s, b, h]`; under sequence parallelism this rank's shard of `s`.
            attention_mask: See `CoreAttentionInterface.forward`.
            inference_context: Key and value cache of a generation, or `None`.
            rotary_pos_emb: `[s, 1, 1, d]` angles, or `None` without rotary embedding.
            packed_seq_params: Boundaries of packed sequences, or `None`.
            padding_mask: `[b, s]`, true where a token is padding, or `None`.
            sequence_len_offset: `[b]` offsets for decoding. Omitted under full recomputation.
            context: Context of cross-attention. Always `None`; passed only under full recomputation.
            context_mask: Always `None`; passed only under full recomputation.
            attention_bias: Always `None`; passed only under full recomputation.

        Returns:
            `[s, b, h]`, and the context for cross-attention, which is `None` without it.
        """
        ...

    def __call__(
        self,
        *,
        hidden_states: Tensor,
        attention_mask: Tensor | None,
        inference_context: BaseInferenceContext | None,
        rotary_pos_emb: Tensor | None,
        packed_seq_params: PackedSeqParams | None,
        padding_mask: Tensor | None,
        sequence_len_offset: Tensor | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        attention_bias: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Call `forward`; `torch.nn.Module` provides this method."""
        ...


class AttentionLayerInterface(TransformerLayerInterface, Protocol):
    """A built attention layer: norm, self-attention, bias-dropout-add."""


class AttentionLayerBuilder(Protocol):
    """Builder of an attention layer.

    Call site: `hybrid_block.py`, `HybridStack.__init__`, symbol `*` (untyped there, through `build_module`).
    """

    def __call__(
        self,
        *,
        config: TransformerConfig,
        layer_number: int,
        pg_collection: ProcessGroupCollection,
        is_mtp_layer: bool,
        add_layer_offset: bool,
        pp_layer_offset: int,
        name: str | None,
    ) -> AttentionLayerInterface:
        """Build the layer.

        Args:
            config: The engine's config.
            layer_number: Number of the layer in the whole model, from 1.
            pg_collection: Process groups.
            is_mtp_layer: Whether the layer belongs to a multi-token-prediction block.
            add_layer_offset: Whether to add the offset of the stage to `layer_number`. Always false, because the stack
                has added it.
            pp_layer_offset: Number of layers before this stage.
            name: Dotted name of this module in the model, or `None`.

        Returns:
            The layer.
        """
        ...


class MlpLayerInterface(TransformerLayerInterface, Protocol):
    """A built MLP layer: norm, MLP, bias-dropout-add."""


class MlpLayerBuilder(Protocol):
    """Builder of an MLP layer.

    Call site: `hybrid_block.py`, `HybridStack.__init__`, symbol `-` (untyped there, through `build_module`).
    """

    def __call__(
        self,
        *,
        config: TransformerConfig,
        layer_number: int,
        pg_collection: ProcessGroupCollection,
        add_layer_offset: bool,
        name: str | None,
    ) -> MlpLayerInterface:
        """Build the layer.

        Args:
            config: The engine's config.
            layer_number: Number of the layer in the whole model, from 1.
            pg_collection: Process groups.
            add_layer_offset: Whether to add the offset of the stage to `layer_number`. Always false, because the stack
                has added it.
            name: Dotted name of this module in the model, or `None`.

        Returns:
            The layer.
        """
        ...


class LatentAttentionLayerInterface(TransformerLayerInterface, Protocol):
    """A built MLA layer: norm, MLA, bias-dropout-add."""


class LatentAttentionLayerBuilder(Protocol):
    """Builder of an MLA layer.

    Call site: `hybrid_block.py`, `HybridStack.__init__`, symbol `+` (untyped there, through `build_module`). The engine
    passes no `name` to this kind of layer, so the modules inside it have none either.
    """

    def __call__(
        self,
        *,
        config: TransformerConfig,
        layer_number: int,
        pg_collection: ProcessGroupCollection,
        is_mtp_layer: bool,
        add_layer_offset: bool,
        pp_layer_offset: int,
    ) -> LatentAttentionLayerInterface:
        """Build the layer.

        Args:
            config: The engine's config.
            layer_number: Number of the layer in the whole model, from 1.
            pg_collection: Process groups.
            is_mtp_layer: Whether the layer belongs to a multi-token-prediction block.
            add_layer_offset: Whether to add the offset of the stage to `layer_number`. Always false, because the stack
                has added it.
            pp_layer_offset: Number of layers before this stage.

        Returns:
            The layer.
        """
        ...


class MoeLayerInterface(TransformerLayerInterface, Protocol):
    """A built MoE layer: norm, router with experts, bias-dropout-add."""


class MoeLayerBuilder(Protocol):
    """Builder of an MoE layer.

    Call site: `hybrid_block.py`, `HybridStack.__init__`, symbol `E` (untyped there, through `build_module`).
    """

    def __call__(
        self,
        *,
        config: TransformerConfig,
        layer_number: int,
        pg_collection: ProcessGroupCollection,
        add_layer_offset: bool,
        name: str | None,
    ) -> MoeLayerInterface:
        """Build the layer.

        Args:
            config: The engine's config.
            layer_number: Number of the layer in the whole model, from 1.
            pg_collection: Process groups.
            add_layer_offset: Whether to add the offset of the stage to `layer_number`. Always false, because the stack
                has added it.
            name: Dotted name of this module in the model, or `None`.

        Returns:
            The layer.
        """
        ...


class MambaLayerInterface(Protocol):
    """A built Mamba layer: norm, mixer, bias-dropout-add. Also see `SupportsMambaStateShapes`."""

    @property
    def layer_number(self) -> int:
        """Number of the layer in the whole model, from 1. Read by `HybridStack` in forward and in its checkpoint."""
        ...

    def forward(
        self,
        *,
        hidden_states: Tensor,
        attention_mask: Tensor | None,
        inference_context: BaseInferenceContext | None,
        packed_seq_params: PackedSeqParams | None,
        rotary_pos_emb: Tensor | None = None,
    ) -> Tensor:
        """Run the layer. Called by `HybridStack.forward`, and by `checkpointed_forward` under full recomputation.

        Args:
            hidden_states: `[s, b, h]`; under sequence parallelism this rank's shard of `s`.
            attention_mask: Mask of attention layers, which a causal mixer does not need.
            inference_context: States of a generation, or `None`.
            packed_seq_params: Boundaries of packed sequences, or `None`.
            rotary_pos_emb: Angles of attention layers, unused here. Passed only under full recomputation.

        Returns:
            `[s, b, h]`.
        """
        ...

    def __call__(
        self,
        *,
        hidden_states: Tensor,
        attention_mask: Tensor | None,
        inference_context: BaseInferenceContext | None,
        packed_seq_params: PackedSeqParams | None,
        rotary_pos_emb: Tensor | None = None,
    ) -> Tensor:
        """Call `forward`; `torch.nn.Module` provides this method."""
        ...


class MambaLayerBuilder(Protocol):
    """Builder of a Mamba layer.

    Call site: `hybrid_block.py`, `HybridStack.__init__`, symbol `M` (untyped there, through `build_module`).
    """

    def __call__(
        self,
        *,
        config: TransformerConfig,
        layer_number: int,
        pp_layer_offset: int,
        pg_collection: ProcessGroupCollection,
        name: str | None,
    ) -> MambaLayerInterface:
        """Build the layer.

        Args:
            config: The engine's config.
            layer_number: Number of the layer in the whole model, from 1.
            pp_layer_offset: Number of layers before this stage.
            pg_collection: Process groups.
            name: Dotted name of this module in the model, or `None`.

        Returns:
            The layer.
        """
        ...
