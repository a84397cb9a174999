"""Specs of a Mamba layer: frozen dataclasses of typed builders, as in `_specs`.

`MambaLayerSpec` fills symbol `M`; the mixer in it, its projections and its kernels are slots.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from megatron.core.ssm.mamba_layer import MambaLayer, MambaLayerSubmodules
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear

from modelwright.engine import as_engine, as_function_spec, as_module_spec, check_slots
from modelwright.layers.mamba.kernels import TORCH_KERNELS, MambaKernels
from modelwright.layers.mamba.mixer import MambaMixer, MambaOptions
from modelwright.layers.norm import TorchNorm
from modelwright.layers.residual import bias_dropout_add
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

_FUSED_NAMES: Mapping[str, str] = MappingProxyType({"mixer.in_proj.layer_norm_": "norm."})
_in_proj: InProjBuilder = as_engine(ColumnParallelLinear)
_DEFAULTS = MambaOptions()
_mamba_bda: MambaBiasDropoutAddBuilder = as_engine(bias_dropout_add)


@dataclass(frozen=True, kw_only=True)
class MambaMixerSpec:
    """The Mamba-2 mixer with these parts; fills `MambaLayerSpec.mixer`."""

    in_proj: InProjBuilder = _in_proj
    """Makes z, x, B, C and dt in one product."""
    out_proj: OutProjBuilder = RowParallelLinear
    """Projects the heads back to the hidden size."""
    kernels: MambaKernels = TORCH_KERNELS
    """Convolution, scan and gated norm."""
    options: MambaOptions = _DEFAULTS
    """What the mixer is beyond the sizes in the engine's config."""

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
    ) -> MambaMixer:
        """Build the mixer of one layer."""
        return MambaMixer(
            config,
            d_model=d_model,
            layer_number=layer_number,
            pg_collection=pg_collection,
            in_proj=self.in_proj,
            out_proj=self.out_proj,
            kernels=self.kernels,
            options=self.options,
            name=name,
        )


@dataclass(frozen=True, kw_only=True)
class MambaLayerSpec:
    """A layer of norm, Mamba-2 mixer and residual add: symbol `M`."""

    norm: NormBuilder = TorchNorm
    """Before the mixer."""
    mixer: MambaMixerBuilder = MambaMixerSpec()
    """The mixer with its projections."""
    mamba_bda: MambaBiasDropoutAddBuilder = _mamba_bda
    """Bias, dropout and residual add after it."""

    def __post_init__(self) -> None:
        check_slots(self)

    def __call__(
        self,
        *,
        config: "TransformerConfig",
        layer_number: int,
        pp_layer_offset: int,
        pg_collection: "ProcessGroupCollection",
        name: str | None,
    ) -> MambaLayerInterface:
        """Build one Mamba layer."""
        parts = MambaLayerSubmodules(
            norm=as_engine(self.norm),
            mixer=as_module_spec(self.mixer),
            mamba_bda=as_function_spec(self.mamba_bda),
            sharded_state_dict_keys_map=dict(_FUSED_NAMES),
        )
        layer: MambaLayerInterface = as_engine(
            MambaLayer(
                config,
                parts,
                layer_number=layer_number,
                pg_collection=pg_collection,
                pp_layer_offset=pp_layer_offset,
                name=name,
            )
        )
        return layer
