"""The slots of sparse attention (`D`): a core attention that also sees the layer's input, and its indexer.

DeepSeek-AI 2025, DeepSeek-V3.2-Exp. The indexer scores every key for every query with a few small heads; the core
attention attends to the best ones only.
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
    """A built sparse core attention; `requires_dsa_inputs` on it makes the engine pass `x` and `qr`."""

    @property
    def requires_dsa_inputs(self) -> bool:
        """Always true: without it `x` and `qr` are not passed."""
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
        """Attend to the keys that the indexer picks.

        Called by `MultiLatentAttention._run_core_attention` and `AbsorbedMLASelfAttention.forward`.

        Args:
            query_SBND: `[s, b, n, k channels]`.
            key_SBND: As `query_SBND`; one head when the up-projection is absorbed.
            value: `[s, b, n, v channels]`; `None`, and passed by keyword, when the up-projection is absorbed.
            attention_mask: True where *not* to attend; `None` where `attn_mask_type` says all; by keyword if absorbed.
            attn_mask_type: Which mask is meant: causal, padding, both, none.
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
        """As `forward`; `torch.nn.Module` provides it."""
        ...


class SparseCoreAttentionBuilder(Protocol):
    """Makes a sparse core attention.

    Call site: `absorbed_mla.py`, `AbsorbedMLASelfAttention.__init__`, and `multi_latent_attention.py`,
    `MultiLatentAttention.__init__` (untyped there, through `build_module`); as in latent attention,
    `Attention.__init__` builds the slot once before without the channels.
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


class SparseIndexerInterface(Protocol):
    """A built indexer. Its `forward` is never called by the core attention."""

    def forward_before_topk(
        self, x: Tensor, qr: Tensor, packed_seq_params: PackedSeqParams | None, /
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute what the scores are made of. Called by `DSAttention.forward`.

        Args:
            x: `[s, b, h]`, the input of the attention.
            qr: `[s, b, query rank]`, the compressed queries.
            packed_seq_params: Boundaries of packed sequences, or `None`.

        Returns:
            Queries `[s, b, index heads, index d]`, keys `[s, b, index d]`, weights `[s, b, index heads]`.
        """
        ...


class SparseIndexerBuilder(Protocol):
    """Makes an indexer.

    Call site: `dsa.py`, `DSAttention.__init__` (untyped there, through `build_module`).
    """

    def __call__(self, *, config: TransformerConfig, pg_collection: ProcessGroupCollection) -> SparseIndexerInterface:
        """Build the indexer.

        Args:
            config: The engine's config.
            pg_collection: The process groups.

        Returns:
            The indexer.
        """
        ...


class DuplicatedLinearInterface(Protocol):
    """A built linear layer that every tensor-parallel rank holds whole."""

    def forward(self, hidden_SBH: Tensor, /) -> tuple[Tensor, object]:
        """Project. Called by `DSAIndexer.forward_before_topk`.

        Args:
            hidden_SBH: `[s, b, input size]`.

        Returns:
            `[s, b, output size]`, and a second value that the engine ignores.
        """
        ...

    def __call__(self, hidden_SBH: Tensor, /) -> tuple[Tensor, object]:
        """As `forward`; `torch.nn.Module` provides it."""
        ...


class DuplicatedLinearBuilder(Protocol):
    """Makes `linear_wq_b`, `linear_wk` and `linear_weights_proj` of an indexer.

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
            init_method: Initializes the weight in place.
            bias: Whether there is a bias; always false here.
            skip_bias_add: Whether to return the bias instead of adding it; always false here.
            skip_weight_param_allocation: Whether to have no weight; always false here.
            parallel_mode: `"duplicated"`.

        Returns:
            The layer.
        """
        ...


class SparseAttentionLayerInterface(TransformerLayerInterface, Protocol):
    """A built sparse attention layer: norm, sparse attention, bias-dropout-add."""


class SparseAttentionLayerBuilder(Protocol):
    """Makes a sparse attention layer.

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
