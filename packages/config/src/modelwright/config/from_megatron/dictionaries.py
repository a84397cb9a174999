"""Reading of Megatron-Core's config dictionaries ("upstream"), and the registry of the families' readers.

Upstream's configs name classes, functions and dtypes by import paths, and its loaders import them. This module looks
such a string up in tables and imports nothing. A family registers a reader for each upstream class that it can
represent (`register_upstream`); `run_files` reads everything outside the model. Every key has one of four results: a
field of a config, a field of `engine:`, a count of values at upstream's default, or an entry of `Converted.unmapped`.
"""

import dataclasses
import enum
import functools
import importlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast, final

from modelwright.config.model.kind_registry import load_families
from modelwright.config.problems.problem import ConfigError, Problem
from modelwright.config.problems.wording import quoted_list, shown
from modelwright.config.strict.plain_data import DEPTH_LIMIT, canonical

__all__ = [
    "MLA_TRANSFORMER",
    "TRANSFORMER",
    "Unmapped",
    "UpstreamSection",
    "model_data",
    "plain_upstream",
    "register_upstream",
    "register_upstream_module",
    "upstream_defaults",
]

TRANSFORMER = "megatron.core.transformer.transformer_config.TransformerConfig"
"""Upstream class of the fields that `engine:` passes through."""

MLA_TRANSFORMER = "megatron.core.transformer.transformer_config.MLATransformerConfig"
"""Upstream class with the fields of MLA as well."""

type Reader = Callable[["UpstreamSection"], Mapping[str, object] | None]
"""Function from an upstream model to plain data of a model config. None: the family cannot represent the model."""

_READERS: dict[str, list[Reader]] = {}
_MODULES: dict[str, None] = {}


@final
@dataclasses.dataclass(frozen=True, slots=True)
class Unmapped:
    """Value of an upstream config that has no counterpart, or was changed by the conversion."""

    path: str
    """Dotted path in the upstream config."""

    value: object
    """Value, as plain data."""

    reason: str
    """Reason why the value is not in the result."""

    def __str__(self) -> str:
        """Return one line, as in `model.parallel_output: false (no counterpart)`."""
        return f"{self.path}: {shown(canonical(self.value), 80)} ({self.reason})"


@final
class UpstreamSection:
    """One mapping of an upstream config. A reader takes the keys that it knows; the rest is passed on or reported."""

    def __init__(self, data: Mapping[str, object], path: str, target: str | None = None) -> None:
        """Store a mapping.

        Args:
            data: Plain data, as `plain_upstream` returns it.
            path: Dotted path of the mapping, with a final dot; "" for the whole config.
            target: Import path of the upstream class. None: the data contains it.
        """
        self.path, self._data = path, data
        self.target = str(data.get("_target_", target or ""))
        self._left = {key: value for key, value in data.items() if key not in {"_target_", "_builder_"}}
        self._defaults = upstream_defaults().get(self.target, {})
        self._sections: dict[str, UpstreamSection] = {}
        self._notes: list[Unmapped] = []
        self.at_default = 0

    def take(self, name: str) -> Any:
        """Return the value of a key, and mark the key as mapped.

        Args:
            name: The key.

        Returns:
            The value. If the key is missing, upstream's default, or None without a known default.
        """
        return self._left.pop(name, next(iter(self._defaults.get(name, ())), None))

    def seen(self, name: str) -> Any:
        """Return the value of a key without marking it as mapped.

        Args:
            name: The key.

        Returns:
            The value; None if the key is missing.
        """
        return self._data.get(name)

    def section(self, name: str) -> "UpstreamSection":
        """Return a nested mapping, and mark its key as mapped. Its rest is reported with that of this section.

        Args:
            name: The key.

        Returns:
            The section; an empty one if the key is missing.
        """
        if name not in self._sections:
            inner = dict[str, object]()
            if isinstance(self._left.get(name), Mapping):
                inner = dict(cast("Mapping[str, object]", self._left.pop(name)))
            self._sections[name] = UpstreamSection(inner, f"{self.path}{name}.")
        return self._sections[name]

    def note(self, name: str, value: object, reason: str) -> None:
        """Report a value that is not in the result unchanged.

        Args:
            name: The key.
            value: Its value.
            reason: Reason for the report.
        """
        self._notes.append(Unmapped(self.path + name, value, reason))

    def changed(self) -> dict[str, object]:
        """Take all remaining keys, and return those that are not at upstream's default.

        Returns:
            Values by key.
        """
        left, self._left = self._left, {}
        found = {key: value for key, value in left.items() if not self._is_default(key, value)}
        self.at_default += len(left) - len(found)
        return found

    def unmapped(self) -> Iterator[Unmapped]:
        """Return the reports about this section and its nested sections.

        Yields:
            The notes, then the remaining values that are not at upstream's default.
        """
        yield from self._notes
        for key, value in self.changed().items():
            yield Unmapped(self.path + key, value, "no counterpart")
        for section in self._sections.values():
            yield from section.unmapped()

    def count_at_default(self) -> int:
        """Return the number of values that were left out because they are upstream's defaults. Call after `unmapped`.

        Returns:
            The number, including nested sections.
        """
        return self.at_default + sum(section.count_at_default() for section in self._sections.values())

    def _is_default(self, name: str, value: object) -> bool:
        """Return True if upstream uses the same value for a missing key."""
        return any(canonical(value) == canonical(default) for default in self._defaults.get(name, ()))


