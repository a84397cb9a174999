"""What is wrong with a config: all of it at once, each with its place.

A `Problem` is one thing to mend. Checks yield problems whose path is relative to the section that found them; whoever
holds the section prefixes its own name (`under`), and whoever read the file adds file, line and column. `ConfigError`
carries them all and prints one line for each.
"""

import dataclasses
from collections.abc import Iterable

from modelwright.protocols import ModelwrightError

__all__ = ["BrokenRulesError", "ConfigError", "Problem"]


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """One thing to mend in a config."""

    path: str
    """Dotted path of the field, as in `model.hidden_size`; "" for the whole document."""

    message: str
    """One sentence in the project's error template: the thing in backticks, the rule, the value, what to do."""

    line: int | None = None
    """Line in the source, counted from 1; None where the value came from no file."""

    column: int | None = None
    """Column in the source, counted from 1; None where the value came from no file."""

    source: str | None = None
    """Where the value came from: a file name, or an override as it was written."""

    excerpt: tuple[str, int] | None = None
    """A printable value and an index in it, shown below the message with a caret at the index."""

    def __post_init__(self) -> None:
        """Keep the message to its line: what a file holds may stand in it, a key with a line break too."""
        if not self.message.isprintable():
            one_line = "".join(one if one.isprintable() else repr(one)[1:-1] for one in self.message)
            object.__setattr__(self, "message", one_line)

    def __str__(self) -> str:
        """`FILE:LINE:COLUMN: message`, with as much of the place as is known, and the excerpt with its caret below."""
        place = self.source or ("line" if self.line is not None else "")
        if self.line is not None:
            place += f":{self.line}" if self.source else f" {self.line}"
            place += f":{self.column}" if self.column is not None else ""
        return (f"{place}: {self.message}" if place else self.message) + self._marked()

    def _marked(self) -> str:
        """The excerpt, of a long one what is near the index, and the caret."""
        if self.excerpt is None:
            return ""
        text, index = self.excerpt
        start = max(0, index - 30)
        shown = "".join(one if one.isprintable() else "?" for one in text[start : index + 30])
        return f"\n    {shown}\n    {' ' * (index - start)}^"

    def under(self, section: str) -> "Problem":
        """The same problem, seen from one section further out.

        Args:
            section: Name of the field that holds the section in which the problem was found.

        Returns:
            A copy whose path starts with `section`.
        """
        if not self.path:
            return dataclasses.replace(self, path=section)
        joint = "" if self.path.startswith("[") else "."
        return dataclasses.replace(self, path=f"{section}{joint}{self.path}")


class ConfigError(ModelwrightError):
    """A config, a file or an override that cannot be used; says everything that is wrong with it."""

    problems: tuple[Problem, ...]
    """Everything that is wrong, in the order of the source."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        """Sort the problems by their place and write them out.

        Args:
            problems: At least one problem. Those without a place come last.
        """
        self.problems = tuple(sorted(problems, key=_place))
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __reduce__(self) -> tuple[type["ConfigError"], tuple[tuple[Problem, ...]]]:
        """Pickle by the problems, so that the error survives the way from one process to another."""
        return (type(self), (self.problems,))


class BrokenRulesError(ValueError):
    """Carries the problems of one section through pydantic, which turns any `ValueError` into its own error."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        """Keep the problems.

        Args:
            problems: What is wrong, with paths relative to the section.
        """
        super().__init__("; ".join(problem.message for problem in problems))
        self.problems = problems


def _place(problem: Problem) -> tuple[float, float]:
    """The order of the problems of one error."""
    return (
        float("inf") if problem.line is None else problem.line,
        float("inf") if problem.column is None else problem.column,
    )
