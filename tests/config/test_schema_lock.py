"""A field does not change by accident: the locks contain the fields of every version."""

import copy
import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest

from modelwright.config import field_descriptions
from tests.config import reference, schema_lock
from tests.config.families import classes, families


@pytest.mark.parametrize("kind", schema_lock.kinds())
def test_the_fields_are_the_locked_ones(kind: str) -> None:
    path = schema_lock.FOLDER / f"{kind}.json"
    assert path.is_file(), f"run `{schema_lock.COMMAND}`"
    message = schema_lock.verdict(kind, json.loads(path.read_text(encoding="utf-8")), schema_lock.locked(kind))
    if message:
        pytest.fail(message, pytrace=False)


def test_no_other_lock_is_there() -> None:
    assert sorted(path.stem for path in schema_lock.FOLDER.iterdir()) == sorted(schema_lock.kinds())


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "gone": lambda fields: fields.pop("qk_norm"),
    "renamed": lambda fields: fields.update(query_norm=fields.pop("qk_norm")),
    "type": lambda fields: fields["qk_norm"]["schema"].update(type="integer"),
    "default": lambda fields: fields["qk_norm"]["schema"].update(default=True),
    "bound": lambda fields: fields["num_layers"]["schema"].update(minimum=2),
    "choice": lambda fields: fields["normalization"]["schema"]["enum"].remove("layernorm"),
    "required": lambda fields: fields.update(new={"required": True, "schema": {"type": "integer"}}),
    "optional": lambda fields: fields.update(new={"required": False, "schema": {"type": "integer", "default": 1}}),
    "wider": lambda fields: fields["normalization"]["schema"]["enum"].append("none"),
    "narrower": lambda fields: fields["activation"]["schema"].update(enum=["swiglu"]),
}


@pytest.mark.parametrize("what", ["gone", "renamed", "type", "default", "bound", "choice", "required", "narrower"])
def test_a_changed_field_needs_a_version(what: str) -> None:
    old, new = schema_lock.locked("gpt"), copy.deepcopy(schema_lock.locked("gpt"))
    CHANGES[what](new["classes"][""])
    message = schema_lock.verdict("gpt", old, new)
    assert message.startswith("files of `gpt` changed, but their version is 1 still:")
    assert 'Raise `version` of the class to 2, write\n  `@migration("gpt", 1)` beside the class' in message
    assert message.endswith(f"and run `{schema_lock.COMMAND}`.")
    new["version"] = 2
    assert schema_lock.verdict("gpt", old, new).startswith("the lock file of `gpt` is behind; run ")


@pytest.mark.parametrize("what", ["optional", "wider"])
def test_what_old_files_do_not_feel_needs_none(what: str) -> None:
    old, new = schema_lock.locked("gpt"), copy.deepcopy(schema_lock.locked("gpt"))
    CHANGES[what](new["classes"][""])
    assert schema_lock.verdict("gpt", old, new).startswith("the lock file of `gpt` is behind; run ")
    assert schema_lock.verdict("gpt", old, old) == ""


def test_a_fixed_value_is_a_choice_of_one() -> None:
    old, new = (
        {"version": 1, "classes": {"": {"kind": {"required": False, "schema": schema}}}}
        for schema in (
            {"type": "string", "const": "a", "default": "a"},
            {"type": "string", "enum": ["a", "b"], "default": "a"},
        )
    )
    assert schema_lock.changes(old, new)[0] == []
    assert schema_lock.changes(new, old)[0] != []


def test_the_reference_is_what_the_classes_say() -> None:
    for name, text in reference.pages().items():
        found = (reference.FOLDER / name).read_text(encoding="utf-8")
        assert found == text, f"docs/config/{name} is behind; run `{schema_lock.COMMAND}`"


def test_every_field_is_explained() -> None:
    missing = [
        f"{cls.__name__}.{field.name}"
        for cls in classes()
        for field in dataclasses.fields(cls)
        if field.name not in field_descriptions(cls)
    ]
    assert missing == [], "write a docstring under each field"


def test_families_inherit_from_what_decoders_share_and_nothing_else() -> None:
    shared = ["ExpertsConfig", "DecoderConfig", "ModelConfig", "Config", "ABC", "object"]
    for cls in families():
        assert [base.__name__ for base in cls.__mro__] in ([cls.__name__, *shared], [cls.__name__, *shared[1:]])
