"""Problems of a config, all reported at once, each with its place.

A `Problem` is one thing to fix. A check yields problems with paths relative to the section that it checks. The
enclosing section prefixes its own name (`under`), and the reader of the file adds file, line and column. `ConfigError`
contains all problems and prints one line for each.
"""

import dataclasses
from collections.abc import Iterable
from typing import Literal

from modelwright.protocols import ModelwrightError

__all__ = ["BrokenRulesError", "ConfigError", "Problem", "ProblemCode"]

type ProblemCode = Literal[
    "syntax",
    "unreadable",
    "not_plain",
    "duplicate_key",
    "unknown_field",
    "missing_field",
    "not_a_string",
    "wrong_type",
    "wrong_value",
    "wrong_version",
    "without_effect",
    "rule",
]
"""Class of a problem, for programs.

- `syntax`: The text is not YAML, JSON or TOML, or uses a part of it that a config may not use.
- `unreadable`: The file cannot be read at all, or is too large.
- `not_plain`: A value cannot be stored in a file.
- `duplicate_key`: A key is given twice in one mapping.
- `unknown_field`: A key is not a field.
- `missing_field`: A required field is missing.
- `not_a_string`: A value is not a string, but the field is one.
- `wrong_type`: A value has any other wrong type.
- `wrong_value`: A value has the right type, but is out of bounds or not one of the choices.
- `wrong_version`: The version of the data cannot be read.
- `rule`: Any other rule is broken, such as a rule between fields.
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """One thing to fix in a config."""

    path: str
    """Dotted path of the field, as in `model.hidden_size`; "" for the whole document."""

    message: str
    """One sentence in the project's error template: the thing in backticks, the rule, the value, what to do."""

    line: int | None = None
    """Line in the source, counted from 1. None: not known."""

    column: int | None = None
    """Column in the source, counted from 1. None: not known."""

    source: str | None = None
    """Origin of the value: a file name, or an override as it was written."""

    excerpt: tuple[str, int] | None = None
    """Printable value and an index into it, shown below the message with a caret at the index."""

    code: ProblemCode = dataclasses.field(default="rule", kw_only=True)
    """Class of the problem. Programs must use it instead of the message, because messages may be reworded."""

    def __post_init__(self) -> None:
        """Keep the message on one line, because a key from a file may contain a line break."""
        if not self.message.isprintable():
            one_line = "".join(one if one.isprintable() else repr(one)[1:-1] for one in self.message)
            object.__setattr__(self, "message", one_line)

    def __str__(self) -> str:
        """Return `FILE:LINE:COLUMN: message`, as far as the place is known, then the excerpt with its caret."""
        place = self.source or ("line" if self.line is not None else "")
        if self.line is not None:
            place += f":{self.line}" if self.source else f" {self.line}"
            place += f":{self.column}" if self.column is not None else ""
        return (f"{place}: {self.message}" if place else self.message) + self._marked()

    def _marked(self) -> str:
        """Return the part of the excerpt near the index, and the caret below it."""
        if self.excerpt is None:
            return ""
        text, index = self.excerpt
        start = max(0, index - 30)
        near = "".join(one if one.isprintable() else "?" for one in text[start : index + 30])
        return f"\n    {near}\n    {' ' * (index - start)}^"

    def under(self, section: str) -> "Problem":
        """Return the same problem as seen from the enclosing section.

        Args:
            section: Name of the field that contains the section in which the problem was found.

        Returns:
            A copy with a path that starts with `section`.
        """
        if not self.path:
            return dataclasses.replace(self, path=section)
        joint = "" if self.path.startswith("[") else "."
        return dataclasses.replace(self, path=f"{section}{joint}{self.path}")


class ConfigError(ModelwrightError):
    """Error for a config, a file or an override that cannot be used; reports everything that is wrong with it."""

    problems: tuple[Problem, ...]
    """Everything that is wrong, in the order of the source."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        """Sort the problems by place and make the text of the error.

        Args:
            problems: At least one problem. Those without a place come last.
        """
        self.problems = tuple(sorted(problems, key=_place))
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __reduce__(self) -> tuple[type["ConfigError"], tuple[tuple[Problem, ...]]]:
        """Pickle the problems, so that a rank can send the error to the process that started it."""
        return (type(self), (self.problems,))


class BrokenRulesError(ValueError):
    """Error that carries the problems of one section through pydantic, which wraps any `ValueError`."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        """Store the problems.

        Args:
            problems: Problems with paths relative to the section.
        """
        super().__init__("; ".join(problem.message for problem in problems))
        self.problems = problems


def _place(problem: Problem) -> tuple[float, float]:
    """Return the sort key of a problem: its line, then its column."""
    return (
        float("inf") if problem.line is None else problem.line,
        float("inf") if problem.column is None else problem.column,
    )
