"""The root of every exception that modelwright raises on purpose, and the words its messages share.

A message names the thing in backticks, the rule, the value, what exists and what to do. `did_you_mean` adds the
nearest name that exists, so that every package suggests in the same words.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class ModelwrightError(Exception):
    """Something the caller can understand and mend; the message says how.

    Commands print the message alone and exit with 2; anything else that escapes is a defect or a failed run.
    """


class ConformanceError(ModelwrightError):
    """A part does not fit its slot."""

    def __init__(self, subject: str, problems: list[str]) -> None:
        """Put all problems into one message.

        Args:
            subject: What cannot be done, without a full stop.
            problems: Each a clause that ends with its remedy.
        """
        self.subject = subject
        """What cannot be done."""
        self.problems = tuple(problems)
        """What is wrong, one clause each, with its remedy."""
        if len(problems) == 1:
            super().__init__(f"{subject}: {problems[0]}.")
        else:
            super().__init__("\n  - ".join([f"{subject}:", *(f"{problem}." for problem in problems)]))

    def __reduce__(self) -> tuple[type[ConformanceError], tuple[str, list[str]]]:
        """Rebuild from both arguments: an error of a rank travels to the process that started it."""
        return type(self), (self.subject, list(self.problems))


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """The end of a message about an unknown name.

    Args:
        word: What was written.
        options: The names that exist.

    Returns:
        `"; did you mean `x`?"` for the nearest of `options`, or "" when none is near.
    """
    import difflib  # only a message about an error needs it

    near = difflib.get_close_matches(word, list(options), n=1, cutoff=0.6)
    return f"; did you mean `{near[0]}`?" if near else ""
