"""The base of every config class: frozen, keyword-only, strict, and checked by its own rules when it is made.

`@config_class` makes a pydantic dataclass and lets its constructor raise `ConfigError`. A class states its rules across
fields in `problems`. The annotations state the types and bounds of single fields.
"""

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any, cast, dataclass_transform, final

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from modelwright.config.problems.problem import BrokenRulesError, ConfigError, Problem
from modelwright.config.strict.pydantic_errors import problems_of

__all__ = ["AddedLater", "Config", "config_class", "replace"]

_SETTINGS = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True, ser_json_inf_nan="constants")


@final
class AddedLater:
    """Marker of a field that its class got without a new version: `Annotated[bool, AddedLater()] = False`.

    A config with the default of the field means what it meant before, so it keeps its fingerprint.
    """


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(dataclasses.field, Field))
def config_class[T](cls: type[T]) -> type[T]:
    """Make a config class: a frozen, keyword-only, strict dataclass that refuses unknown arguments.

    Args:
        cls: A subclass of `Config`, with annotated fields and a docstring under each.

    Returns:
        The class. Its constructor raises `ConfigError` with everything that is wrong.
    """
    made = cast("type[T]", dataclass(cls, kw_only=True, frozen=True, config=_SETTINGS))
    checked: Any = vars(made)["__init__"]

    @functools.wraps(checked)
    def construct(self: Any, *args: Any, **values: Any) -> None:
        try:
            checked(self, *args, **values)
        except ValidationError as error:
            raise ConfigError(problems_of(error, made, values)) from None

    setattr(made, "__init__", construct)  # noqa: B010  # an assignment to a method is an error for type checkers
    return made


@config_class
class Config:
    """Frozen data with rules: the base of every section of a file, without fields."""

    def problems(self) -> Iterable[Problem]:
        """Return the rules across fields that this config breaks; override it to state rules.

        Returns:
            Problems with paths relative to this config; none by default. Called when every single field is valid.
        """
        return ()

    def __post_init__(self) -> None:
        """Check the rules."""
        problems = tuple(self.problems())
        if problems:
            raise BrokenRulesError(problems)


def replace[ConfigT: Config](config: ConfigT, /, **changes: Any) -> ConfigT:
    """Return a copy with some fields changed, validated like a new config.

    Args:
        config: Any config; it is not changed.
        changes: New values by field name.

    Returns:
        The copy.

    Raises:
        ConfigError: If a name is not a field, or the result is not valid.
    """
    current = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return type(config)(**{**current, **changes})
