"""Protocols of Megatron-Core's cross-attention slots: the attention, its projections and its bias-dropout-add."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from modelwright.protocols.slots.residual import BiasDropoutAddBuilder

if TYPE_CHECKING:
    from collections.abc import Callable

    from megatron.core.inference.contexts.base_context import BaseInferenceContext
    from megatron.core.process_groups_config import ProcessGroupCollection
    from megatron.core.transformer.transformer_config import TransformerConfig
    from torch import Tensor


class CrossAttentionInterface(Protocol):
    """A built cross-attention: queries from the hidden states, keys and values from a context."""

    def forward(
        self,
        hidden_SBH: Tensor,
        /,
        *,
        attention_mask: Tensor | None,
        key_value_states: Tensor | None,
        inference_context: BaseInferenceContext | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend to the context. Called by `TransformerLayer._forward_attention`.

        Args:
            hidden_SBH: `[s, b, h]`, normalized.
            attention_mask: Mask, true where a query must *not* attend, from the layer's `context_mask`.
            key_value_states: `[context s, b, h]`, the layer's `context`.
            inference_context: Key and value cache of a generation, or `None`.

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
        key_value_states: Tensor | None,
        inference_context: BaseInferenceContext | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Call `forward`; `torch.nn.Module` provides this method."""
        ...


class CrossAttentionBuilder(Protocol):
    """Builder of a cross-attention.

    Call site: `transformer_layer.py`, `TransformerLayer.__init__` (untyped there, through `build_module`). The engine's
    own `CrossAttention` does not accept `pp_layer_offset`, which the layers of a `HybridStack` pass.
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
    ) -> CrossAttentionInterface:
        """Build the cross-attention.

        Args:
            config: The engine's config.
            layer_number: Number of the layer in the whole model, from 1.
            pg_collection: Process groups; `tp` splits the heads.
            name: Dotted name of this module in the model, or `None`.
            cp_comm_type: Kind of communication of keys and values. Passed only under context parallelism.
            pp_layer_offset: Number of layers before this stage. Passed by `HybridStack`, not by `TransformerBlock`.

        Returns:
            The cross-attention.
        """
        ...


class LinearLayerInterface(Protocol):
    """A built `linear_q` or `linear_kv` of cross-attention; the engine's name for it is `LinearInterface`."""

    def forward(self, hidden_SBH: Tensor, /) -> tuple[Tensor, object]:
        """Project. Called by `CrossAttention.get_query_key_value_tensors`.

        Args:
            hidden_SBH: `[s, b, h]`.

        Returns:
            `[s, b, n * d / tensor-parallel size]`, twice as wide for keys and values, and a second value that the
            engine ignores.
        """
        ...

    def __call__(self, hidden_SBH: Tensor, /) -> tuple[Tensor, object]:
        """Call `forward`; `torch.nn.Module` provides this method."""
        ...


class LinearLayerBuilder(Protocol):
    """Builder of `linear_q` and `linear_kv`.

    Call site: `attention.py`, `CrossAttention.__init__`. The engine's own `LinearLayerBuilder` lacks `name`, which that
    call passes. No process group is passed, so a part that splits its output uses the global one.
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
        name: str | None,
    ) -> LinearLayerInterface:
        """Build the layer.

        Args:
            input_size: `h`.
            output_size: `n * d`, twice as much for keys and values.
            config: The engine's config.
            init_method: Function that initializes the weight in place.
            gather_output: Whether to gather the output over the tensor-parallel group; always false here.
            bias: Whether the layer has a bias.
            skip_bias_add: Whether to return the bias instead of adding it; always false.
            is_expert: Whether the layer belongs to an expert.
            name: Dotted name of this module in the model, or `None`.

        Returns:
            The layer.
        """
        ...


class CrossBiasDropoutAddBuilder(BiasDropoutAddBuilder, Protocol):
    """Builder of the function after a cross-attention (`cross_attn_bda`), called like `self_attn_bda`.

    The engine passes `config=` to `build_module` for this slot only (`transformer_layer.py`). A class or a `ModuleSpec`
    receives it; a function is used unchanged.
    """
