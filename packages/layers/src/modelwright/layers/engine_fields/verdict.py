"""The verdicts on a field of Megatron-Core's config: owned by a field of ours, honored, or refused.

The tables of this folder give every field of the installed engine one verdict. `engine:` of a config may contain a
field only if it has an effect in the model that is built.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, final

from modelwright.config import LAYER_KINDS

EVERY_LAYER = "".join(LAYER_KINDS)
"""Layers of a field that does not depend on them."""

type FieldValues = Callable[[str], Any]
"""Returns the value that a field has in the model: the given one, that of `resolve`, or the engine's default.

For `backend` it returns the name of the backend, for a field of ours its value, and None for any other name.
"""

type Effect = Literal["values", "shapes", "kernels", "communication"]
"""Kind of change by a field: results, shapes of parameters, operations with the same results, or messages of ranks."""


@final
@dataclass(frozen=True)
class Condition:
    """Values of other fields without which a field has no effect."""

    text: str
    """The condition, as a clause after "only"."""
    holds: Callable[[FieldValues], bool]
    """Returns True if the condition holds."""


@final
@dataclass(frozen=True)
class Owned:
    """A field of ours sets this one. Where that field is not used, `engine:` may set it, if such layers are there."""

    by: str
    """The field of ours, in backticks, and what it belongs to."""
    layers: str = EVERY_LAYER
    """Symbols of the layers that read the field."""
    when: Condition | None = None
    """Other values that it needs. None: none."""


@final
@dataclass(frozen=True)
class Honored:
    """`engine:` may set this field, and it has an effect."""

    effect: Effect
    """Kind of change."""
    layers: str = EVERY_LAYER
    """Symbols of the layers that read it."""
    backends: tuple[str, ...] = ("torch", "te")
    """Backends with parts that read it."""
    when: Condition | None = None
    """Other values that it needs. None: none."""


@final
@dataclass(frozen=True)
class Refused:
    """Nothing in a model of modelwright reads this field, or what reads it cannot work."""

    reason: str
    """Reason, as a clause after "because"."""
    instead: str = "leave it out"
    """Remedy, in the imperative."""


type Verdict = Owned | Honored | Refused

type Verdicts = Mapping[str, Verdict]
"""Verdicts by the name of the field."""


def setting(name: str, value: object) -> Condition:
    """Return the condition that another field of the engine has a value.

    Args:
        name: The other field.
        value: Its value.

    Returns:
        The condition.
    """
    shown = str(value).lower() if isinstance(value, bool) else value
    return Condition(f"with `engine.{name}: {shown}`", lambda values: bool(values(name) == value))
