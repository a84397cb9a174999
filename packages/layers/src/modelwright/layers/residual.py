"""The engine's bias, dropout and residual add, typed as the slot that layers take it in."""

from megatron.core.fusions import fused_bias_dropout

from modelwright.engine import as_engine
from modelwright.protocols import BiasDropoutAddBuilder

bias_dropout_add: BiasDropoutAddBuilder = as_engine(fused_bias_dropout.get_bias_dropout_add)  # pyright: ignore[reportUnknownArgumentType]
