"""The slots of multi-latent attention (`+`): low-rank projections of queries, keys and values, and its core attention.

DeepSeek-AI 2024, "DeepSeek-V2", arXiv 2405.04434. The attention itself fills the self-attention slot of a layer and is
called as any other (`SelfAttentionBuilder`); it is given no rotary angles, because it builds its own rotary embedding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from modelwright.protocols.slots.attention import SelfAttentionInterface

if TYPE_CHECKING:
    from collections.abc import Callable

    from megatron.core.packed_seq_params import PackedSeqParams
    from megatron.core.process_groups_config import ProcessGroupCollection
    from megatron.core.transformer.enums import AttnMaskType
    from megatron.core.transformer.transformer_config import TransformerConfig
    from torch import Tensor
    from torch.distributed import ProcessGroup


class LatentAttentionInterface(SelfAttentionInterface, Protocol):
    """A built latent attention: a self-attention whose angles are always `None`."""


class LatentAttentionBuilder(Protocol):
    """Makes a latent attention.

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
    ) -> LatentAttentionInterface:
        """Build the attention.

        Args:
            config: The engine's `MLATransformerConfig`.
            layer_number: Counted from 1 over the whole model.
            pg_collection: The process groups; `tp` splits the heads, `cp` the sequence.
            name: Dotted name of this module in the model, or `None`; `HybridStack` gives its latent layers none.
            cp_comm_type: How keys and values travel; passed only under context parallelism.
            pp_layer_offset: Number of layers before this stage; passed by `HybridStack`, not by `TransformerBlock`.

        Returns:
            The attention.
        """
        ...


class LatentLinearInterface(Protocol):
    """A built projection of latent attention."""

    def forward(self, hidden_SBH: Tensor, /) -> tuple[Tensor, object]:
        """Project. Called by `MLASelfAttention.get_query_key_value_tensors` and `_qkv_down_projection`.

        Args:
            hidden_SBH: `[s, b, input size]`; `[s, input size]` for packed sequences after the down-projection.

        Returns:
            The projection, and a second value that the engine ignores. A down-projection that returns less than the
            whole last dim is gathered by the engine over the tensor-parallel group.
        """
        ...

    def __call__(self, hidden_SBH: Tensor, /) -> tuple[Tensor, object]:
        """As `forward`; `torch.nn.Module` provides it."""
        ...


class LinearQProjBuilder(Protocol):
    """Makes `linear_q_proj`: the query projection without a low rank (`q_lora_rank` is `None`).

    Call site: `multi_latent_attention.py`, `MLASelfAttention.__init__` (untyped there, through `build_module`). No
    process group is passed: a part that splits its output asks for the global one.
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
        name: str | None,
    ) -> LatentLinearInterface:
        """Build the layer.

        Args:
            input_size: `h`.
            output_size: Heads times query head size.
            config: The engine's config.
            init_method: Initializes the weight in place.
            gather_output: Whether to gather the output over the tensor-parallel group; always false here.
            bias: Whether there is a bias; always false here.
            skip_bias_add: Whether to return the bias instead of adding it; always false here.
            is_expert: Whether this is a layer of an expert.
            tp_comm_buffer_name: Name of Transformer Engine's communication buffer, `"q_proj"`.
            name: Dotted name of this module in the model, or `None`.

        Returns:
            The layer.
        """
        ...


class LinearDownProjBuilder(Protocol):
    """Makes `linear_q_down_proj`, `linear_kv_down_proj`, or both in one, `linear_qkv_down_proj`.

    Call sites: `multi_latent_attention.py`, `MLASelfAttention.__init__` and `FusedMLASelfAttention.__init__`;
    `absorbed_mla.py`, `AbsorbedMLASelfAttention.__init__` (untyped there, through `build_module`). The engine compares
    what fills these slots with a list of its own classes and raises on any other, so a part of your own goes in
    with the attention around it replaced too.
    """

    def __call__(
        self,
        input_size: int,
        output_size: int,
        /,
        *,
        config: TransformerConfig,
        init_method: Callable[[Tensor], None],
        bias: bool,
        skip_bias_add: bool,
        is_expert: bool,
        tp_comm_buffer_name: str,
        skip_weight_param_allocation: bool,
        tp_group: ProcessGroup | None,
        name: str | None,
        gather_output: bool,
    ) -> LatentLinearInterface:
        """Build the layer.

        Args:
            input_size: `h`.
            output_size: The rank; with the rotary channels for keys and values.
            config: The engine's config.
            init_method: Initializes the weight in place.
            bias: Whether there is a bias; always false here.
            skip_bias_add: Whether to return the bias instead of adding it; always false here.
            is_expert: Whether this is a layer of an expert.
            tp_comm_buffer_name: Name of Transformer Engine's communication buffer.
            skip_weight_param_allocation: Whether to have no weight; always false here.
            tp_group: The tensor-parallel group; `None` for a duplicated layer.
            name: Dotted name of this module in the model, or `None`.
            gather_output: Whether to gather the output over the tensor-parallel group; always false here. Transformer
                Engine's `TELinear` alone is passed `parallel_mode="duplicated"` instead.

        Returns:
            The layer.
        """
        ...


class LinearUpProjBuilder(Protocol):
    """Makes `linear_q_up_proj` and `linear_kv_up_proj`.

    Call sites: `multi_latent_attention.py`, `MLASelfAttention.__init__` and `FusedMLASelfAttention.__init__`;
    `absorbed_mla.py`, `AbsorbedMLASelfAttention.__init__` (untyped there, through `build_module`).
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
    ) -> LatentLinearInterface:
        """Build the layer.

        Args:
            input_size: The rank.
            output_size: Heads times what each gets.
            config: The engine's config.
            init_method: Initializes the weight in place.
            gather_output: Whether to gather the output over the tensor-parallel group; always false here.
            bias: Whether there is a bias; always false here.
            skip_bias_add: Whether to return the bias instead of adding it; always false here.
            is_expert: Whether this is a layer of an expert.
            tp_comm_buffer_name: Name of Transformer Engine's communication buffer.
            tp_group: The tensor-parallel group.
            name: Dotted name of this module in the model, or `None`.

        Returns:
            The layer.
        """
        ...


