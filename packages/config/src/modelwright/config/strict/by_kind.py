"""Fields that contain one of several configs, selected by the key `kind`.

`kind` is a class variable, not a field. An object of the right class needs no tag. A tag in a file selects a class that
is already registered or listed, never a class that the file names by its import path. The markers of this module are
used in `Annotated`: `wrap: Annotated[NoWrap | MegatronDDP, OneOf(NoWrap, MegatronDDP)]`.
"""

import abc
import json
from collections.abc import Iterable, Mapping
from typing import Any, cast, final, override

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, TypeAdapter, ValidationInfo
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from modelwright.config.problems.problem import ProblemCode
from modelwright.config.problems.wording import quoted_list, shown
from modelwright.protocols import did_you_mean

__all__ = ["ByKind", "OneOf", "expected_error", "key_error", "make"]


_ADAPTERS: dict[type, TypeAdapter[object]] = {}


class ByKind(abc.ABC):
    """Marker of a field that selects the class of a nested config by its `kind`."""

    @abc.abstractmethod
    def base(self) -> type | tuple[type, ...]:
        """Return the classes of the instances that the field accepts."""

    @abc.abstractmethod
    def kinds(self) -> Iterable[str]:
        """Return the kinds that exist."""

    @abc.abstractmethod
    def member(self, kind: str) -> type | None:
        """Return the class of a kind. None: there is no such kind."""

    def split(self, data: Mapping[str, object]) -> tuple[type, dict[str, object]]:
        """Separate the `kind` of plain data from its fields.

        Args:
            data: Plain data of one config, with its `kind`.

        Returns:
            The class, and the data of its fields.

        Raises:
            PydanticCustomError: If `kind` is missing, not a string, or not the name of a class. Validation turns it
                into a problem at `kind`.
        """
        if "kind" not in data:
            raise key_error("kind", f"is missing; use {quoted_list(self.kinds(), 'or')}.", "missing_field")
        kind = data["kind"]
        if not isinstance(kind, str):
            raise key_error("kind", f"must be a string: {quoted_list(self.kinds(), 'or')}.", "wrong_type")
        found = self.member(kind)
        if found is None:
            raise key_error("kind", self.unknown(kind), "wrong_value")
        return found, {key: value for key, value in data.items() if key != "kind"}

    def unknown(self, kind: str) -> str:
        """Return the message about an unknown kind, without the name of the field at its beginning."""
        near = did_you_mean(kind, self.kinds()) or "."
        return f"must be {quoted_list(self.kinds(), 'or')}, but `{shown(kind)}` was given{near}"

    def validate(self, value: object, info: ValidationInfo) -> object:
        """Make the nested config; pydantic calls this.

        Args:
            value: An instance, or, while plain data is read, a mapping with a `kind`.
            info: pydantic's description of the mode.

        Returns:
            An instance of one of the classes.

        Raises:
            PydanticCustomError: If `value` is neither.
            ValidationError: If the mapping is not a valid config.
        """
        if isinstance(value, self.base()):
            return value
        if info.mode != "json" or not isinstance(value, dict):
            raise expected_error("a mapping with a `kind`" if info.mode == "json" else f"a config ({self._names()})")
        cls, fields = self.split(cast("dict[str, object]", value))
        return make(cls, fields)

    def _names(self) -> str:
        """Return the names of the accepted classes, for a message."""
        base = self.base()
        return quoted_list([cls.__name__ for cls in (base if isinstance(base, tuple) else (base,))], "or")

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Let `validate` alone validate the field."""
        return core_schema.with_info_plain_validator_function(self.validate)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Return an empty schema, because pydantic does not know the members; `json_schema` adds them."""
        return {}


@final
class OneOf(ByKind):
    """Marker of a field that contains one of a closed list of classes."""

    def __init__(self, *members: type) -> None:
        """List the classes.

        Args:
            members: Config classes, each with a different `kind`.
        """
        self._members: dict[str, type] = {str(vars(cls)["kind"]): cls for cls in members}

    @override
    def base(self) -> tuple[type, ...]:
        return tuple(self._members.values())

    @override
    def kinds(self) -> Iterable[str]:
        return self._members.keys()

    @override
    def member(self, kind: str) -> type | None:
        return self._members.get(kind)


def make(cls: type, data: Mapping[str, object]) -> object:
    """Make a config of plain data in pydantic's JSON mode, the only mode that is strict and accepts nested data.

    Args:
        cls: A config class.
        data: Plain data of its fields.

    Returns:
        An instance.

    Raises:
        ValidationError: If the data is not valid.
    """
    if cls not in _ADAPTERS:
        _ADAPTERS[cls] = TypeAdapter(cls)
    return _ADAPTERS[cls].validate_json(json.dumps(data))


def key_error(key: str, rest: str, code: ProblemCode) -> PydanticCustomError:
    """Return an error about a key that is not a field of the class.

    Args:
        key: `kind` or `version`.
        rest: The message without the path at its beginning.
        code: Class of the problem.

    Returns:
        The error to raise; validation adds the path.
    """
    return PydanticCustomError("modelwright_key", "{rest}", {"key": key, "rest": rest, "code": code})


def expected_error(expected: str) -> PydanticCustomError:
    """Return an error about a value of the wrong type.

    Args:
        expected: Name of the type that is required, as in "a mapping".

    Returns:
        The error to raise; validation adds the path and the value.
    """
    return PydanticCustomError("modelwright_expected", "{expected}", {"expected": expected})
