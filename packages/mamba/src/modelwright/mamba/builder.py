"""`MambaModelBuilder`: a stack of Mamba-2 layers, alone or with attention and MLPs between them."""

from dataclasses import replace
from typing import override

from modelwright.layers import (
    TORCH,
    Backend,
    DecoderModelBuilder,
    MambaKernels,
    MambaOptions,
    StackSpec,
    decoder_stack,
    find_kernels,
    mamba_layer_spec,
)
from modelwright.mamba.config import MambaModelConfig


def mamba_stack(
    config: MambaModelConfig, backend: Backend = TORCH, *, kernels: MambaKernels | None = None
) -> StackSpec:
    """What fills the slots of a Mamba model: the spec to change with `dataclasses.replace`.

    Args:
        config: Decides on the kernels and on all that a mixer is beyond the sizes in the engine's config.
        backend: Whose parts fill the generic slots.
        kernels: What convolves, scans and normalizes; what the config names when None.

    Returns:
        The spec.

    Raises:
        ModelwrightError: The kernels cannot be used here; says what is missing.
    """
    options = MambaOptions(
        conv_width=config.conv_width,
        conv_bias=config.conv_bias,
        conv_init=config.conv_init,
        chunk_size=config.chunk_size,
        bias=config.mamba_bias,
        gated_norm=config.gated_norm,
        norm_before_gate=config.norm_before_gate,
        d_per_channel=config.d_per_channel,
        a_init=config.a_init_range,
        dt_init=config.dt_init_range,
        dt_init_floor=config.dt_init_floor,
        dt_limit=config.dt_limit,
    )
    kernels = kernels or find_kernels(config.kernels, conv_width=config.conv_width)
    mamba = mamba_layer_spec(backend, kernels=kernels, options=options)
    return replace(decoder_stack(config, backend), mamba=mamba)


class MambaModelBuilder(DecoderModelBuilder[MambaModelConfig]):
    """Builds the model of a `MambaModelConfig`; override `build_model` or `build_distributed_models` to change how."""

    @override
    def default_spec(self) -> StackSpec:
        return mamba_stack(self.config, self.backend)
