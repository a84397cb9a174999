"""The fields of the installed engine's config, and the modules of the engine that read each.

Megatron-Core's `TransformerConfig` has more than 300 fields, and `MLATransformerConfig` adds those of MLA. Most of them
are read by a few modules only, and some by none. `modelwright.layers` decides from that which field has an effect in a
model. The readers are found in the source, so that a new version of the engine is compared without running it.
"""

import ast
import dataclasses
import functools
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, final

import megatron.core
from megatron.core.transformer import MLATransformerConfig, TransformerConfig

_OWN_MODULES = frozenset({"transformer.transformer_config", "model_parallel_config"})
"""Modules that define the config. A read there is a check or a default, not an effect."""


@final
@dataclasses.dataclass(frozen=True)
class EngineConfigField:
    """One field of the engine's config."""

    name: str
    """Name of the field."""
    hint: Any
    """Type, as the engine annotates it."""
    default: object
    """Default before the engine derives other fields from it; `dataclasses.MISSING` if a factory makes it."""
    only_mla: bool
    """True if only `MLATransformerConfig` has the field."""
    read_by: tuple[str, ...]
    """Modules of the engine that read the field from a config, below `megatron.core`, without the config itself."""


@functools.cache
def engine_config_fields() -> Mapping[str, EngineConfigField]:
    """Return the fields of the installed engine's config. The first call parses the source of the engine.

    Returns:
        Each public field of `TransformerConfig` and `MLATransformerConfig`, by name.
    """
    hints, shared = typing.get_type_hints(MLATransformerConfig), {f.name for f in dataclasses.fields(TransformerConfig)}
    read_by = _readers()
    return {
        field.name: EngineConfigField(
            field.name, hints[field.name], field.default, field.name not in shared, tuple(read_by.get(field.name, ()))
        )
        for field in dataclasses.fields(MLATransformerConfig)
        if not field.name.startswith("_")
    }


def _readers() -> dict[str, list[str]]:
    """Return the modules that read an attribute of a config, by the name of the attribute."""
    folder = Path(megatron.core.__file__).parent
    found: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("*.py")):
        module = ".".join(path.relative_to(folder).with_suffix("").parts)
        if module not in _OWN_MODULES:
            for name in sorted(set(_reads(ast.parse(path.read_text(encoding="utf-8"))))):
                found.setdefault(name, []).append(module)
    return found


def _reads(tree: ast.AST) -> Iterator[str]:
    """Yield the names that a module reads from anything that is called a config, as attribute or by `getattr`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and _is_config(node.value):
            yield node.attr
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
            target, name, *_ = node.args
            if _is_config(target) and isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield name.value


def _is_config(node: ast.AST) -> bool:
    name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
    return "config" in name.lower() or name == "args"
