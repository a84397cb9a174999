"""Rules that many sections share, worded once."""

import math
from collections.abc import Iterator

from modelwright.config.problems.problem import Problem

__all__ = ["divides", "divisors", "multiple_of"]


def multiple_of(name: str, value: int, divisor: int, of: str, *, axis: str | None = None) -> Iterator[Problem]:
    """Rule: one field is a multiple of a number that other fields give.

    Args:
        name: The field that must be a multiple; the problem is reported there.
        value: Its value.
        divisor: What must divide it.
        of: How the message names `divisor`, as in "`tensor`".
        axis: The field whose value `divisor` is, where that may be changed instead.

    Yields:
        A problem, with the nearest values that work, of the axis too, if `divisor` does not divide `value`.
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


def divides(name: str, value: int, of: str, whole: int) -> Iterator[Problem]:
    """Rule: one field divides another.

    Args:
        name: The field that must divide; the problem is reported there.
        value: Its value.
        of: The field that it must divide.
        whole: The value of that field.

    Yields:
        A problem, with the values that work, if `value` does not divide `whole`.
    """
    if whole % value:
        *most, last = [str(number) for number in divisors(whole)]
        use = f"{', '.join(most)} or {last}" if most else last
        yield Problem(name, f"`{name}` must divide `{of}`, but {value} does not divide {whole}; use {use}.")


def divisors(number: int) -> list[int]:
    """The divisors of a number, in order; of a number beyond 10^8 those that are easily found.

    Args:
        number: At least 1. It may come from a stranger's file: the time this takes does not grow with it.

    Returns:
        At most the first 12 of them, and the number itself.
    """
    small = [one for one in range(1, min(math.isqrt(number), 10_000) + 1) if number % one == 0]
    every = sorted({*small, *(number // one for one in small)})
    return every if len(every) <= 12 else [*every[:12], number]
