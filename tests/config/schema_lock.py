"""Locks: the fields of every kind of file in its current version, and the changes that need a new version.

`tests/config/schemas/KIND.json` contains them. A change needs a new version and a migration if a file of the same
version is then refused or has another meaning. A new field with a default does not, and neither does a wider choice.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modelwright.config import config_class_for, json_schema
from modelwright.config.run.run import FILE_VERSION
from tests.config.families import families

FOLDER = Path(__file__).parent / "schemas"
COMMAND = "uv run python -m tests.config.regenerate"
WORDS = ("description", "title")


def kinds() -> list[str]:
    """Return every kind of file of this repository."""
    return ["run", *(cls.kind for cls in families())]


def version_of(kind: str) -> int:
    """Return the current version of a kind."""
    return FILE_VERSION if kind == "run" else config_class_for(kind).version


def locked(kind: str) -> dict[str, Any]:
    """Return the content of the lock file of a kind."""
    schema = json_schema(kind)
    definitions = schema.pop("$defs")
    if kind == "run":
        schema["properties"]["model"] = {"description": "Locked by the files of the families."}
    classes = {"": _fields(schema), **{name: _fields(definitions[name]) for name in _reached(schema, definitions)}}
    return {"version": version_of(kind), "classes": dict(sorted(classes.items()))}


def changes(old: dict[str, Any], new: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Return the breaking and the harmless differences between two locks."""
    breaking, harmless = list[str](), list[str]()
    for name in sorted({*old["classes"], *new["classes"]}):
        before, after = old["classes"].get(name), new["classes"].get(name)
        if before is None or after is None:
            harmless.append(f"`{name}` is {'new' if before is None else 'gone'}")
            continue
        for field, was, now in _pairs(before, after):
            path = f"{name}.{field}".removeprefix(".")
            if was is None:
                (breaking if now["required"] else harmless).append(f"`{path}` is new")
            elif now is None:
                breaking.append(f"`{path}` is gone")
            elif was != now:
                (harmless if _is_wider(was, now) else breaking).append(f"`{path}` was {was} and is {now}")
    return breaking, harmless


def verdict(kind: str, old: dict[str, Any], new: dict[str, Any]) -> str:
    """Return the required action for a difference; "" if there is no difference."""
    breaking, harmless = changes(old, new)
    if breaking and old["version"] == new["version"]:
        number = new["version"]
        constant = "FILE_VERSION in modelwright/config/_run.py" if kind == "run" else "`version` of the class"
        return "\n  ".join(
            [
                f"files of `{kind}` changed, but their version is {number} still:",
                *breaking,
                f"Old files must stay readable. Raise {constant} to {number + 1}, write",
                f'`@migration("{kind}", {number})` beside the class, put a file of version {number} and what it must',
                f"become into tests/config/golden/, and run `{COMMAND}`.",
            ]
        )
    if old != new:
        lines = [*breaking, *harmless] or [f"version {old['version']} → {new['version']}"]
        return "\n  ".join([f"the lock file of `{kind}` is behind; run `{COMMAND}`:", *lines])
    return ""


def text(data: dict[str, Any]) -> str:
    """Return the text of a lock file."""
    return json.dumps(data, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _pairs(before: dict[str, Any], after: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for field in sorted({*before, *after}):
        yield field, before.get(field), after.get(field)


def _fields(definition: dict[str, Any]) -> dict[str, Any]:
    required = definition.get("required", [])
    properties = {name: one for name, one in definition.get("properties", {}).items() if name != "version"}
    return {name: {"schema": _bare(schema), "required": name in required} for name, schema in properties.items()}


def _bare(schema: Any) -> Any:
    """Return a schema without descriptions and titles."""
    if isinstance(schema, dict):
        return {key: _bare(value) for key, value in schema.items() if key not in WORDS}
    return [_bare(item) for item in schema] if isinstance(schema, list) else schema


def _reached(schema: Any, definitions: dict[str, Any]) -> list[str]:
    found: list[str] = []
    waiting = [schema]
    while waiting:
        for name in _references(waiting.pop()):
            if name not in found:
                found.append(name)
                waiting.append(definitions[name])
    return found


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(schema.get("$ref"), str):
            yield schema["$ref"].removeprefix("#/$defs/")
        for value in schema.values():
            yield from _references(value)
    elif isinstance(schema, list):
        for item in schema:
            yield from _references(item)


def _of_choices(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema with a constant as a choice of one value."""
    return {"enum" if key == "const" else key: [value] if key == "const" else value for key, value in schema.items()}


def _is_wider(was: dict[str, Any], now: dict[str, Any]) -> bool:
    """Return True if every valid value remains valid, and the default remains the same."""
    if was["required"] < now["required"]:
        return False
    before, after = _of_choices(was["schema"]), _of_choices(now["schema"])
    for key in ("oneOf", "anyOf", "enum"):
        old, new = before.pop(key, None), after.pop(key, None)
        if (old is None) != (new is None) or any(option not in (new or ()) for option in old or ()):
            return False
    return before == after
