"""Differences between two configs, field by field."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final, cast, final

from modelwright.config.problems.wording import Loc, dotted
from modelwright.config.strict.plain_data import canonical, to_plain

if TYPE_CHECKING:
    from modelwright.config.model.base import ModelConfig
    from modelwright.config.run.run import RunConfig

__all__ = ["ABSENT", "Absent", "Difference", "diff"]


@final
class Absent:
    """Type of `ABSENT`, the value of a field that one of the two configs does not have."""

    def __repr__(self) -> str:
        """Return the text that `str(Difference)` shows."""
        return "absent"


ABSENT: Final = Absent()
"""Value of a field that one of the two configs does not have."""


@final
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Field with different values in two configs."""

    path: str
    """Dotted path of the field."""

    left: object
    """Plain value in the first config, or `ABSENT`."""

    right: object
    """Plain value in the second config, or `ABSENT`."""

    left_is_default: bool
    """True if the field has its default in the first config."""

    right_is_default: bool
    """True if the field has its default in the second config."""

    def __str__(self) -> str:
        """Return one line, as in `train.lr: 0.0003 (default) → 0.001`."""
        left, right = _shown(self.left, self.left_is_default), _shown(self.right, self.right_is_default)
        return f"{self.path}: {left} → {right}"


def diff(left: "RunConfig | ModelConfig", right: "RunConfig | ModelConfig") -> tuple[Difference, ...]:
    """Compare two configs.

    Args:
        left: First config, of a run or a model.
        right: Second config.

    Returns:
        The fields that differ, in the order of the first config, then those that only the second one has. NaN equals
        NaN. Empty if and only if the configs have the same fingerprint.
    """
    one, other = _leaves(left, full=True), _leaves(right, full=True)
    set_in_one, set_in_other = _leaves(left, full=False), _leaves(right, full=False)
    return tuple(
        Difference(
            path=dotted(loc),
            left=one.get(loc, ABSENT),
            right=other.get(loc, ABSENT),
            left_is_default=loc in one and loc not in set_in_one,
            right_is_default=loc in other and loc not in set_in_other,
        )
        for loc in [*one, *(loc for loc in other if loc not in one)]
        if loc not in one or loc not in other or canonical(one[loc]) != canonical(other[loc])
    )


def _leaves(config: "RunConfig | ModelConfig", *, full: bool) -> dict[Loc, object]:
    """Return every single value by its location."""
    return dict(_walk(to_plain(config, full=full), ()))


def _walk(data: object, loc: Loc) -> Iterator[tuple[Loc, object]]:
    """Iterate over the values below a location; a list or an empty mapping is one value."""
    if isinstance(data, Mapping) and data:
        for key, value in cast("Mapping[str, object]", data).items():
            yield from _walk(value, (*loc, key))
    else:
        yield loc, data


def _shown(value: object, is_default: bool) -> str:  # noqa: FBT001
    """Return one side of a line."""
    text = repr(value) if isinstance(value, Absent) else canonical(value)
    return f"{text} (default)" if is_default else text
