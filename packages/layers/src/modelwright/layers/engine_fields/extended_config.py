"""Megatron-Core's config with the fields of a decoder that the engine's does not have.

`resolve` makes such a config where a model uses one of these fields, and parts of this package read them.

Seam: the engine's attention reads `yarn_rotary_scaling_factor`, `yarn_mscale` and `yarn_mscale_all_dim` from a config
that has them, although none of its classes declares them. `tests/integration/test_hf_variants.py` fails when it
reads others.
"""

from dataclasses import dataclass, fields
from typing import Final

from megatron.core.transformer import MLATransformerConfig, TransformerConfig


@dataclass
class DecoderExtension:
    """Fields of a decoder beyond the engine's."""

    attention_softcap: float | None = None
    """Bound of the attention scores. None: no bound."""
    logits_softcap: float | None = None
    """Bound of the logits. None: no bound."""
    yarn_rotary_scaling_factor: float = 1.0
    """Factor of YaRN, from which attention computes the scale of rotated queries and keys. 1: no scale."""
    yarn_mscale: float = 1.0
    """Strength of that scale."""
    yarn_mscale_all_dim: float = 0.0
    """Divisor of that scale."""


@dataclass
class ExtendedConfig(DecoderExtension, TransformerConfig):
    """The engine's config with the fields of a decoder."""


@dataclass
class ExtendedMLAConfig(DecoderExtension, MLATransformerConfig):
    """The engine's config of a model with MLA, with the fields of a decoder."""


EXTENSION: Final = frozenset(field.name for field in fields(DecoderExtension))
"""Names of the fields beyond the engine's."""