class LatentCoreAttentionInterface(Protocol):
    """A built core attention of latent attention: key and value heads of different sizes, and no bias on the logits.

    Under selective recomputation it is also handed `attention_bias=None`.
    """

    def forward(
        self,
        query_SBND: Tensor,
        key_SBND: Tensor,
        value_SBND: Tensor,
        attention_mask: Tensor | None,
        /,
        *,
        attn_mask_type: AttnMaskType,
        packed_seq_params: PackedSeqParams | None,
        attention_bias: Tensor | None = None,
    ) -> Tensor:
        """Attend. Called by `MultiLatentAttention._run_core_attention`.

        Args:
            query_SBND: `[s, b, n, k channels]`; `[s, n, k channels]` for packed sequences.
            key_SBND: As `query_SBND`.
            value_SBND: `[s, b, n, v channels]`; `[s, n, v channels]` for packed sequences.
            attention_mask: True where *not* to attend; `None` where `attn_mask_type` says all.
            attn_mask_type: Which mask is meant: causal, padding, both, none.
            packed_seq_params: Boundaries of packed sequences, or `None`.
            attention_bias: Always `None`; passed only under selective recomputation.

        Returns:
            `[s, b, n * v channels]`; `[s, n * v channels]` or `[s, n, v channels]` for packed sequences.
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
        packed_seq_params: PackedSeqParams | None,
        attention_bias: Tensor | None = None,
    ) -> Tensor:
        """As `forward`; `torch.nn.Module` provides it."""
        ...


class LatentCoreAttentionBuilder(Protocol):
    """Makes the core attention of latent attention.

    Call site: `multi_latent_attention.py`, `MultiLatentAttention.__init__` (untyped there, through `build_module`).
    `Attention.__init__` has built the same slot before, as `CoreAttentionBuilder` says, and that one is dropped: a part
    for this slot must build both ways.
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
        k_channels: int | None = None,
        v_channels: int | None = None,
    ) -> LatentCoreAttentionInterface:
        """Build the core attention.

        Args:
            config: The engine's config.
            layer_number: Counted from 1 over the whole model.
            attn_mask_type: The mask to apply when a call names none.
            attention_type: `"self"`.
            cp_comm_type: How keys and values travel under context parallelism, or `None` without it.
            softmax_scale: Multiplies the logits; `None` means `1 / sqrt(d)`.
            pg_collection: The process groups; `tp` splits the heads, `cp` the sequence.
            k_channels: Head size of queries and keys; left out by the first of the two calls.
            v_channels: Head size of values; left out by the first of the two calls.

        Returns:
            The core attention.
        """
        ...


class LatentRotaryEmbeddingInterface(Protocol):
    """A built rotary embedding of latent attention; `forward` returns the angles alone, or with YaRN's scale."""

    def forward(self, max_seq_len: int, /, *, packed_seq: bool) -> Tensor:
        """Compute the angles. Called by `MLASelfAttention.get_query_key_value_tensors`.

        Args:
            max_seq_len: Positions to cover, from `get_rotary_seq_len`.
            packed_seq: Whether several sequences are packed into one.

        Returns:
            `[s, 1, 1, rotary channels]`.
        """
        ...

    def __call__(self, max_seq_len: int, /, *, packed_seq: bool) -> Tensor:
        """As `forward`; `torch.nn.Module` provides it."""
        ...

    def get_rotary_seq_len(
        self,
        inference_context: object,
        stack: None,
        hidden_SBH: Tensor,
        config: TransformerConfig,
        packed_seq_params: PackedSeqParams | None,
        /,
    ) -> int:
        """Say how many positions the next forward needs. Called before every forward.

        Args:
            inference_context: Holds the key and value cache in generation, else `None`.
            stack: Always `None`: the length is that of `hidden_SBH`.
            hidden_SBH: `[s, b, h]`.
            config: The engine's config.
            packed_seq_params: Boundaries of packed sequences, or `None`.

        Returns:
            The whole sequence's length.
        """
        ...


class LatentRotaryEmbeddingBuilder(Protocol):
    """Makes the rotary embedding of latent attention with `config.rope_type` `"rope"`.

    Call sites: `multi_latent_attention.py`, `MultiLatentAttention.__init__`; `absorbed_mla.py`; `dsa.py`,
    `DSAIndexer.__init__`: everywhere the class is fixed (`RotaryEmbedding`).
    """

    def __call__(
        self, kv_channels: int, /, *, rotary_percent: float, rotary_base: float, cp_group: ProcessGroup
    ) -> LatentRotaryEmbeddingInterface:
        """Build the rotary embedding.

        Args:
            kv_channels: Channels of a head that are rotated.
            rotary_percent: Part of them that is rotated.
            rotary_base: Base of the wavelengths.
            cp_group: The context-parallel group, over which the positions are split.

        Returns:
            The rotary embedding.
        """
        ...
