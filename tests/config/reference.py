"""The reference in `docs/config/`: every field of every class, generated from the classes."""

import dataclasses
import inspect
import json
from pathlib import Path
from typing import Any

from modelwright.config import Config, field_descriptions, json_schema
from modelwright.config.strict.plain_data import plain_value
from tests.config.families import classes, families
from tests.config.schema_lock import locked

FOLDER = Path(__file__).parents[2] / "docs" / "config"


def pages() -> dict[str, str]:
    """Return the text of each page by file name."""
    own = set(families())
    run = [cls for cls in classes() if cls not in own and not _belongs_to_family(cls)]
    found = {"run.md": _page("A run", "Fields of a file with `modelwright: 1`.", "run", run)}
    for family in families():
        held = json_schema(family.kind)["$defs"]
        parts = [family, *(cls for cls in classes() if _belongs_to_family(cls) and cls.__name__ in held)]
        line = f"Fields of a file with `kind: {family.kind}`, and of the section `model` of a run. "
        found[f"{family.kind}.md"] = _page(f"`{family.kind}`", line + f"Version {family.version}.", family.kind, parts)
    return found


def _belongs_to_family(cls: type) -> bool:
    """Return True if a section occurs only in models."""
    return cls.__name__ not in {"RunConfig", *locked("run")["classes"]}


def _page(title: str, line: str, kind: str, parts: list[type[Config]]) -> str:
    schema = json_schema(kind)
    definitions = schema.pop("$defs")
    made = [f"# {title}", "", line, "", "Generated from the classes: `uv run python -m tests.config.regenerate`.", ""]
    for number, cls in enumerate(parts):
        properties = (schema if number == 0 else definitions[cls.__name__])["properties"]
        made += _section(cls, properties)
    return "\n".join(made)


def _section(cls: type[Config], properties: dict[str, Any]) -> list[str]:
    tag = getattr(cls, "kind", None)
    head = f"## `{cls.__name__}`" + (f": `kind: {tag}`" if tag else "")
    docs = field_descriptions(cls)
    about = " ".join((inspect.getdoc(cls) or "").split())
    lines = [head, "", about, "", "| field | type | default | |", "|---|---|---|---|"]
    fields = sorted(dataclasses.fields(cls), key=lambda one: one.name == "engine")
    for field in fields:
        required = field.default is dataclasses.MISSING
        default = "" if required else _code(plain_value(field.default, full=False))
        kind_of = "a family, by its `kind`" if field.name == "model" else _type(properties[field.name])
        words = " ".join(docs[field.name].split()).replace("|", "\\|")
        lines.append(f"| `{field.name}` | {kind_of} | {default or 'required'} | {words} |")
    return [*lines, ""]


def _code(value: object) -> str:
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def _type(schema: dict[str, Any]) -> str:
    """Return a short description of a schema."""
    options = schema.get("oneOf") or schema.get("anyOf")
    if options:
        return ", ".join(dict.fromkeys(map(_type, options)))
    if "$ref" in schema:
        return f"`{schema['$ref'].rpartition('/')[2]}`"
    if "enum" in schema:
        return ", ".join(_code(value) for value in schema["enum"])
    if "const" in schema:
        return _code(schema["const"])
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {schema[key]:g}" for key, sign in bounds.items() if key in schema]
    name = {"array": "list", "object": "mapping"}.get(str(schema.get("type")), str(schema.get("type", "any")))
    inner = f" of {_type(schema['items'])}" if isinstance(schema.get("items"), dict) else ""
    return " ".join([name + inner, *([", ".join(limits)] if limits else [])])
