"""What a part needs to be built and called without the engine: a config, process groups, and a slot that calls.

Importing this loads neither torch nor the engine. A part that annotates `config: EngineConfig` and
`pg_collection: ProcessGroups` of modelwright.protocols takes these fakes and the engine's own alike.
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
    """Fill a weight from a normal distribution of standard deviation 0.02, in place."""
    from torch import nn

    nn.init.normal_(weight, std=0.02)


@final
@dataclass(frozen=True, kw_only=True)
class FakeConfig:
    """As much of the engine's config as `EngineConfig` promises, small by default.

    Args of the engine that are not here go into `more`, and are read as attributes.
    """

    num_layers: int = 2
    hidden_size: int = 16
    num_attention_heads: int = 4
    num_query_groups: int = 4
    kv_channels: int = 4
    ffn_hidden_size: int = 32
    layernorm_epsilon: float = 1e-5
    add_bias_linear: bool = False
    attention_dropout: float = 0.0
    sequence_parallel: bool = False
    init_method: "Callable[[Tensor], None]" = normal_init
    output_layer_init_method: "Callable[[Tensor], None]" = normal_init
    more: tuple[tuple[str, object], ...] = ()
    """Further fields, as pairs."""

    @property
    def params_dtype(self) -> "dtype":
        """Type of the parameters: 32-bit floats."""
        import torch

        return torch.float32

    def __getattr__(self, name: str) -> Any:
        """Further fields."""
        for key, value in object.__getattribute__(self, "more"):
            if key == name:
                return value
        known = ", ".join(f"`{field.name}`" for field in fields(self) if field.name != "more")
        raise AttributeError(
            f'`FakeConfig` must be given `{name}` to be asked for it: it has {known}; pass `more=(("{name}", ...),)`.'
        )


@final
@dataclass(frozen=True)
class FakeGroup:
    """A process group of one rank, or a rank of a larger one as long as nothing is communicated."""

    ranks: int = 1
    """How many there are."""
    position: int = 0
    """Which of them this is."""

    def size(self) -> int:
        """How many ranks there are."""
        return self.ranks

    def rank(self) -> int:
        """Which of them this is."""
        return self.position


@final
class FakeGroups:
    """Process groups of one rank under each of the engine's names; some may be given.

        FakeGroups(tp=FakeGroup(2, 1))

    Args:
        given: Groups by name, such as `tp`.
    """

    def __init__(self, **given: Any) -> None:
        self._given = given

    def __getattr__(self, name: str) -> Any:
        """The group of a name."""
        if name.startswith("_"):
            raise AttributeError(name)
        return self._given.get(name, FakeGroup())


def fill(slot: type[object], builder: Callable[..., Any], /, *positions: object, **given: object) -> Any:
    """Check a builder against a slot and call it as the slot does, with fakes where nothing is given.

    Args:
        slot: A Builder, such as `MlpBuilder`.
        builder: What to put into it.
        positions: What the slot passes by position.
        given: What the slot passes by keyword, where a fake will not do.

    Returns:
        What the builder made.

    Raises:
        ConformanceError: If the builder does not fit.
        TypeError: If something is given that the slot does not pass, or something is neither given nor known here.
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
