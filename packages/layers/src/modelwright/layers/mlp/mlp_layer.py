"""Specs of the dense MLP layer, symbol `-`: the layer, and the MLP in it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from megatron.core.ssm.mlp_layer import MLPLayer
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.mlp import MLP, MLPSubmodules

from modelwright.layers.layer_spec import LayerSpec
from modelwright.layers.norm import TorchNorm
from modelwright.layers.residual import bias_dropout_add
from modelwright.layers.slot_check import check_slots
from modelwright.protocols import (
    BiasDropoutAddBuilder,
    LinearFc1Builder,
    LinearFc2Builder,
    MlpBuilder,
    MlpLayerInterface,
    NormBuilder,
)

if TYPE_CHECKING:
    from megatron.core.process_groups_config import ProcessGroupCollection
    from megatron.core.transformer import TransformerConfig
    from megatron.core.transformer import mlp as engine


@dataclass(frozen=True, kw_only=True)
class MlpSpec:
    """The engine's MLP with these parts; fills `MlpLayerSpec.mlp`."""

    linear_fc1: LinearFc1Builder = ColumnParallelLinear
    """Projection to the inner size, or to twice the inner size for a gated activation."""
    linear_fc2: LinearFc2Builder = RowParallelLinear
    """Projection back to the hidden size."""

    def __post_init__(self) -> None:
        check_slots(self)

    def __call__(
        self,
        *,
        config: "TransformerConfig",
        pg_collection: "ProcessGroupCollection",
        is_mtp_layer: bool,
        name: str | None = None,
    ) -> MLP:
        """Build the MLP of one layer.

        Args:
            config: The engine's config.
            pg_collection: Process groups of this rank.
            is_mtp_layer: True in a multi-token prediction block.
            name: Dotted name of this module in the model, or None.

        Returns:
            The MLP.
        """
        return MLP.as_mlp_submodule(
            mlp_parts(self.linear_fc1, self.linear_fc2),
            config=config,
            pg_collection=pg_collection,
            is_mtp_layer=is_mtp_layer,
            ffn_hidden_size=config.ffn_hidden_size,
            name=name,
        )


def mlp_parts(linear_fc1: LinearFc1Builder, linear_fc2: LinearFc2Builder) -> MLPSubmodules:
    """Return two linear builders as the engine's parts of an MLP, of an expert or of shared experts.

    Args:
        linear_fc1: Builds the first linear.
        linear_fc2: Builds the second linear.

    Returns:
        The engine's dataclass.
    """
    # The engine's Protocols require `backward_dw`, which it calls only where weight gradients are delayed.
    return MLPSubmodules(
        linear_fc1=cast("engine.LinearFc1Builder", linear_fc1), linear_fc2=cast("engine.LinearFc2Builder", linear_fc2)
    )


@dataclass(frozen=True, kw_only=True)
class MlpLayerSpec(LayerSpec[MlpLayerInterface]):
    """Layer of norm, MLP and residual add: symbol `-`."""

    engine_class = MLPLayer

    pre_mlp_layernorm: NormBuilder = TorchNorm
    """Norm before the MLP."""
    mlp: MlpBuilder = MlpSpec()
    """The MLP."""
    mlp_bda: BiasDropoutAddBuilder = bias_dropout_add
    """Bias, dropout and residual add after the MLP."""