def register_upstream(*targets: str) -> Callable[[Reader], Reader]:
    """Register a reader of the dictionaries of upstream classes; a decorator.

    Args:
        targets: Import paths of the classes, as in `_target_`. They are compared, never imported.

    Returns:
        The decorator. The function accepts the model's section. It returns plain data of a config of its family,
        without `engine`, or None if the family cannot represent the model.
    """

    def register(function: Reader) -> Reader:
        for target in targets:
            readers = _READERS.setdefault(target, [])
            readers[:] = [one for one in readers if (one.__module__, one.__qualname__) != _name(function)]
            readers.append(function)
        return function

    return register


def register_upstream_module(module: str) -> None:
    """Register a module that defines readers; it is imported at the first conversion.

    Args:
        module: Import path, as in `modelwright.gpt.from_megatron`.
    """
    _MODULES[module] = None


def model_data(data: Mapping[str, object], path: str) -> tuple[dict[str, object], UpstreamSection]:
    """Convert a model with the reader of an installed family.

    Args:
        data: Plain data of the model.
        path: Dotted path of the model, with a final dot; "" for a model alone.

    Returns:
        Plain data of a config without `engine`, and the section with the remaining keys.

    Raises:
        ConfigError: If no family has a reader for the class, or none can represent the model.
    """
    load_families()
    while _MODULES:
        importlib.import_module(_MODULES.popitem()[0])
    target = str(data.get("_target_"))
    readers = _READERS.get(target, [])
    for reader in readers:
        section = UpstreamSection(data, path)
        found = reader(section)
        if found is not None:
            return dict(found), section
    if readers:
        modules = quoted_list(sorted({reader.__module__ for reader in readers}))
        message = f"`{shown(target)}` describes a model that {modules} cannot convert; write its config by hand."
    else:
        rule = f"`{path}_target_` must be {quoted_list(sorted(_READERS), 'or')}"
        message = f"{rule}, the classes that the installed families convert, but `{shown(target)}` was given."
    raise ConfigError((Problem(f"{path}_target_", message, code="wrong_value"),))


def plain_upstream(data: object, depth: int = 0) -> Any:
    """Convert a value of an upstream dictionary or file to plain data.

    Args:
        data: The value.
        depth: Its depth in the whole.

    Returns:
        Plain data. The member of an enum becomes its name. A dtype, a function or a class becomes its import path, as
        a live object as well as in the form of a file, a mapping with `_target_`.

    Raises:
        ConfigError: If the data nests too deep.
    """
    if depth > DEPTH_LIMIT:
        message = f"a config must nest at most {DEPTH_LIMIT} levels deep, but this nests deeper."
        raise ConfigError((Problem("", message, code="not_plain"),))
    if isinstance(data, enum.Enum):
        return data.name
    if isinstance(data, Mapping):
        entries = cast("Mapping[object, object]", data)
        named = _named(entries)
        return named or {str(key): plain_upstream(value, depth + 1) for key, value in entries.items()}
    if isinstance(data, list | tuple):
        return [plain_upstream(item, depth + 1) for item in cast("list[object]", data)]
    return data if data is None or isinstance(data, bool | int | float | str) else _path_of(data)


@functools.cache
def upstream_defaults() -> dict[str, dict[str, list[object]]]:
    """Return the defaults of upstream's classes.

    Returns:
        By class and field: the declared default, and the value after the class has derived its fields.
    """
    text = Path(__file__).with_name("defaults.json").read_text(encoding="utf-8")
    return cast("dict[str, dict[str, list[object]]]", json.loads(text))


def _named(entries: Mapping[object, object]) -> str | None:
    """Return the name of the enum member, function, class or dtype that a mapping represents. None: it is data."""
    target = entries.get("_target_")
    if not isinstance(target, str):
        return None
    if isinstance(entries.get("_name_"), str) and "_args_" in entries:
        return str(entries["_name_"])
    return target if entries.get("_call_") is False else None


def _path_of(value: object) -> str:
    """Return the import path of a function or class, or the text of another object (`torch.bfloat16`)."""
    name = getattr(value, "__qualname__", None)
    return f"{getattr(value, '__module__', '')}.{name}" if isinstance(name, str) else str(value)


def _name(function: Reader) -> tuple[str, str]:
    """Return the identity of a function, which remains the same when its module is reloaded."""
    return function.__module__, function.__qualname__
