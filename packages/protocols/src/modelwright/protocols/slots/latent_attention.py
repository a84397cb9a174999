"""Protocols of the slots of multi-head latent attention (MLA, `+`): low-rank projections and the core attention.

DeepSeek-AI 2024, "DeepSeek-V2", arXiv 2405.04434. MLA fills the self-attention slot of a layer and is called like any
other self-attention. It receives no rotary angles, because it builds its own rotary embedding.
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
    """A built MLA: a self-attention that always receives `None` for the rotary angles."""


class LatentAttentionBuilder(Protocol):
    """Builder of an MLA.

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
            layer_number: Number of the layer in the whole model, from 1.
            pg_collection: Process groups; `tp` splits the heads, `cp` the sequence.
            name: Dotted name of this module in the model, or `None`. `HybridStack` passes no name to its MLA layers.
            cp_comm_type: Kind of communication of keys and values. Passed only under context parallelism.
            pp_layer_offset: Number of layers before this stage. Passed by `HybridStack`, not by `TransformerBlock`.

        Returns:
            The attention.
        """
        ...


class LatentLinearInterface(Protocol):
    """A built projection of MLA."""

    def forward(self, hidden_SBH: Tensor, /) -> tuple[Tensor, object]:
        """Project. Called by `MLASelfAttention.get_query_key_value_tensors` and `_qkv_down_projection`.

        Args:
            hidden_SBH: `[s, b, input size]`; `[s, input size]` for packed sequences after the down-projection.

        Returns:
            The projection, and a second value that the engine ignores. If a down-projection returns a shard of the last
            dimension, the engine gathers it over the tensor-parallel group.
        """
        ...

    def __call__(self, hidden_SBH: Tensor, /) -> tuple[Tensor, object]:
        """Call `forward`; `torch.nn.Module` provides this method."""
        ...


class LinearQProjBuilder(Protocol):
    """Builder of `linear_q_proj`, the full-rank query projection (`q_lora_rank` is `None`).

    Call site: `multi_latent_attention.py`, `MLASelfAttention.__init__` (untyped there, through `build_module`). No
    process group is passed, so a part that splits its output uses the global one.
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
            output_size: Number of heads times the query head size.
            config: The engine's config.
            init_method: Function that initializes the weight in place.
            gather_output: Whether to gather the output over the tensor-parallel group; always false here.
            bias: Whether the layer has a bias; always false here.
            skip_bias_add: Whether to return the bias instead of adding it; always false here.
            is_expert: Whether the layer belongs to an expert.
            tp_comm_buffer_name: Name of Transformer Engine's communication buffer, `"q_proj"`.
            name: Dotted name of this module in the model, or `None`.

        Returns:
            The layer.
        """
        ...


class LinearDownProjBuilder(Protocol):
    """Builder of `linear_q_down_proj`, `linear_kv_down_proj`, or both in one (`linear_qkv_down_proj`).

    Call sites: `multi_latent_attention.py`, `MLASelfAttention.__init__` and `FusedMLASelfAttention.__init__`;
    `absorbed_mla.py`, `AbsorbedMLASelfAttention.__init__` (untyped there, through `build_module`). The engine accepts
    only its own classes in these slots. A custom part therefore needs an attention that replaces the projections after
    they are built.
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
            output_size: The low rank. For keys and values: plus the rotary channels.
            config: The engine's config.
            init_method: Function that initializes the weight in place.
            bias: Whether the layer has a bias; always false here.
            skip_bias_add: Whether to return the bias instead of adding it; always false here.
            is_expert: Whether the layer belongs to an expert.
            tp_comm_buffer_name: Name of Transformer Engine's communication buffer.
            skip_weight_param_allocation: Whether to allocate no weight; always false here.
            tp_group: Tensor-parallel group; `None` for a duplicated layer.
            name: Dotted name of this module in the model, or `None`.
            gather_output: Whether to gather the output over the tensor-parallel group; always false here. Transformer
                Engine's `TELinear` receives `parallel_mode="duplicated"` instead.

        Returns:
            The layer.
        """
        ...


class LinearUpProjBuilder(Protocol):
    """Builder of `linear_q_up_proj` and `linear_kv_up_proj`.

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
            input_size: The low rank.
            output_size: Number of heads times the channels of each head.
            config: The engine's config.
            init_method: Function that initializes the weight in place.
            gather_output: Whether to gather the output over the tensor-parallel group; always false here.
            bias: Whether the layer has a bias; always false here.
            skip_bias_add: Whether to return the bias instead of adding it; always false here.
            is_expert: Whether the layer belongs to an expert.
            tp_comm_buffer_name: Name of Transformer Engine's communication buffer.
            tp_group: Tensor-parallel group.
            name: Dotted name of this module in the model, or `None`.

        Returns:
            The layer.
        """
        ...


class LatentCoreAttentionInterface(Protocol):
    """A built core attention of MLA: heads of keys and values differ in size, and the logits have no bias.

    Selective recomputation also passes `attention_bias=None`.
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
            key_SBND: Same shape as `query_SBND`.
            value_SBND: `[s, b, n, v channels]`; `[s, n, v channels]` for packed sequences.
            attention_mask: Mask, true where a query must *not* attend. `None` if `attn_mask_type` defines the mask.
            attn_mask_type: Kind of the mask: causal, padding, both or none.
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
        """Call `forward`; `torch.nn.Module` provides this method."""
        ...


