"""Specs of the Mamba-2 layer, symbol `M`: the layer, and the mixer in it with its projections and kernels."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from megatron.core.ssm.mamba_layer import MambaLayer, MambaLayerSubmodules
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear

from modelwright.layers.layer_spec import LayerSpec
from modelwright.layers.mamba.kernels import MambaKernels, torch_kernels
from modelwright.layers.mamba.mixer_options import MambaOptions
from modelwright.layers.norm import TorchNorm
from modelwright.layers.residual import mamba_bias_dropout_add
from modelwright.layers.slot_check import check_slots
from modelwright.protocols import (
    InProjBuilder,
    MambaBiasDropoutAddBuilder,
    MambaLayerInterface,
    MambaMixerBuilder,
    NormBuilder,
    OutProjBuilder,
)

if TYPE_CHECKING:
    from megatron.core.process_groups_config import ProcessGroupCollection
    from megatron.core.transformer import TransformerConfig

    from modelwright.layers.mamba.mixer import MambaMixer

_DEFAULTS = MambaOptions()
# The weight is declared as optional, which it is only with `skip_weight_param_allocation`.
_in_proj = cast("InProjBuilder", ColumnParallelLinear)


@dataclass(frozen=True, kw_only=True)
class MambaMixerSpec:
    """The Mamba-2 mixer with these parts; fills `MambaLayerSpec.mixer`."""

    in_proj: InProjBuilder = _in_proj
    """Projection to z, x, B, C and dt in one product."""
    out_proj: OutProjBuilder = RowParallelLinear
    """Projection of the heads back to the hidden size."""
    kernels: MambaKernels | None = None
    """Convolution, scan and gated norm; None: those in PyTorch, loaded with the first mixer."""
    options: MambaOptions = _DEFAULTS
    """Options of the mixer that the engine's config does not have."""

    def __post_init__(self) -> None:
        check_slots(self)

    def __call__(
        self,
        config: "TransformerConfig",
        /,
        *,
        d_model: int,
        layer_number: int,
        pg_collection: "ProcessGroupCollection",
        pp_layer_offset: int,
        name: str | None,
    ) -> "MambaMixer":
        """Build the mixer of one layer.

        Args:
            config: The engine's config.
            d_model: Hidden size, `h`.
            layer_number: Number of the layer in the model, from 1.
            pg_collection: Process groups of this rank.
            pp_layer_offset: Ignored: `layer_number` counts over the whole model.
            name: Dotted name of this module in the model, or None.

        Returns:
            The mixer.
        """
        from modelwright.layers.mamba.mixer import MambaMixer

        return MambaMixer(
            config,
            d_model=d_model,
            layer_number=layer_number,
            pg_collection=pg_collection,
            in_proj=self.in_proj,
            out_proj=self.out_proj,
            kernels=self.kernels or torch_kernels(),
            options=self.options,
            name=name,
        )


@dataclass(frozen=True, kw_only=True)
class MambaLayerSpec(LayerSpec[MambaLayerInterface]):
    """Layer of norm, Mamba-2 mixer and residual add: symbol `M`."""

    engine_class = MambaLayer
    submodules_class = MambaLayerSubmodules

    norm: NormBuilder = TorchNorm
    """Norm before the mixer."""
    mixer: MambaMixerBuilder = MambaMixerSpec()
    """Mixer with its projections."""
    mamba_bda: MambaBiasDropoutAddBuilder = mamba_bias_dropout_add
    """Bias, dropout and residual add after the mixer."""
