"""A mapping that cannot change: what lets a config hold free-form fields and still be frozen and hashable."""

from collections.abc import Iterator, Mapping, Sequence
from typing import final

from modelwright.config.problems.problem import BrokenRulesError, Problem

__all__ = ["FrozenMapping", "PlainValue", "frozen_mapping"]

type PlainValue = bool | int | float | str | Sequence[PlainValue] | Mapping[str, PlainValue] | None
"""What a file can hold."""


@final
class FrozenMapping(Mapping[str, PlainValue]):
    """A mapping of names to plain values that is immutable and hashable, all the way down."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, PlainValue] | None = None) -> None:
        """Copy and freeze.

        Args:
            values: Plain values by name; lists become tuples, mappings become `FrozenMapping`.

        Raises:
            BrokenRulesError: If a value is not plain, or a key is not a string.
        """
        self._values: dict[str, PlainValue] = {}
        for key, value in (values or {}).items():
            if not isinstance(key, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers may not be typed
                raise BrokenRulesError((Problem("", f"`{key!r}` must be a string, because it names a field."),))
            self._values[key] = _frozen(value, key)

    def __getitem__(self, key: str) -> PlainValue:
        """The value under a name."""
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        """The names, in the order in which they were given."""
        return iter(self._values)

    def __len__(self) -> int:
        """How many names there are."""
        return len(self._values)

    def __hash__(self) -> int:
        """Equal mappings have equal hashes, in whatever order they were written."""
        return hash(frozenset(self._values.items()))

    def __repr__(self) -> str:
        """As the dict that it was made from."""
        return repr(self._values)


def frozen_mapping(value: object) -> FrozenMapping:
    """Freeze what a field was given; the validator of a field that holds free names.

    Args:
        value: Anything.

    Returns:
        The frozen copy.

    Raises:
        BrokenRulesError: If `value` is not a mapping of strings to plain values.
    """
    if isinstance(value, FrozenMapping):
        return value
    if not isinstance(value, Mapping):
        raise BrokenRulesError((Problem("", f"must be a mapping of names to values, but {value!r} was given."),))
    return FrozenMapping(value)  # pyright: ignore[reportUnknownArgumentType]  # the constructor checks the members


def _frozen(value: PlainValue, path: str) -> PlainValue:
    """An immutable copy of one value."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return FrozenMapping(value)
    if isinstance(value, list | tuple):
        return tuple(_frozen(item, path) for item in value)
    rule = "must be a number, a string, true, false, null, a list or a mapping"
    raise BrokenRulesError((Problem(path, f"`{path}` {rule}, but a `{type(value).__name__}` was given."),))
