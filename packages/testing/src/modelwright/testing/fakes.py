"""Fakes that build and call a part without Megatron-Core: a config, process groups, and the call of a slot.

Importing this module loads neither torch nor the engine. A part that annotates `config: EngineConfig` and
`pg_collection: ProcessGroups` of modelwright.protocols accepts these fakes and the engine's own objects.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from inspect import Parameter
from typing import TYPE_CHECKING, Any, final

from modelwright.protocols import check_conformance

if TYPE_CHECKING:
    from torch import Tensor, dtype


def normal_init(weight: "Tensor") -> None:
    """Initialize a weight in place from a normal distribution with standard deviation 0.02."""
    from torch import nn

    nn.init.normal_(weight, std=0.02)


@final
@dataclass(frozen=True, kw_only=True)
class FakeConfig:
    """A config with the fields of `EngineConfig`, small by default.

    Other fields of the engine's config are given as pairs in `more` and read as attributes.
    """

    num_layers: int = 2
    """Number of layers."""
    hidden_size: int = 16
    """Size of the hidden states."""
    num_attention_heads: int = 4
    """Number of query heads."""
    num_query_groups: int = 4
    """Number of key and value heads."""
    kv_channels: int = 4
    """Size of a head."""
    ffn_hidden_size: int = 32
    """Inner size of an MLP."""
    layernorm_epsilon: float = 1e-5
    """Constant that norms add to the variance."""
    add_bias_linear: bool = False
    """True if linear layers have a bias."""
    attention_dropout: float = 0.0
    """Dropout probability of attention weights."""
    sequence_parallel: bool = False
    """True if norms and dropouts process only a shard of the sequence."""
    init_method: "Callable[[Tensor], None]" = normal_init
    """Function that initializes a weight in place."""
    output_layer_init_method: "Callable[[Tensor], None]" = normal_init
    """Function that initializes, in place, the weight of a projection into the residual stream."""
    more: tuple[tuple[str, object], ...] = ()
    """Further fields, as pairs of a name and a value."""

    @property
    def params_dtype(self) -> "dtype":
        """Dtype of the parameters: float32."""
        import torch

        return torch.float32

    def __getattr__(self, name: str) -> Any:
        """Return a further field."""
        for key, value in object.__getattribute__(self, "more"):
            if key == name:
                return value
        known = ", ".join(f"`{field.name}`" for field in fields(self) if field.name != "more")
        raise AttributeError(
            f"`FakeConfig` must be given `{name}` before it is read, but has only {known}; pass"
            f' `more=(("{name}", ...),)`.'
        )


@final
@dataclass(frozen=True)
class FakeGroup:
    """A process group of one rank, or one rank of a larger group as long as nothing is communicated."""

    ranks: int = 1
    """Number of ranks in the group."""
    position: int = 0
    """Rank in the group, from 0."""

    def size(self) -> int:
        """Return the number of ranks."""
        return self.ranks

    def rank(self) -> int:
        """Return the rank in the group, from 0."""
        return self.position


@final
class FakeGroups:
    """Process groups of one rank, under each of the engine's names.

        FakeGroups(tp=FakeGroup(2, 1))

    Args:
        given: Groups that replace the fakes, by name, such as `tp`.
    """

    def __init__(self, **given: Any) -> None:
        self._given = given

    def __getattr__(self, name: str) -> Any:
        """Return the group of a name."""
        if name.startswith("_"):
            raise AttributeError(name)
        return self._given.get(name, FakeGroup())


def fill(slot: type[object], builder: Callable[..., Any], /, *positions: object, **given: object) -> Any:
    """Check a builder against a slot and call it like the slot, with fakes for arguments that are not given.

    Args:
        slot: Builder of the slot, such as `MlpBuilder`.
        builder: Class or function that builds the part.
        positions: Positional arguments of the slot.
        given: Keyword arguments of the slot that replace the fakes.

    Returns:
        The part.

    Raises:
        ConformanceError: The builder does not fit.
        TypeError: A given argument is not passed by the slot, or an argument has no fake and is not given.
    """
    check_conformance(slot, builder)
    passed: dict[str, object] = {}
    parameters = list(inspect.signature(slot.__call__).parameters.values())[1:]
    keywords = [parameter for parameter in parameters if parameter.kind is Parameter.KEYWORD_ONLY]
    stray = set(given) - {parameter.name for parameter in keywords}
    if stray:
        raise TypeError(f"`{slot.__name__}` does not pass {', '.join(f'`{name}`' for name in sorted(stray))}")
    for parameter in keywords:
        if parameter.name in given:
            passed[parameter.name] = given[parameter.name]
        elif parameter.default is Parameter.empty:
            passed[parameter.name] = _fake(slot, parameter.name)
    return builder(*positions, **passed)


def _fake(slot: type[object], name: str) -> object:
    fakes: dict[str, Callable[[], object]] = {
        "config": FakeConfig,
        "pg_collection": FakeGroups,
        "tp_group": FakeGroup,
        "cp_group": FakeGroup,
        "layer_number": lambda: 1,
        "is_mtp_layer": lambda: False,
        "is_expert": lambda: False,
        "name": lambda: None,
        "init_method": lambda: normal_init,
        "hidden_size": lambda: FakeConfig().hidden_size,
        "eps": lambda: FakeConfig().layernorm_epsilon,
        "attention_type": lambda: "self",
        "attn_mask_type": lambda: None,
        "cp_comm_type": lambda: None,
        "softmax_scale": lambda: None,
        "bias": lambda: False,
        "skip_bias_add": lambda: False,
        "gather_output": lambda: False,
        "input_is_parallel": lambda: True,
        "tp_comm_buffer_name": lambda: "fake",
        "stride": lambda: 1,
    }
    if name not in fakes:
        raise TypeError(f"`{slot.__name__}` passes `{name}`, which has no fake; give it: `fill(..., {name}=...)`")
    return fakes[name]()
