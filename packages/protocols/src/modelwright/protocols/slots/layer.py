"""The layer slots of a stack, one per symbol of the stack pattern, each with its own residual.

A transformer block of the literature is an attention layer (`*`) and an MLP layer (`-`). All but the Mamba layer (`M`)
are called alike, as `HybridStack.forward` calls a `TransformerLayer`; the engine decides by `isinstance`, so at run
time such a layer is a subclass of that class, and what is not one is called as a Mamba layer.
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
    """What an attention layer and an MLP layer have in common."""

    @property
    def layer_number(self) -> int:
        """Counted from 1 over the whole model. Read by `HybridStack` in forward and in its checkpoint."""
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
            hidden_states: `[s, b, h]`; under sequence parallelism this rank's part of `s`.
            attention_mask: See `CoreAttentionInterface.forward`.
            inference_context: Holds the key and value cache in generation, else `None`.
            rotary_pos_emb: `[s, 1, 1, d]` angles, or `None` without rotary embedding.
            packed_seq_params: Boundaries of packed sequences, or `None`.
            padding_mask: `[b, s]`, true where a token is padding, or `None`.
            sequence_len_offset: `[b]` offsets for decoding; left out under full recomputation.
            context: For cross-attention; passed, as `None`, only under full recomputation.
            context_mask: As `context`.
            attention_bias: As `context`.

        Returns:
            `[s, b, h]`, and the context for cross-attention, which a GPT does not have.
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
        """As `forward`; `torch.nn.Module` provides it."""
        ...


class AttentionLayerInterface(TransformerLayerInterface, Protocol):
    """A built attention layer: norm, self-attention, bias-dropout-add."""


class AttentionLayerBuilder(Protocol):
    """Makes an attention layer.

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
            layer_number: Counted from 1 over the whole model.
            pg_collection: The process groups.
            is_mtp_layer: Whether the layer belongs to a multi-token-prediction block.
            add_layer_offset: Whether to add the stage's offset to `layer_number`; always false here, because the
                stack has added it.
            pp_layer_offset: Number of layers before this stage.
            name: Dotted name of this module in the model, or `None`.

        Returns:
            The layer.
        """
        ...


class MlpLayerInterface(TransformerLayerInterface, Protocol):
    """A built MLP layer: norm, MLP, bias-dropout-add."""


class MlpLayerBuilder(Protocol):
    """Makes an MLP layer.

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
            layer_number: Counted from 1 over the whole model.
            pg_collection: The process groups.
            add_layer_offset: Whether to add the stage's offset to `layer_number`; always false here, because the
                stack has added it.
            name: Dotted name of this module in the model, or `None`.

        Returns:
            The layer.
        """
        ...


class LatentAttentionLayerInterface(TransformerLayerInterface, Protocol):
    """A built latent attention layer: norm, latent attention, bias-dropout-add."""


class LatentAttentionLayerBuilder(Protocol):
    """Makes a latent attention layer.

    Call site: `hybrid_block.py`, `HybridStack.__init__`, symbol `+` (untyped there, through `build_module`).
    The one layer that is given no name, so that nothing inside it has one either.
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
            layer_number: Counted from 1 over the whole model.
            pg_collection: The process groups.
            is_mtp_layer: Whether the layer belongs to a multi-token-prediction block.
            add_layer_offset: Whether to add the stage's offset to `layer_number`; always false here, because the
                stack has added it.
            pp_layer_offset: Number of layers before this stage.

        Returns:
            The layer.
        """
        ...


class MoeLayerInterface(TransformerLayerInterface, Protocol):
    """A built mixture-of-experts layer: norm, mixture of experts, bias-dropout-add."""


class MoeLayerBuilder(Protocol):
    """Makes a mixture-of-experts layer.

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
            layer_number: Counted from 1 over the whole model.
            pg_collection: The process groups.
            add_layer_offset: Whether to add the stage's offset to `layer_number`; always false here, because the
                stack has added it.
            name: Dotted name of this module in the model, or `None`.

        Returns:
            The layer.
        """
        ...


class MambaLayerInterface(Protocol):
    """A built Mamba layer: norm, mixer, bias-dropout-add. Also see `SupportsMambaStateShapes`."""

    @property
    def layer_number(self) -> int:
        """Counted from 1 over the whole model. Read by `HybridStack` in forward and in its checkpoint."""
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
            hidden_states: `[s, b, h]`; under sequence parallelism this rank's part of `s`.
            attention_mask: What an attention layer would mask; a mixer is causal by itself.
            inference_context: Holds the states in generation, else `None`.
            packed_seq_params: Boundaries of packed sequences, or `None`.
            rotary_pos_emb: Passed only under full recomputation, and of no use here.

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
        """As `forward`; `torch.nn.Module` provides it."""
        ...


class MambaLayerBuilder(Protocol):
    """Makes a Mamba layer.

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
            layer_number: Counted from 1 over the whole model.
            pp_layer_offset: Number of layers before this stage.
            pg_collection: The process groups.
            name: Dotted name of this module in the model, or `None`.

        Returns:
            The layer.
        """
        ...
