"""The slots of cross-attention: the attention as a layer calls it, its projections, and the residual after it."""

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
            attention_mask: True where *not* to attend, from the layer's `context_mask`.
            key_value_states: `[context s, b, h]`, the layer's `context`.
            inference_context: Holds the key and value cache in generation, else `None`.

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
        key_value_states: Tensor | None,
        inference_context: BaseInferenceContext | None,
    ) -> tuple[Tensor, Tensor | None]:
        """As `forward`; `torch.nn.Module` provides it."""
        ...


class CrossAttentionBuilder(Protocol):
    """Makes a cross-attention.

    Call site: `transformer_layer.py`, `TransformerLayer.__init__` (untyped there, through `build_module`). The engine's
    own `CrossAttention` does not take `pp_layer_offset`, which `HybridStack`'s layers pass.
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
            layer_number: Counted from 1 over the whole model.
            pg_collection: The process groups; `tp` splits the heads.
            name: Dotted name of this module in the model, or `None`.
            cp_comm_type: How keys and values travel; passed only under context parallelism.
            pp_layer_offset: Number of layers before this stage; passed by `HybridStack`, not by `TransformerBlock`.

        Returns:
            The cross-attention.
        """
        ...


class LinearLayerInterface(Protocol):
    """A built `linear_q` or `linear_kv` of cross-attention. The engine's name is `LinearInterface`."""

    def forward(self, hidden_SBH: Tensor, /) -> tuple[Tensor, object]:
        """Project. Called by `CrossAttention.get_query_key_value_tensors`.

        Args:
            hidden_SBH: `[s, b, h]`.

        Returns:
            `[s, b, n * d / tensor-parallel size]` for queries, twice that for keys and values, and a second value that
            the engine ignores.
        """
        ...

    def __call__(self, hidden_SBH: Tensor, /) -> tuple[Tensor, object]:
        """As `forward`; `torch.nn.Module` provides it."""
        ...


class LinearLayerBuilder(Protocol):
    """Makes `linear_q` and `linear_kv`.

    Call site: `attention.py`, `CrossAttention.__init__`. The engine's own `LinearLayerBuilder` lacks `name`, which that
    call passes. No process group is passed: a part that splits its output asks for the global one.
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
            output_size: `n * d`, or twice that for keys and values.
            config: The engine's config.
            init_method: Initializes the weight in place.
            gather_output: Whether to gather the output over the tensor-parallel group; always false here.
            bias: Whether there is a bias.
            skip_bias_add: Whether to return the bias instead of adding it; always false.
            is_expert: Whether this is a layer of an expert.
            name: Dotted name of this module in the model, or `None`.

        Returns:
            The layer.
        """
        ...


class CrossBiasDropoutAddBuilder(BiasDropoutAddBuilder, Protocol):
    """Chooses the function after a cross-attention (`cross_attn_bda`): called as every other.

    The engine builds this one slot with `config=` (`transformer_layer.py`, `build_module(..., config=self.config)`),
    which only a class or a `ModuleSpec` ever sees; a function is taken as it is.
    """
