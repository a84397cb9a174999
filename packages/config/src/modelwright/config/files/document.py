"""Content of a file as plain data, and the places of its entries."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from modelwright.config.problems.problem import ConfigError, Problem, ProblemCode
from modelwright.config.problems.wording import Loc, dotted

__all__ = ["Document", "Mark", "Place", "mark_at"]


class Mark(NamedTuple):
    """Place in a text, counted from 1."""

    line: int
    column: int


class Place(NamedTuple):
    """Place of an entry: of its key, or of its start in a list, and of its value."""

    key: Mark
    value: Mark


def mark_at(text: str, index: int) -> Mark:
    """Return the place of a character.

    Args:
        text: The text.
        index: Index of the character.
    """
    return Mark(text.count("\n", 0, index) + 1, index - text.rfind("\n", 0, index))


def _no_places() -> Mapping[str, Place]:
    """Return no places."""
    return {}


@dataclasses.dataclass(slots=True)
class Document:
    """Result of a reader. Reading continues after a problem if the rest of the text can still be read."""

    source: str | None
    """Name of the file. None: a text without a name."""

    data: object = None
    """Plain data."""

    problems: list[Problem] = dataclasses.field(default_factory=list[Problem])
    """Problems of the text itself."""

    find_places: Callable[[], Mapping[str, Place]] = _no_places
    """Function that returns the places by dotted path, called when a problem needs a place. Empty for TOML."""

    def report(self, mark: Mark | None, message: str, loc: Loc = (), *, code: ProblemCode = "syntax") -> None:
        """Add a problem of the text.

        Args:
            mark: Place of the problem. None: not known.
            message: One sentence in the error template.
            loc: Location of the entry. Problems that validation finds there are left out.
            code: Class of the problem.
        """
        line, column = mark if mark is not None else (None, None)
        self.problems.append(Problem(dotted(loc), message, line, column, self.source, code=code))

    def fail(self, mark: Mark | None, message: str, *, code: ProblemCode = "syntax") -> ConfigError:
        """Add a problem after which nothing more can be read.

        Args:
            mark: Place of the problem. None: not known.
            message: One sentence in the error template.
            code: Class of the problem.

        Returns:
            The error to raise, with all problems so far.
        """
        self.report(mark, message, code=code)
        return ConfigError(self.problems)

    def start(self) -> Mark | None:
        """Return the place where the data starts. None: not known."""
        place = self.find_places().get("")
        return None if place is None else place.value

    def located(self, problems: Iterable[Problem]) -> Iterator[Problem]:
        """Add places to the problems that validation found, and leave out those that reading has reported already.

        Args:
            problems: Problems of validation.

        Yields:
            The problems that are neither at nor below a reported entry, with source, line and column.
        """
        reported = {found.path for found in self.problems if found.path}
        new = [problem for problem in problems if not any(path in reported for path in _upwards(problem.path))]
        places = self.find_places() if new else _no_places()
        for problem in new:
            mark = self._mark(problem, places)
            line, column = mark if mark is not None else (None, None)
            yield dataclasses.replace(problem, line=line, column=column, source=self.source)

    @staticmethod
    def _mark(problem: Problem, places: Mapping[str, Place]) -> Mark | None:
        """Return the place of a problem; if its entry is missing, the place of the nearest section."""
        for path in _upwards(problem.path):
            if path in places:
                is_about_value = path == problem.path and problem.code != "unknown_field"
                return places[path].value if is_about_value else places[path].key
        return None


def _upwards(path: str) -> Iterator[str]:
    """Iterate over a path and the paths of the sections and lists that contain it, up to ""."""
    while path:
        yield path
        cut = max(path.rfind("."), path.rfind("["))
        path = path[:cut] if cut > 0 else ""
    yield ""
