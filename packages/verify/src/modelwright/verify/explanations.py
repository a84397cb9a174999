"""Recognition of the cause of a difference: a factor that is the size of an axis, or a sum that was not taken.

A gradient that is too large by the number of tensor ranks was summed once too often. Copies that add up to the gradient
of one rank were not summed.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final, final

import numpy as np

from modelwright.verify.on_ranks.records import Array

AXES: Final = ("tensor", "context", "data", "pipeline", "expert", "expert_tensor")
"""Axes that an explanation may name, most likely first."""
_CLOSE: Final = 1e-2
"""Largest relative distance of a factor from the size of an axis."""
_SAME: Final = 1e-3
"""Largest difference, relative to the largest value, of tensors that are called equal by an explanation."""


@final
@dataclass(frozen=True)
class Explanation:
    """The cause of a difference."""

    clause: str = ""
    """Clause that follows the name of the quantity. Empty: nothing was recognized."""
    ratio: float | None = None
    """Constant factor between the layout and one rank."""
    axis: str | None = None
    """Axis of parallelism."""


@final
@dataclass(frozen=True)
class Copies:
    """The values that ranks have of the same part of a tensor."""

    values: Sequence[Array]
    """Values of each rank."""
    expected: Array
    """Values of one rank."""
    coordinates: Sequence[Mapping[str, int]]
    """Coordinates of each rank."""


def explain_tensor(parts: Iterable[Copies], sizes: Mapping[str, int]) -> Explanation:
    """Explain the difference of a tensor.

    Args:
        parts: All parts of the tensor.
        sizes: Sizes of the axes.

    Returns:
        The explanation, empty if nothing was recognized.
    """
    given = list(parts)
    scale = max((float(np.abs(part.expected).max(initial=0.0)) for part in given), default=0.0)
    if not scale:
        return Explanation()
    if all(float(np.abs(values).max(initial=0.0)) == 0.0 for part in given for values in part.values):
        return Explanation("is zero", ratio=0.0)
    return _constant(given, sizes, scale) or _reduction(given, sizes, scale) or Explanation()


def explain_number(found: float, expected: float, sizes: Mapping[str, int]) -> Explanation:
    """Explain the difference of a number.

    Args:
        found: The number on the layout.
        expected: The number on one rank.
        sizes: Sizes of the axes.

    Returns:
        The explanation, with the factor between the numbers.
    """
    if not expected or not math.isfinite(found):
        return Explanation()
    ratio = found / expected
    return Explanation(_factor_clause(ratio, sizes), ratio, axis_of(ratio, sizes))


def axis_of(ratio: float, sizes: Mapping[str, int]) -> str | None:
    """Return the axis of which a factor, or its inverse, is the size.

    Args:
        ratio: Factor between a layout and one rank.
        sizes: Sizes of the axes.
    """
    factor = max(ratio, 1 / ratio) if ratio > 0 else 0.0
    named = [axis for axis in AXES if sizes.get(axis, 1) > 1]
    return next((axis for axis in named if abs(factor / sizes[axis] - 1) < _CLOSE), None)


def _factor_clause(ratio: float, sizes: Mapping[str, int]) -> str:
    axis = axis_of(ratio, sizes)
    factor = max(ratio, 1 / ratio) if ratio > 0 else ratio
    if ratio <= 0:
        return f"has the wrong sign, factor {ratio:.3g}"
    direction = "large" if ratio > 1 else "small"
    if axis is None:
        return f"too {direction} by {factor:.4g}"
    cause = "summed once too often over" if ratio > 1 else "divided once too often by the size of"
    return f"too {direction} by {factor:.1f} = {axis} size: {cause} `{axis}`"


def _constant(parts: Sequence[Copies], sizes: Mapping[str, int], scale: float) -> Explanation | None:
    """Recognize a constant factor."""
    products = squares = 0.0
    for part in parts:
        for values in part.values:
            products += float(np.vdot(values.astype(np.float64), part.expected))
            squares += float(np.vdot(part.expected.astype(np.float64), part.expected))
    ratio = products / squares if squares else 0.0
    if not ratio or abs(ratio - 1.0) < _CLOSE:
        return None
    for part in parts:
        for values in part.values:
            if np.abs(values - ratio * part.expected).max(initial=0.0) > _SAME * scale * abs(ratio):
                return None
    return Explanation(_factor_clause(ratio, sizes), ratio, axis_of(ratio, sizes))


def _reduction(parts: Sequence[Copies], sizes: Mapping[str, int], scale: float) -> Explanation | None:
    """Recognize copies of which the sum or the mean is right."""
    for axis in (axis for axis in AXES if sizes.get(axis, 1) > 1):
        for word, divisor in (("summed", 1), ("averaged", sizes[axis])):
            if all(_adds_up(part, axis, divisor, scale) for part in parts):
                total = "sum" if divisor == 1 else "mean"
                return Explanation(f"not {word} over `{axis}`: the {total} of the copies is right", None, axis)
    return None


def _adds_up(part: Copies, axis: str, divisor: int, scale: float) -> bool:
    """Return True if the copies along an axis, divided by a number, add up to the expected values."""
    along: dict[tuple[tuple[str, int], ...], dict[int, Array]] = {}
    for values, coordinates in zip(part.values, part.coordinates, strict=True):
        others = tuple((name, rank) for name, rank in coordinates.items() if name in AXES[:4] and name != axis)
        along.setdefault(others, {})[coordinates[axis]] = values
    return all(
        len(copies) > 1
        and float(np.abs(sum(copies.values()) / divisor - part.expected).max(initial=0.0)) <= _SAME * scale
        for copies in along.values()
    )


def explain_norm(
    found: float, squares: Mapping[str, Sequence[float]], copies: Mapping[str, int]
) -> tuple[str, str] | None:
    """Find the parameters that were left out of a gradient norm, or counted more than once.

    Args:
        found: The gradient norm on the layout, which the gradients do not explain.
        squares: Sum of the squares of the gradient in each different shard, by parameter.
        copies: Number of ranks with the same elements, by parameter.

    Returns:
        The parameter and the clause. None: no group of parameters explains the norm.
    """
    total = sum(sum(shards) for shards in squares.values())
    excess = found * found - total
    classes: dict[str, list[str]] = {}
    for name in squares:
        classes.setdefault(_without_numbers(name), []).append(name)
    counted = {kind: sum(sum(squares[name]) * (copies[name] - 1) for name in names) for kind, names in classes.items()}
    missing = {kind: -sum(sum(squares[name][1:]) for name in names) for kind, names in classes.items()}
    for clause, changes in (("counted once for each copy", counted), ("counted on one rank alone", missing)):
        usable = {kind: change for kind, change in changes.items() if abs(change) > 1e-6 * total}
        for size in (1, 2, 3):
            for kinds in combinations(usable, size):
                if abs(sum(usable[kind] for kind in kinds) - excess) <= _CLOSE * abs(excess):
                    return classes[kinds[0]][0], clause
    return None


def _without_numbers(name: str) -> str:
    return ".".join("*" if part.isdigit() else part for part in name.split("."))
