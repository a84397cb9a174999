"""`MambaModelBuilder`: assembles a stack of Mamba-2 layers, or a hybrid with attention, MLP and MoE layers."""

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
    """Return the default spec of a Mamba model; change it with `dataclasses.replace`.

    Args:
        config: Decides about the kernels and the options of the mixers.
        backend: Backend of the generic parts.
        kernels: Convolution, scan and gated norm. None: those that the config names.

    Returns:
        The spec.

    Raises:
        ModelwrightError: The kernels cannot be used here. The message names what is missing.
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
    """Builds the model of a `MambaModelConfig`.

    Override `build_model` for another module, or `build_distributed_models` for another lifecycle.
    """

    @override
    def default_spec(self) -> StackSpec:
        return mamba_stack(self.config, self.backend)
