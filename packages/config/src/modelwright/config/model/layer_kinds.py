"""Layer kinds: the one table of the symbols in a stack pattern.

A stack pattern has one symbol for each layer, in the alphabet of Megatron-Core's hybrid model
(`megatron/core/models/hybrid/hybrid_layer_allocation.py`). Each `LayerKind` combines a symbol with everything that
belongs to it: names for messages and pictures, the slots that build the layer, and the config fields that it needs.
Patterns, messages, pictures and limits read this table, so the alphabet is written nowhere else.
"""

import dataclasses
from types import MappingProxyType
from typing import Final, final

from modelwright.config.problems.problem import ConfigError, Problem
from modelwright.config.problems.wording import quoted_list, shown

__all__ = [
    "ATTENTION",
    "GATED_DELTA_NET",
    "LAYER_KINDS",
    "MAMBA",
    "MLA",
    "MLP",
    "MOE",
    "PREDICTION_SEPARATOR",
    "SPARSE_ATTENTION",
    "STAGE_BOUNDARY",
    "LayerKind",
    "layer_kind",
]


@final
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LayerKind:
    """One kind of layer and everything that belongs to its symbol."""

    symbol: str
    """Symbol in a stack pattern; one character."""

    name: str
    """Singular name, for messages."""

    plural: str
    """Plural name, for messages."""

    label: str
    """Short name, for the legend of a picture."""

    color: str
    """Fill color in a picture, as `#rrggbb`."""

    engine_slot: str
    """Field of the engine's `HybridStackSubmodules` that builds the layer."""

    spec_field: str | None
    """Field of `modelwright.layers.StackSpec` that builds the layer. `None`: no spec can build it yet."""

    config_fields: tuple[str, ...] = ()
    """Fields of a model config that must be set where a pattern contains the symbol."""

    keeps_every_token: bool = False
    """True if the layer reads every earlier token, so that `seq_length` limits the context."""


MAMBA: Final = LayerKind(
    symbol="M",
    name="Mamba-2 layer",
    plural="Mamba-2 layers",
    label="Mamba-2",
    color="#f3d17a",
    engine_slot="mamba_layer",
    spec_field="mamba",
)
"""State-space layer of Mamba-2 (arXiv:2405.21060)."""

ATTENTION: Final = LayerKind(
    symbol="*",
    name="attention layer",
    plural="attention layers",
    label="attention",
    color="#8fb8de",
    engine_slot="attention_layer",
    spec_field="attention",
    config_fields=("num_attention_heads",),
    keeps_every_token=True,
)
"""Causal self-attention."""

MLA: Final = LayerKind(
    symbol="+",
    name="MLA layer",
    plural="MLA layers",
    label="MLA",
    color="#6f9fcf",
    engine_slot="mla_layer",
    spec_field="latent_attention",
    config_fields=("num_attention_heads", "latent_attention"),
    keeps_every_token=True,
)
"""Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434)."""

MLP: Final = LayerKind(
    symbol="-",
    name="MLP layer",
    plural="MLP layers",
    label="MLP",
    color="#b9d8a8",
    engine_slot="mlp_layer",
    spec_field="mlp",
)
"""Dense MLP."""

MOE: Final = LayerKind(
    symbol="E",
    name="MoE layer",
    plural="MoE layers",
    label="MoE",
    color="#8fbf8f",
    engine_slot="moe_layer",
    spec_field="moe",
    config_fields=("num_experts", "top_k"),
)
"""Mixture of experts (arXiv:1701.06538)."""

GATED_DELTA_NET: Final = LayerKind(
    symbol="G",
    name="gated delta net layer",
    plural="gated delta net layers",
    label="gated delta net",
    color="#e6b98f",
    engine_slot="gdn_layer",
    spec_field=None,
)
"""Gated delta network (arXiv:2412.06464)."""

SPARSE_ATTENTION: Final = LayerKind(
    symbol="D",
    name="sparse attention layer",
    plural="sparse attention layers",
    label="sparse attention",
    color="#a9c6e8",
    engine_slot="dsa_layer",
    spec_field=None,
    config_fields=("num_attention_heads",),
    keeps_every_token=True,
)
"""Sparse attention of DeepSeek-V3.2."""

STAGE_BOUNDARY: Final = "|"
"""Symbol between two pipeline stages of a pattern."""

PREDICTION_SEPARATOR: Final = "/"
"""Symbol before the layers of each multi-token prediction depth. No family uses it yet."""

LAYER_KINDS: Final = MappingProxyType(
    {kind.symbol: kind for kind in (MAMBA, ATTENTION, MLA, MLP, MOE, GATED_DELTA_NET, SPARSE_ATTENTION)}
)
"""Every layer kind by its symbol."""


def layer_kind(symbol: str) -> LayerKind:
    """Return the layer kind of a symbol.

    Args:
        symbol: One character of a stack pattern.

    Returns:
        The kind.

    Raises:
        ConfigError: If no kind has that symbol, as for `|`, which separates stages.
    """
    found = LAYER_KINDS.get(symbol)
    if found is None:
        rule = f"the symbol of a layer must be {quoted_list(LAYER_KINDS, 'or')}, but is `{shown(symbol)}`"
        raise ConfigError((Problem("", f"{rule}; replace it.", code="wrong_value"),))
    return found
