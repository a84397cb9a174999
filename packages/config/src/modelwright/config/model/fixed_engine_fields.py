"""Fields of Megatron-Core's config that have one value in every model, and those that are computed for each model.

`modelwright.layers.resolve` sets both kinds, and refuses them in `engine:`. `convert` leaves them out of a converted
config.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, final


@final
@dataclass(frozen=True)
class FixedField:
    """Engine field that has one value in every model of modelwright."""

    value: bool
    """The value."""
    reason: str
    """Why no other value works, as a clause."""


_INITIAL_VALUES = "initial values depend on the seed and the names of the parameters alone"
_KERNELS = "this fusion needs a GPU compiler or GPU kernels, and no backend of modelwright uses it"

FIXED_ENGINE_FIELDS: Final[Mapping[str, FixedField]] = MappingProxyType(
    {
        "is_hybrid_model": FixedField(value=True, reason="every model is built as the engine's `HybridModel`"),
        "use_cpu_initialization": FixedField(value=False, reason=_INITIAL_VALUES),
        "perform_initialization": FixedField(value=True, reason=_INITIAL_VALUES),
        "gradient_accumulation_fusion": FixedField(value=False, reason=_KERNELS),
        "bias_activation_fusion": FixedField(value=False, reason=_KERNELS),
        "bias_dropout_fusion": FixedField(value=False, reason=_KERNELS),
        "masked_softmax_fusion": FixedField(value=False, reason=_KERNELS),
        "apply_rope_fusion": FixedField(value=False, reason=_KERNELS),
        "persist_layer_norm": FixedField(value=False, reason=_KERNELS),
    }
)
"""Engine fields with one value in every model, by name."""

COMPUTED_ENGINE_FIELDS: Final = frozenset(
    {
        "batch_p2p_comm",
        "init_method",
        "output_layer_init_method",
        "overlap_p2p_comm",
    }
)
"""Engine fields that `resolve` computes from the model and the parallelism, without a field of ours of that name."""
