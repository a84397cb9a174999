"""The base classes of all exceptions and warnings of modelwright.

A message names the thing in backticks, the rule, the value, the alternatives and the remedy.
"""

from __future__ import annotations


class ModelwrightError(Exception):
    """A user error. The message explains the cause and the remedy.

    Commands print only the message and exit with status 2. Any other exception is a defect or a failed run.
    """


class ModelwrightWarning(UserWarning):
    """A setting that may not do what the user expects. Commands show it; they hide the warnings of other packages."""


class ConformanceError(ModelwrightError):
    """A part that does not fit its slot."""

    def __init__(self, subject: str, problems: list[str]) -> None:
        """Combine all problems in one message.

        Args:
            subject: The failed operation, without a final period.
            problems: Clauses, each of which ends with its remedy.
        """
        self.subject = subject
        """Failed operation."""
        self.problems = tuple(problems)
        """Problems, one clause each, with remedies."""
        if len(problems) == 1:
            super().__init__(f"{subject}: {problems[0]}.")
        else:
            super().__init__("\n  - ".join([f"{subject}:", *(f"{problem}." for problem in problems)]))

    def __reduce__(self) -> tuple[type[ConformanceError], tuple[str, list[str]]]:
        """Pickle both arguments, because a rank sends its error to the process that started it."""
        return type(self), (self.subject, list(self.problems))
