"""Fields that hold one of several configs, told apart by the key `kind`.

`kind` is a class variable, not a field: an object of the right class needs no tag, and a tag in a file selects a class
that is already registered or listed, never one that the file names by its path. These markers stand in `Annotated`:
`wrap: Annotated[NoWrap | MegatronDDP, OneOf(NoWrap, MegatronDDP)]`.
"""

import abc
import json
from collections.abc import Iterable, Mapping
from typing import Any, cast, final, override

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, TypeAdapter, ValidationInfo
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from modelwright.protocols import did_you_mean

__all__ = ["ByKind", "OneOf", "key_error", "make", "quoted_list", "shown"]


_ADAPTERS: dict[type, TypeAdapter[object]] = {}


class ByKind(abc.ABC):
    """Chooses the class of a nested config by its `kind`."""

    @abc.abstractmethod
    def base(self) -> type | tuple[type, ...]:
        """The classes whose instances the field takes as they are."""

    @abc.abstractmethod
    def kinds(self) -> Iterable[str]:
        """The kinds that exist."""

    @abc.abstractmethod
    def member(self, kind: str) -> type | None:
        """The class of a kind, or None if there is none."""

    def split(self, data: Mapping[str, object]) -> tuple[type, dict[str, object]]:
        """Take the tag off plain data.

        Args:
            data: Plain data of one config, with its `kind`.

        Returns:
            The class, and the data of its fields.

        Raises:
            PydanticCustomError: If `kind` is missing, not a string, or not the name of a class; `validate` and
                the codec turn it into a problem at `kind`.
        """
        if "kind" not in data:
            raise key_error("kind", f"is missing; use {quoted_list(self.kinds(), 'or')}.")
        kind = data["kind"]
        if not isinstance(kind, str):
            raise key_error("kind", f"must be a string: {quoted_list(self.kinds(), 'or')}.")
        found = self.member(kind)
        if found is None:
            raise key_error("kind", self.unknown(kind))
        return found, {key: value for key, value in data.items() if key != "kind"}

    def unknown(self, kind: str) -> str:
        """What to say of a kind that does not exist, after the name of the field."""
        near = did_you_mean(kind, self.kinds()) or "."
        return f"must be {quoted_list(self.kinds(), 'or')}, but `{shown(kind)}` was given{near}"

    def validate(self, value: object, info: ValidationInfo) -> object:
        """Make the nested config; pydantic calls this.

        Args:
            value: An instance, or, while reading plain data, a mapping with a `kind`.
            info: pydantic's, which tells the two apart.

        Returns:
            An instance of one of the classes.

        Raises:
            PydanticCustomError: If it is neither.
            ValidationError: If the mapping does not make a valid config.
        """
        if isinstance(value, self.base()):
            return value
        if info.mode != "json" or not isinstance(value, dict):
            expected = "a mapping with a `kind`" if info.mode == "json" else f"a config ({_names(self.base())})"
            raise PydanticCustomError("modelwright_expected", "{expected}", {"expected": expected})
        cls, fields = self.split(cast("dict[str, object]", value))
        return make(cls, fields)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """The field is validated by `validate` alone."""
        return core_schema.with_info_plain_validator_function(self.validate)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Pydantic knows nothing of the members; `json_schema` writes them in."""
        return {}


@final
class OneOf(ByKind):
    """One of a closed list of classes."""

    def __init__(self, *members: type) -> None:
        """List the classes.

        Args:
            members: Config classes, each with a `kind` of its own.
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
    """Make a config of plain data: in pydantic's JSON mode, the only one that is strict and takes nested data.

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


def quoted_list(names: Iterable[str], last: str = "and") -> str:
    """Names in backticks, as a phrase.

    Args:
        names: The names.
        last: The word before the last one.

    Returns:
        "`a`, `b` or `c`"; "nothing" if there are none.
    """
    quoted = [f"`{name}`" for name in names]
    if len(quoted) < 2:
        return quoted[0] if quoted else "nothing"
    return f"{', '.join(quoted[:-1])} {last} {quoted[-1]}"


def shown(text: str, limit: int = 60) -> str:
    """A string from a file, safe and short enough for a message.

    Args:
        text: Anything.
        limit: The most characters to show.

    Returns:
        The text with control characters escaped, cut after `limit` characters.
    """
    if len(text) <= limit and text.isprintable():
        return text
    clean = "".join(ch if ch.isprintable() else repr(ch)[1:-1] for ch in text[: limit + 1])
    return clean if len(clean) <= limit else clean[:limit] + "…"


def _names(classes: type | tuple[type, ...]) -> str:
    """Class names for a message."""
    return quoted_list([cls.__name__ for cls in (classes if isinstance(classes, tuple) else (classes,))], "or")


def key_error(key: str, rest: str) -> PydanticCustomError:
    """An error about a key of the value at hand that is no field.

    Args:
        key: `kind` or `version`.
        rest: The message after the name of the key.

    Returns:
        The error to raise; the messages of `_explain` put the path before it.
    """
    return PydanticCustomError("modelwright_key", "{rest}", {"key": key, "rest": rest})
