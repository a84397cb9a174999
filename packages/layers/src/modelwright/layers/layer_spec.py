"""Base of the layer specs: builds one layer of Megatron-Core's hybrid stack from a frozen dataclass of builders.

A layer spec declares its slots as fields, and the engine classes that build the layer as class variables. Everything
else is here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict, Unpack, cast

from megatron.core.ssm.mamba_layer import MambaLayerSubmodules
from megatron.core.transformer.transformer_layer import TransformerLayerSubmodules
from torch import nn

from modelwright.engine import as_function_spec, as_module_spec
from modelwright.layers.slot_check import check_slots

if TYPE_CHECKING:
    from megatron.core.process_groups_config import ProcessGroupCollection
    from megatron.core.transformer import TransformerConfig

FUSED_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "self_attention.linear_qkv.layer_norm_": "input_layernorm.",
        "self_attention.linear_q_up_proj.layer_norm_": "self_attention.q_layernorm.",
        "self_attention.linear_kv_up_proj.layer_norm_": "self_attention.kv_layernorm.",
        "mlp.linear_fc1.layer_norm_": "pre_mlp_layernorm.",
        "mixer.in_proj.layer_norm_": "norm.",
    }
)
"""Name prefixes in a checkpoint: of a norm that is fused into the linear after it, to those of a separate norm."""

_UNTYPED_SLOTS = frozenset({"self_attention", "mixer"})
"""Slots of modules that the engine builds through `build_module`."""


class LayerPosition(TypedDict, total=False):
    """Arguments that the engine's stack passes to some kinds of layers only."""

    is_mtp_layer: bool
    """True in a multi-token prediction block."""
    add_layer_offset: bool
    """True if the layer must add the stage's offset to its number. The stack passes False and adds the offset."""
    pp_layer_offset: int | None
    """Number of layers before this stage."""


@dataclass(frozen=True, kw_only=True)
class LayerSpec[LayerT]:
    """Base of the specs that fill the layer slots of a `StackSpec`; `LayerT` is the interface of the built layer.

    Subclass it for a custom layer spec: a frozen dataclass with one field for each field of `submodules_class` that it
    fills.
    """

    engine_class: ClassVar[type[nn.Module]]
    """Class of the built layer."""
    submodules_class: ClassVar[type[TransformerLayerSubmodules] | type[MambaLayerSubmodules]] = (
        TransformerLayerSubmodules
    )
    """Engine's dataclass of the layer's parts."""

    def __post_init__(self) -> None:
        check_slots(self)

    def __call__(
        self,
        *,
        config: "TransformerConfig",
        layer_number: int,
        pg_collection: "ProcessGroupCollection",
        name: str | None = None,
        **position: Unpack[LayerPosition],
    ) -> LayerT:
        """Build the layer.

        Args:
            config: The engine's config.
            layer_number: Number of the layer in the model, from 1.
            pg_collection: Process groups of this rank.
            name: Dotted name of the layer in the model, or None.
            **position: See `LayerPosition`; the engine class must accept what is passed.

        Returns:
            The layer.
        """
        parts = {slot.name: _for_engine(slot.name, getattr(self, slot.name)) for slot in fields(self)}
        layer = self.engine_class(
            config=config,
            submodules=self.submodules_class(**parts, sharded_state_dict_keys_map=dict(FUSED_NAMES)),
            layer_number=layer_number,
            pg_collection=pg_collection,
            name=name,
            **position,
        )
        return cast("LayerT", layer)


def _for_engine(slot: str, builder: Callable[..., Any]) -> Any:
    """Return a builder in the form that the engine's slot accepts."""
    if slot.endswith("_bda"):
        return as_function_spec(builder)
    return as_module_spec(builder) if slot in _UNTYPED_SLOTS else builder
