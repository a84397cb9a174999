"""A file as checked plain data, with the place of everything in it."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from modelwright.config.problems.problem import ConfigError, Problem
from modelwright.config.problems.pydantic_errors import Loc, dotted

__all__ = ["Document", "Mark", "Place"]


class Mark(NamedTuple):
    """A place in a text, counted from 1."""

    line: int
    column: int


class Place(NamedTuple):
    """Where an entry stands: its key, or its start in a list, and its value."""

    key: Mark
    value: Mark


@dataclasses.dataclass(slots=True)
class Document:
    """What a reader makes of a text. Problems found while reading do not stop it unless nothing more can be read."""

    source: str | None
    """Name of the file; None for a text."""

    data: object = None
    """Plain data."""

    places: dict[str, Place] = dataclasses.field(default_factory=dict[str, Place])
    """Where each dotted path stands."""

    problems: list[Problem] = dataclasses.field(default_factory=list[Problem])
    """What is wrong with the text itself."""

    def report(self, mark: Mark, message: str, loc: Loc = ()) -> None:
        """Note a problem of the text.

        Args:
            mark: Where.
            message: What is wrong, in the error template.
            loc: The entry that it concerns; what validation says about that entry is then left out.
        """
        self.problems.append(Problem(dotted(loc), message, mark.line, mark.column, self.source))

    def fail(self, mark: Mark, message: str, loc: Loc = ()) -> ConfigError:
        """Note a problem after which nothing more can be read.

        Args:
            mark: Where.
            message: What is wrong, in the error template.
            loc: The entry that it concerns.

        Returns:
            The error to raise, with everything found so far.
        """
        self.report(mark, message, loc)
        return ConfigError(self.problems)

    def located(self, problem: Problem) -> Problem:
        """Add the place to a problem that validation found.

        Args:
            problem: Its path may name an entry that is not there; the nearest section that is there is shown.

        Returns:
            The problem with source, line and column.
        """
        path, mark = problem.path, None
        while mark is None:
            place = self.places.get(path)
            if place is not None:
                mark = place.value if path == problem.path and not self._concerns_key(problem) else place.key
            elif not path:
                mark = Mark(1, 1)
            path = _parent(path)
        return dataclasses.replace(problem, line=mark.line, column=mark.column, source=self.source)

    def news(self, problems: Iterable[Problem]) -> Iterator[Problem]:
        """Leave out what follows from a problem that reading has already found.

        Args:
            problems: What validation says.

        Yields:
            The problems that are neither at nor below such a place, with their own places.
        """
        bad = {found.path for found in self.problems if found.path}
        for problem in problems:
            path = problem.path
            while path and path not in bad:
                path = _parent(path)
            if not path:
                yield self.located(problem)

    @staticmethod
    def _concerns_key(problem: Problem) -> bool:
        """Whether a problem is about the name of an entry, not its value."""
        return " is not a field of " in problem.message


def _parent(path: str) -> str:
    """The path of the section or list that holds an entry."""
    cut = max(path.rfind("."), path.rfind("["))
    return path[:cut] if cut > 0 else ""
