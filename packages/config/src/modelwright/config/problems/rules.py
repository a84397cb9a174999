"""Rules that several sections share, worded once."""

import dataclasses
import math
from collections.abc import Iterable, Iterator
from typing import Any

from modelwright.config.problems.problem import Problem

__all__ = ["divides", "divisors", "multiple_of", "without_effect"]


def multiple_of(name: str, value: int, divisor: int, of: str, *, axis: str | None = None) -> Iterator[Problem]:
    """Check that a field is a multiple of a number that other fields give.

    Args:
        name: Field that must be a multiple; the problem is reported there.
        value: Value of the field.
        divisor: Number that must divide `value`.
        of: Name of `divisor` in the message, as in "`tensor`".
        axis: Field whose value is `divisor`, if that field may be changed instead.

    Yields:
        A problem if `divisor` does not divide `value`, with the nearest values that work.
    """
    if divisor >= 1 and value % divisor:
        below = value // divisor * divisor
        use = f"{below} or {below + divisor}" if below else f"{divisor}"
        if axis is not None:
            every = divisors(value)
            nearest = [*[one for one in every if one < divisor][-1:], *[one for one in every if one > divisor][:1]]
            use += f", or {' or '.join(map(str, nearest))} for `{axis}`"
        yield Problem(
            name, f"`{name}` must be a multiple of {of}, but {value} is not a multiple of {divisor}; use {use}."
        )


def without_effect(config: Any, names: Iterable[str], where: str) -> Iterator[Problem]:
    """Check that fields that nothing reads have their defaults.

    Args:
        config: A config; a field without a default may not be null.
        names: Fields that have no effect.
        where: The circumstance, as in "without attention layers".

    Yields:
        A problem for each field with another value.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    for name in names:
        value, default = getattr(config, name), defaults[name]
        if value != default and not (default is dataclasses.MISSING and value is None):
            given = f"`{value}`" if isinstance(value, str | bool | int | float | tuple) else "a value"
            message = f"`{name}` must be left out {where}, because nothing reads it, but {given} was given."
            yield Problem(name, message, code="without_effect")


def divides(name: str, value: int, of: str, whole: int) -> Iterator[Problem]:
    """Check that a field divides another field.

    Args:
        name: Field that must divide; the problem is reported there.
        value: Value of the field.
        of: Field that must be divided.
        whole: Value of `of`.

    Yields:
        A problem if `value` does not divide `whole`, with the values that work.
    """
    if whole % value:
        *most, last = [str(number) for number in divisors(whole)]
        use = f"{', '.join(most)} or {last}" if most else last
        yield Problem(name, f"`{name}` must divide `{of}`, but {value} does not divide {whole}; use {use}.")


def divisors(number: int) -> list[int]:
    """Return the smallest divisors of a number, in order, and the number itself.

    Args:
        number: At least 1. It may come from an untrusted file, so at most 10,000 candidates are tried.

    Returns:
        At most the first 12 divisors, and the number itself.
    """
    small = [one for one in range(1, min(math.isqrt(number), 10_000) + 1) if number % one == 0]
    every = sorted({*small, *(number // one for one in small)})
    return every if len(every) <= 12 else [*every[:12], number]
