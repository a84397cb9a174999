"""The engine's bias, dropout and residual add, typed as the slots that layers call it in."""

from typing import TYPE_CHECKING, cast

from megatron.core.fusions import fused_bias_dropout

if TYPE_CHECKING:
    from modelwright.protocols import BiasDropoutAddBuilder, MambaBiasDropoutAddBuilder

# The engine's function has no annotations.
bias_dropout_add = cast("BiasDropoutAddBuilder", fused_bias_dropout.get_bias_dropout_add)
mamba_bias_dropout_add = cast("MambaBiasDropoutAddBuilder", fused_bias_dropout.get_bias_dropout_add)
