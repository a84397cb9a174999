"""JSON Schema of config files, for editors and other tools.

pydantic makes the schema of each class. This module adds what pydantic does not know: the tags of nested configs
(`kind`), the `version`, descriptions of inherited fields, and defaults in the form of a file.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, cast, override

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from modelwright.config.model.base import ModelConfig
from modelwright.config.model.kind_registry import RUN, config_class_for
from modelwright.config.run.run import RunConfig
from modelwright.config.strict.by_kind import ByKind
from modelwright.config.strict.config_class import Config
from modelwright.config.strict.plain_data import RUN_KEY, plain_value

__all__ = ["field_descriptions", "json_schema"]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_REF = "#/$defs/"


def json_schema(kind: str) -> dict[str, Any]:
    """Return the JSON Schema of a file.

    Args:
        kind: A registered kind of model, for a file of a model alone, or `run`, for a file of a run.

    Returns:
        A schema of draft 2020-12, as plain data.

    Raises:
        ConfigError: If there is no such kind.
    """
    cls: type[Config] = RunConfig if kind == RUN else config_class_for(kind)
    definitions = _Definitions()
    name = definitions.add(cls)
    top = definitions.found.pop(name)
    head = {"$schema": _DIALECT, "title": f"modelwright {kind}"}
    return {**head, **top, "$defs": dict(sorted(definitions.found.items()))}


def field_descriptions(cls: type) -> dict[str, str]:
    """Return the docstrings of the fields of a config class, including inherited fields.

    Args:
        cls: A config class.

    Returns:
        Docstring by field, without the fields that have none.
    """
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        fields = cast("dict[str, Any]", vars(base).get("__pydantic_fields__", {}))
        found |= {name: field.description for name, field in fields.items() if field.description}
    return found


class _Generator(GenerateJsonSchema):
    """pydantic's generator, without titles that only repeat the names of the fields."""

    @override
    def default_schema(self, schema: Any) -> Any:
        return self.generate_inner(schema["schema"])  # `_finished` writes the defaults in the form of a file

    @override
    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


class _Definitions:
    """Definitions of the classes of a schema, one for each class."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, Any]] = {}
        self._names: dict[type, str] = {}

    def add(self, cls: type) -> str:
        """Add the definition of a class and of all classes in it.

        Args:
            cls: A config class.

        Returns:
            Name of the definition.
        """
        if cls not in self._names:
            taken = set(self._names.values())
            name = cls.__name__ if cls.__name__ not in taken else f"{cls.__module__}.{cls.__name__}"
            self._names[cls] = name
            self.found[name] = {}
            self.found[name] |= self._definition(cls)
        return self._names[cls]

    def _definition(self, cls: type) -> dict[str, Any]:
        """Return the schema of one class."""
        made = TypeAdapter(cls).json_schema(schema_generator=_Generator)
        for name, definition in made.pop("$defs", {}).items():
            self.found.setdefault(name, definition)
        docs, hints = field_descriptions(cls), typing.get_type_hints(cls, include_extras=True)
        properties: dict[str, Any] = {}
        for field in dataclasses.fields(cast("Any", cls)):
            schema = self._nested(hints[field.name]) or dict(made["properties"][field.name])
            properties[field.name] = _finished(schema, field, docs.get(field.name))
        made = {"description": _first_line(cls), **made, "properties": {**_tags(cls), **properties}}
        made.pop("title", None)
        required = [*_required_tags(cls), *made.pop("required", [])]
        return {**made, **({"required": required} if required else {})}

    def _nested(self, hint: Any) -> dict[str, Any] | None:
        """Return the schema of a field that contains a config; None for any other field."""
        classes = _nested_classes(hint)
        if not classes:
            return None
        options: list[dict[str, Any]] = [{"$ref": f"{_REF}{self.add(cls)}"} for cls in classes]
        if types.NoneType in typing.get_args(hint):
            options.append({"type": "null"})
        return options[0] if len(options) == 1 else {"oneOf": options}


def _nested_classes(hint: Any) -> list[type]:
    """Return the config classes that a field may contain."""
    if isinstance(hint, type):
        return [hint] if issubclass(hint, Config) else []
    inner = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Annotated:
        for marker in inner[1:]:
            if isinstance(marker, ByKind):
                members = (marker.member(kind) for kind in sorted(marker.kinds()))
                return [member for member in members if member is not None]
        inner = inner[:1]
    return [found for one in inner for found in _nested_classes(one)]


def _tags(cls: type) -> dict[str, Any]:
    """Return the properties that belong to the class: `kind`, and the version of a model."""
    tags: dict[str, Any] = {}
    kind, version = getattr(cls, "kind", None), getattr(cls, "version", None)
    if kind is not None:
        tags["kind"] = {"const": kind, "description": _first_line(cls)}
    if version is not None:
        text = "Version of the fields; a file without one is of version 1."
        tags["version"] = {"const": version, "description": text}
    return tags


def _required_tags(cls: type) -> list[str]:
    """Return the tags that a file must contain."""
    required = ["kind"] if getattr(cls, "kind", None) is not None else []
    if issubclass(cls, ModelConfig) and cls.version > 1:
        required.append("version")
    return [RUN_KEY] if cls is RunConfig else required


def _finished(schema: dict[str, Any], field: "dataclasses.Field[Any]", text: str | None) -> dict[str, Any]:
    """Add the description and the default of a field to its schema."""
    schema.pop("default", None)
    if field.name == RUN_KEY:
        schema["const"] = field.default
    if text:
        schema["description"] = " ".join(text.split())
    if field.default is not dataclasses.MISSING:
        default = plain_value(field.default, full=False)
        if _is_finite(default):
            schema["default"] = default
    return schema


def _is_finite(value: object) -> bool:
    """Return True if JSON can represent a value."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, Mapping):
        return all(map(_is_finite, cast("Mapping[str, object]", value).values()))
    return all(map(_is_finite, cast("list[object]", value))) if isinstance(value, list) else True


def _first_line(cls: type) -> str:
    """Return the first line of a class's docstring."""
    return (cls.__doc__ or cls.__name__).strip().partition("\n")[0]
