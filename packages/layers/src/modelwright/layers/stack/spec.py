"""`StackSpec`: everything in a model that a user may swap, as frozen dataclasses of typed builders.

`StackSpec` contains one layer spec for each layer kind, a layer spec contains the parts of a layer, and so on down.
Calling a spec builds the engine's module with those parts. A spec therefore fits wherever its builder does, and a whole
layer, one attention or one linear is swapped with `dataclasses.replace`. The default of every field is the part of the
`torch` backend. A builder that does not fit its slot is refused when the spec is made.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from megatron.core.models.hybrid.hybrid_block import HybridStack, HybridStackSubmodules

from modelwright.config import LAYER_KINDS
from modelwright.engine import as_module_spec
from modelwright.layers.attention.attention_layer import AttentionLayerSpec
from modelwright.layers.attention.mla import LatentAttentionLayerSpec
from modelwright.layers.mamba.mamba_layer import MambaLayerSpec
from modelwright.layers.mlp.mlp_layer import MlpLayerSpec
from modelwright.layers.moe.moe_layer import MoeLayerSpec
from modelwright.layers.norm import TorchNorm
from modelwright.layers.slot_check import check_slots
from modelwright.protocols import (
    AttentionLayerBuilder,
    EmbeddingBuilder,
    LatentAttentionLayerBuilder,
    MambaLayerBuilder,
    MlpLayerBuilder,
    MoeLayerBuilder,
    NormBuilder,
    OutputLayerBuilder,
    RotaryEmbeddingBuilder,
)

if TYPE_CHECKING:
    import torch
    from megatron.core.process_groups_config import ProcessGroupCollection
    from megatron.core.transformer import TransformerConfig


@dataclass(frozen=True, kw_only=True)
class StackSpec:
    """Builders of a model: one for each layer kind, the final norm, and the parts around the stack."""

    attention: AttentionLayerBuilder = field(default_factory=AttentionLayerSpec)
    """Attention layer: symbol `*`."""
    mlp: MlpLayerBuilder = field(default_factory=MlpLayerSpec)
    """Dense MLP layer: symbol `-`."""
    latent_attention: LatentAttentionLayerBuilder = field(default_factory=LatentAttentionLayerSpec)
    """MLA layer: symbol `+`."""
    moe: MoeLayerBuilder = field(default_factory=MoeLayerSpec)
    """MoE layer: symbol `E`."""
    mamba: MambaLayerBuilder = field(default_factory=MambaLayerSpec)
    """Mamba-2 layer: symbol `M`."""
    final_norm: NormBuilder = TorchNorm
    """Norm after the last layer."""
    embedding: EmbeddingBuilder | None = None
    """Embedding from tokens to hidden states; None: the engine's."""
    rotary_embedding: RotaryEmbeddingBuilder | None = None
    """Angles of the rotary position embedding; None: the engine's, if the config uses one."""
    output_layer: OutputLayerBuilder | None = None
    """Projection from hidden states to logits; None: the engine's."""

    def __post_init__(self) -> None:
        check_slots(self)

    def __call__(
        self,
        config: "TransformerConfig",
        *,
        pre_process: bool,
        layer_type_list: list[str],
        pp_layer_offset: int,
        post_process: bool,
        dtype: "torch.dtype",
        pg_collection: "ProcessGroupCollection",
        name: str | None = None,
    ) -> HybridStack:
        """Build the layers of one stage.

        Args:
            config: The engine's config.
            pre_process: True in the first stage, which has the embedding.
            layer_type_list: Symbol of each layer of the stage.
            pp_layer_offset: Number of layers before the stage.
            post_process: True in the last stage, which has the final norm.
            dtype: Dtype of the hidden states between stages.
            pg_collection: Process groups of this rank.
            name: Dotted name of the stack in the model, or None.

        Returns:
            The engine's stack.
        """
        layers = {
            kind.engine_slot: as_module_spec(getattr(self, kind.spec_field))
            for kind in LAYER_KINDS.values()
            if kind.spec_field is not None
        }
        stack = HybridStack(
            config,
            HybridStackSubmodules(**layers),
            pre_process=pre_process,
            layer_type_list=layer_type_list,
            pp_layer_offset=pp_layer_offset,
            post_layer_norm=False,
            post_process=post_process,
            dtype=dtype,
            pg_collection=pg_collection,
            name=name,
        )
        if post_process:
            self._add_final_norm(stack, config)
        return stack

    def _add_final_norm(self, stack: HybridStack, config: "TransformerConfig") -> None:
        """Give the stack the final norm of this spec.

        Seam: the engine has no slot for the final norm and always builds Transformer Engine's. So the stack is built
        with `post_layer_norm=False`, and both attributes are set afterwards.
        `packages/layers/tests/stack/test_swapping.py` fails when the engine reads other attributes.
        """
        norm = self.final_norm(config=config, hidden_size=config.hidden_size, eps=config.layernorm_epsilon)
        stack.final_norm = cast("Any", norm)  # declared as one class, of which each type checker has its own view
        stack.post_layer_norm = True