class LatentCoreAttentionBuilder(Protocol):
    """Builder of the core attention of MLA.

    Call site: `multi_latent_attention.py`, `MultiLatentAttention.__init__` (untyped there, through `build_module`).
    Before that, `Attention.__init__` builds the same slot with the arguments of `CoreAttentionBuilder`, and the engine
    discards the result. The builder must accept both calls.
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
            layer_number: Number of the layer in the whole model, from 1.
            attn_mask_type: Kind of the mask if a call specifies none.
            attention_type: `"self"`.
            cp_comm_type: Kind of communication of keys and values under context parallelism, or `None` without it.
            softmax_scale: Factor of the logits. `None`: `1 / sqrt(d)`.
            pg_collection: Process groups; `tp` splits the heads, `cp` the sequence.
            k_channels: Head size of queries and keys. Omitted by the first of the two calls.
            v_channels: Head size of values. Omitted by the first of the two calls.

        Returns:
            The core attention.
        """
        ...


class LatentRotaryEmbeddingInterface(Protocol):
    """A built rotary embedding of MLA. `forward` returns the angles, and with YaRN also a scale."""

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
        """Call `forward`; `torch.nn.Module` provides this method."""
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
        """Return the number of positions that the next forward needs. Called before every forward.

        Args:
            inference_context: Key and value cache of a generation, or `None`.
            stack: Always `None`; `hidden_SBH` has the length.
            hidden_SBH: `[s, b, h]`.
            config: The engine's config.
            packed_seq_params: Boundaries of packed sequences, or `None`.

        Returns:
            Length of the unsharded sequence.
        """
        ...


class LatentRotaryEmbeddingBuilder(Protocol):
    """Builder of the rotary embedding of MLA if `config.rope_type` is `"rope"`.

    Call sites: `MultiLatentAttention.__init__` in `multi_latent_attention.py`, `AbsorbedMLASelfAttention.__init__` in
    `absorbed_mla.py`, and `DSAIndexer.__init__` in `dsa.py`. The class is fixed in all of them (`RotaryEmbedding`).
    """

    def __call__(
        self, kv_channels: int, /, *, rotary_percent: float, rotary_base: float, cp_group: ProcessGroup
    ) -> LatentRotaryEmbeddingInterface:
        """Build the rotary embedding.

        Args:
            kv_channels: Number of rotary channels of a head.
            rotary_percent: Fraction of the rotary channels that is rotated.
            rotary_base: Base of the wavelengths.
            cp_group: Context-parallel group, over which the positions are split.

        Returns:
            The rotary embedding.
        """
        ...
