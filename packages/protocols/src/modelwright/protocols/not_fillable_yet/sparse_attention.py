"""Protocols of the slots of Megatron-Core's sparse attention (`D`): the layer, its core attention and the indexer.

DeepSeek-AI 2025, DeepSeek-V3.2-Exp. The indexer scores every key for every query with a few small heads. The core
attention attends to the keys with the highest scores only, and also receives the layer's input.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from modelwright.protocols.slots.layer import TransformerLayerInterface

if TYPE_CHECKING:
    from collections.abc import Callable

    from megatron.core.packed_seq_params import PackedSeqParams
    from megatron.core.process_groups_config import ProcessGroupCollection
    from megatron.core.transformer.enums import AttnMaskType
    from megatron.core.transformer.transformer_config import TransformerConfig
    from torch import Tensor


class SparseCoreAttentionInterface(Protocol):
    """A built sparse core attention. The engine passes `x` and `qr` because of `requires_dsa_inputs`."""

    @property
    def requires_dsa_inputs(self) -> bool:
        """Always true, because the engine passes `x` and `qr` only then."""
        ...

    def forward(
        self,
        query_SBND: Tensor,
        key_SBND: Tensor,
        /,
        value: Tensor | None,
        attention_mask: Tensor | None,
        *,
        attn_mask_type: AttnMaskType,
        packed_seq_params: PackedSeqParams | None,
        x: Tensor,
        qr: Tensor,
        attention_bias: Tensor | None = None,
        position_ids: Tensor | None = None,
        up_v_weight: Tensor | None = None,
    ) -> Tensor:
        """Attend to the keys that the indexer selects.

        Called by `MultiLatentAttention._run_core_attention` and `AbsorbedMLASelfAttention.forward`.

        Args:
            query_SBND: `[s, b, n, k channels]`.
            key_SBND: Same shape as `query_SBND`, but one head if the up-projection is absorbed.
            value: `[s, b, n, v channels]`. If the up-projection is absorbed: `None`, passed by keyword.
            attention_mask: Mask, true where a query must *not* attend. `None` if `attn_mask_type` defines the mask.
                Passed by keyword if the up-projection is absorbed.
            attn_mask_type: Kind of the mask: causal, padding, both or none.
            packed_seq_params: Boundaries of packed sequences, or `None`.
            x: `[s, b, h]`, the input of the attention.
            qr: `[s, b, query rank]`, the compressed queries.
            attention_bias: Always `None`; passed only under selective recomputation.
            position_ids: `[b, s]`, passed by the absorbed form only.
            up_v_weight: `[n, v head size, value rank]`, passed by the absorbed form only.

        Returns:
            `[s, b, n * v channels]`.
        """
        ...

    def __call__(
        self,
        query_SBND: Tensor,
        key_SBND: Tensor,
        /,
        value: Tensor | None,
        attention_mask: Tensor | None,
        *,
        attn_mask_type: AttnMaskType,
        packed_seq_params: PackedSeqParams | None,
        x: Tensor,
        qr: Tensor,
        attention_bias: Tensor | None = None,
        position_ids: Tensor | None = None,
        up_v_weight: Tensor | None = None,
    ) -> Tensor:
        """Call `forward`; `torch.nn.Module` provides this method."""
        ...


class SparseCoreAttentionBuilder(Protocol):
    """Builder of a sparse core attention.

    Call sites: `absorbed_mla.py`, `AbsorbedMLASelfAttention.__init__`, and `multi_latent_attention.py`,
    `MultiLatentAttention.__init__` (untyped there, through `build_module`). `Attention.__init__` builds the slot once
    before, without the channels, as in MLA.
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
    ) -> SparseCoreAttentionInterface:
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


class SparseIndexerInterface(Protocol):
    """A built indexer. The core attention never calls its `forward`."""

    def forward_before_topk(
        self, x: Tensor, qr: Tensor, packed_seq_params: PackedSeqParams | None, /
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the factors of the scores. Called by `DSAttention.forward`.

        Args:
            x: `[s, b, h]`, the input of the attention.
            qr: `[s, b, query rank]`, the compressed queries.
            packed_seq_params: Boundaries of packed sequences, or `None`.

        Returns:
            Queries `[s, b, index heads, index d]`, keys `[s, b, index d]`, weights `[s, b, index heads]`.
        """
        ...


class SparseIndexerBuilder(Protocol):
    """Builder of an indexer.

    Call site: `dsa.py`, `DSAttention.__init__` (untyped there, through `build_module`).
    """

    def __call__(self, *, config: TransformerConfig, pg_collection: ProcessGroupCollection) -> SparseIndexerInterface:
        """Build the indexer.

        Args:
            config: The engine's config.
            pg_collection: Process groups.

        Returns:
            The indexer.
        """
        ...


class DuplicatedLinearInterface(Protocol):
    """A built linear layer that every tensor-parallel rank stores unsharded."""

    def forward(self, hidden_SBH: Tensor, /) -> tuple[Tensor, object]:
        """Project. Called by `DSAIndexer.forward_before_topk`.

        Args:
            hidden_SBH: `[s, b, input size]`.

        Returns:
            `[s, b, output size]`, and a second value that the engine ignores.
        """
        ...

    def __call__(self, hidden_SBH: Tensor, /) -> tuple[Tensor, object]:
        """Call `forward`; `torch.nn.Module` provides this method."""
        ...


class DuplicatedLinearBuilder(Protocol):
    """Builder of `linear_wq_b`, `linear_wk` and `linear_weights_proj` of an indexer.

    Call site: `dsa.py`, `DSAIndexer.__init__` (untyped there, through `build_module`).
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
        skip_weight_param_allocation: bool,
        parallel_mode: str,
    ) -> DuplicatedLinearInterface:
        """Build the layer.

        Args:
            input_size: Size of the last dim of the input.
            output_size: Size of the last dim of the output.
            config: The engine's config.
            init_method: Function that initializes the weight in place.
            bias: Whether the layer has a bias; always false here.
            skip_bias_add: Whether to return the bias instead of adding it; always false here.
            skip_weight_param_allocation: Whether to allocate no weight; always false here.
            parallel_mode: `"duplicated"`.

        Returns:
            The layer.
        """
        ...


class SparseAttentionLayerInterface(TransformerLayerInterface, Protocol):
    """A built sparse attention layer: norm, sparse attention, bias-dropout-add."""


class SparseAttentionLayerBuilder(Protocol):
    """Builder of a sparse attention layer.

    Call site: `hybrid_block.py`, `HybridStack.__init__`, symbol `D` (untyped there, through `build_module`).
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
    ) -> SparseAttentionLayerInterface:
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
