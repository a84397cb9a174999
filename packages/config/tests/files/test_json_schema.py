"""The JSON Schema of a kind: what an editor needs, and what files are."""

import enum
import json
import math
from typing import Annotated, Any, ClassVar

import pytest

from modelwright.config import (
    Config,
    ConfigError,
    ModelConfig,
    OneOf,
    config_class,
    dumps,
    field_descriptions,
    json_schema,
    loads,
    register_config,
)
from tests.messages import facts


class Shape(enum.Enum):
    """An enum."""

    ROUND = "round"
    SQUARE = "square"


@config_class
class Left(Config):
    """The left one."""

    kind: ClassVar[str] = "left"

    size: int = 1
    """Its size."""


@config_class
class Right(Config):
    """The right one."""

    kind: ClassVar[str] = "right"

    inner: Annotated[Left | None, OneOf(Left)] = None
    """Another in it."""


@register_config
@config_class
class SchemaToyConfig(ModelConfig):
    """A family of the tests.

    With more words.
    """

    kind: ClassVar[str] = "schema-toy"

    width: int
    """A required
    field."""

    limit: float = math.inf
    """No JSON can hold its default."""

    shape: Shape = Shape.ROUND
    """One of an enum."""

    part: Annotated[Left | Right, OneOf(Left, Right)] = Left(size=3)
    """One of two."""

    either: Annotated[Left, OneOf(Left)] | None = None
    """One or none."""

    sizes: tuple[int, ...] = (1, 2)
    """A tuple."""


SCHEMA = json_schema("schema-toy")


def test_the_whole_is_plain() -> None:
    assert json.loads(json.dumps(SCHEMA, allow_nan=False)) == SCHEMA
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert SCHEMA["required"] == ["kind", "width"]
    assert SCHEMA["additionalProperties"] is False


def test_fields_have_descriptions_inherited_ones_too() -> None:
    assert SCHEMA["properties"]["width"]["description"] == "A required field."
    assert SCHEMA["properties"]["engine"]["description"].startswith("Fields of the engine's")
    assert set(field_descriptions(SchemaToyConfig)) == set(SCHEMA["properties"]) - {"kind", "version"}


def test_tagged_unions() -> None:
    assert SCHEMA["properties"]["part"] == {
        "description": "One of two.",
        "oneOf": [{"$ref": "#/$defs/Left"}, {"$ref": "#/$defs/Right"}],
        "default": {"kind": "left", "size": 3},
    }
    assert SCHEMA["properties"]["either"]["oneOf"] == [{"$ref": "#/$defs/Left"}, {"type": "null"}]
    assert SCHEMA["$defs"]["Left"]["properties"]["kind"]["const"] == "left"
    assert SCHEMA["$defs"]["Left"]["required"] == ["kind"]


@pytest.mark.parametrize(("name", "default"), [("sizes", [1, 2]), ("shape", "round"), ("either", None), ("engine", {})])
def test_defaults_are_as_files_write_them(name: str, default: Any) -> None:
    assert SCHEMA["properties"][name]["default"] == default


def test_no_default_that_json_cannot_hold() -> None:
    assert "default" not in SCHEMA["properties"]["limit"]


def test_a_run() -> None:
    schema = json_schema("run")
    assert schema["properties"]["modelwright"]["const"] == 1
    assert schema["required"] == ["modelwright", "model"]
    assert {"$ref": "#/$defs/SchemaToyConfig"} in schema["properties"]["model"]["oneOf"]
    assert schema["properties"]["parallelism"]["$ref"] == "#/$defs/Parallelism"


def test_an_unknown_kind() -> None:
    with pytest.raises(ConfigError, match="`schema-toy`"):
        json_schema("schema-toi")


def test_members_of_enums_come_back() -> None:
    config = SchemaToyConfig(width=1, shape=Shape.SQUARE, limit=-math.inf)
    assert "shape: square\n" in dumps(config)
    for form in ("yaml", "json"):
        assert loads(dumps(config, format=form), format=form) == config  # type: ignore[arg-type]
    with pytest.raises(ConfigError) as caught:
        loads("kind: schema-toy\nwidth: 1\nshape: sqare\n")
    assert facts(caught.value) == 'wrong_value: 3 8 `shape` `round` `square` "sqare" `square`'
