"""Immutable mapping, so that a config with free-form fields is still frozen and hashable."""

from collections.abc import Iterator, Mapping, Sequence
from typing import final

from modelwright.config.problems.problem import BrokenRulesError, Problem
from modelwright.config.strict.by_kind import expected_error

__all__ = ["FrozenMapping", "PlainValue", "frozen_mapping"]

type PlainValue = bool | int | float | str | Sequence[PlainValue] | Mapping[str, PlainValue] | None
"""Any value that a file can contain."""


@final
class FrozenMapping(Mapping[str, PlainValue]):
    """A mapping of names to plain values that is immutable and hashable, all the way down."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, PlainValue] | None = None) -> None:
        """Copy and freeze the values.

        Args:
            values: Plain values by name; lists become tuples, mappings become `FrozenMapping`. None: no values.

        Raises:
            BrokenRulesError: If a value is not plain, or a key is not a string.
        """
        self._values: dict[str, PlainValue] = {}
        for key, value in (values or {}).items():
            if not isinstance(key, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers may not be typed
                message = f"`{key!r}` must be a string, because it names a field."
                raise BrokenRulesError((Problem("", message, code="not_plain"),))
            self._values[key] = _frozen(value, key)

    def __getitem__(self, key: str) -> PlainValue:
        """Return the value of a name."""
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names, in the order in which they were given."""
        return iter(self._values)

    def __len__(self) -> int:
        """Return the number of names."""
        return len(self._values)

    def __hash__(self) -> int:
        """Return a hash that does not depend on the order of the names."""
        return hash(frozenset(self._values.items()))

    def __repr__(self) -> str:
        """Return the representation of the dict with the same items."""
        return repr(self._values)


def frozen_mapping(value: object) -> FrozenMapping:
    """Validate and freeze the value of a field with free-form names.

    Args:
        value: Any value.

    Returns:
        The frozen copy.

    Raises:
        PydanticCustomError: If `value` is not a mapping.
        BrokenRulesError: If a key is not a string, or a value is not plain.
    """
    if isinstance(value, FrozenMapping):
        return value
    if not isinstance(value, Mapping):
        raise expected_error("a mapping of names to values")
    return FrozenMapping(value)  # pyright: ignore[reportUnknownArgumentType]  # the constructor checks the members


def _frozen(value: PlainValue, path: str) -> PlainValue:
    """Return an immutable copy of one value."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return FrozenMapping(value)
    if isinstance(value, list | tuple):
        return tuple(_frozen(item, path) for item in value)
    rule = "must be a number, a string, true, false, null, a list or a mapping"
    message = f"`{path}` {rule}, but a `{type(value).__name__}` was given."
    raise BrokenRulesError((Problem(path, message, code="not_plain"),))
