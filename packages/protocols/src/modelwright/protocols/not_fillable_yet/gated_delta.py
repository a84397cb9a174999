"""Protocols of the slots of Megatron-Core's gated delta net (`G`): the layer, the net and its recurrence.

Yang, Kautz and Hatamizadeh 2024, "Gated Delta Networks", arXiv 2412.06464.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from modelwright.protocols.slots.attention import SelfAttentionInterface
from modelwright.protocols.slots.layer import TransformerLayerInterface

if TYPE_CHECKING:
    from megatron.core.process_groups_config import ProcessGroupCollection
    from megatron.core.transformer.transformer_config import TransformerConfig
    from torch import Tensor


class GatedDeltaNetInterface(SelfAttentionInterface, Protocol):
    """A built gated delta net, called like a self-attention. It may ignore masks and angles."""


class GatedDeltaNetBuilder(Protocol):
    """Builder of a gated delta net.

    Call site: `transformer_layer.py`, `TransformerLayer.__init__` (untyped there, through `build_module`). The stack
    passes no `pp_layer_offset` to this kind of layer.
    """

    def __call__(
        self,
        *,
        config: TransformerConfig,
        layer_number: int,
        pg_collection: ProcessGroupCollection,
        name: str | None,
        cp_comm_type: str | None = None,
    ) -> GatedDeltaNetInterface:
        """Build the net.

        Args:
            config: The engine's config.
            layer_number: Number of the layer in the whole model, from 1.
            pg_collection: Process groups; `tp` and `cp` split the heads.
            name: Dotted name of this module in the model, or `None`.
            cp_comm_type: Kind of communication of keys and values in attention. Passed only under context parallelism.

        Returns:
            The net.
        """
        ...


class GatedDeltaRuleInterface(Protocol):
    """The recurrence of a gated delta net; the engine uses `chunk_gated_delta_rule` of flash-linear-attention."""

    def __call__(
        self,
        query_BSND: Tensor,
        key_BSND: Tensor,
        value_BSND: Tensor,
        /,
        *,
        g: Tensor,
        beta: Tensor,
        initial_state: None,
        output_final_state: bool,
        use_qk_l2norm_in_kernel: bool,
        cu_seqlens: Tensor | None,
    ) -> tuple[Tensor, object]:
        """Run the recurrence. Called by `GatedDeltaNet.forward`.

        Args:
            query_BSND: `[b, s, n, key d]`.
            key_BSND: Same shape as `query_BSND`.
            value_BSND: `[b, s, n, value d]`.
            g: `[b, s, n]`, log of the decay.
            beta: `[b, s, n]`, strength of each write.
            initial_state: Always `None`.
            output_final_state: Whether to return the final state; always false here.
            use_qk_l2norm_in_kernel: Whether to normalize queries and keys; always false here, because the net has
                normalized them.
            cu_seqlens: Boundaries of packed sequences, or `None`.

        Returns:
            `[b, s, n, value d]`, and a second value that the engine ignores.
        """
        ...


class GatedDeltaLayerInterface(TransformerLayerInterface, Protocol):
    """A built gated delta layer: norm, gated delta net, bias-dropout-add."""


class GatedDeltaLayerBuilder(Protocol):
    """Builder of a gated delta layer.

    Call site: `hybrid_block.py`, `HybridStack.__init__`, symbol `G` (untyped there, through `build_module`).
    """

    def __call__(
        self,
        *,
        config: TransformerConfig,
        layer_number: int,
        pg_collection: ProcessGroupCollection,
        add_layer_offset: bool,
        name: str | None,
    ) -> GatedDeltaLayerInterface:
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
