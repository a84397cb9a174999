"""Upstream's dictionaries and `run_config.yaml` as our configs.

Upstream's configs name classes, functions and dtypes by import paths, and its loaders import them. Here such a string
is looked up in tables and nothing is imported. A family registers how it reads the classes that it can stand for
(`register_upstream`); what surrounds the model is read in `_upstream_run`. Every key ends up in one of four places: in
a field of ours, in `engine:`, among those at upstream's own default, or in `Converted.unmapped`.
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
from modelwright.config.problems.wording import shown
from modelwright.config.strict.plain_data import DEPTH_LIMIT, canonical

__all__ = [
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
"""The class whose fields `engine:` passes through."""

type Reader = Callable[["UpstreamSection"], Mapping[str, object] | None]
"""Plain data of a model config, or None if the family cannot stand for this model."""

_READERS: dict[str, list[Reader]] = {}
_MODULES: dict[str, None] = {}


@final
@dataclasses.dataclass(frozen=True, slots=True)
class Unmapped:
    """A value of an upstream config that has no counterpart in ours, or was changed on the way."""

    path: str
    """Where it stands upstream."""

    value: object
    """Its value, as plain data."""

    reason: str
    """Why it is not in the result."""

    def __str__(self) -> str:
        """`model.parallel_output: false (no counterpart)`."""
        return f"{self.path}: {shown(canonical(self.value), 80)} ({self.reason})"


@final
class UpstreamSection:
    """One mapping of an upstream config. A reader takes what it knows; what is left is passed on or reported."""

    def __init__(self, data: Mapping[str, object], path: str, target: str | None = None) -> None:
        """Look at a mapping.

        Args:
            data: Plain data, as `plain_upstream` makes it.
            path: Where it stands.
            target: The upstream class, where the data does not say it.
        """
        self.path, self._data = path, data
        self.target = str(data.get("_target_", target or ""))
        self._left = {key: value for key, value in data.items() if key not in {"_target_", "_builder_"}}
        self._defaults = upstream_defaults().get(self.target, {})
        self._sections: dict[str, UpstreamSection] = {}
        self._notes: list[Unmapped] = []
        self.at_default = 0

    def take(self, name: str) -> Any:
        """The value of a key, which then counts as mapped.

        Args:
            name: The key.

        Returns:
            Its value; upstream's default if it is not there, None if that is not known either.
        """
        return self._left.pop(name, next(iter(self._defaults.get(name, ())), None))

    def seen(self, name: str) -> Any:
        """The value of a key, taken or not.

        Args:
            name: The key.

        Returns:
            Its value; None if it is not there.
        """
        return self._data.get(name)

    def section(self, name: str) -> "UpstreamSection":
        """A mapping inside this one, which then counts as mapped; what it holds is reported with this section's.

        Args:
            name: The key.

        Returns:
            The section; an empty one if there is none.
        """
        if name not in self._sections:
            inner = dict[str, object]()
            if isinstance(self._left.get(name), Mapping):
                inner = dict(cast("Mapping[str, object]", self._left.pop(name)))
            self._sections[name] = UpstreamSection(inner, f"{self.path}{name}.")
        return self._sections[name]

    def note(self, name: str, value: object, reason: str) -> None:
        """Report something.

        Args:
            name: The key.
            value: Its value.
            reason: Why it is not in the result as it was.
        """
        self._notes.append(Unmapped(self.path + name, value, reason))

    def changed(self) -> dict[str, object]:
        """Take everything that is left and is not at upstream's default.

        Returns:
            Values by key.
        """
        left, self._left = self._left, {}
        found = {key: value for key, value in left.items() if not self._is_default(key, value)}
        self.at_default += len(left) - len(found)
        return found

    def unmapped(self) -> Iterator[Unmapped]:
        """What is to be reported of this section and the ones in it.

        Yields:
            The notes, then whatever was not taken and is not at upstream's default.
        """
        yield from self._notes
        for key, value in self.changed().items():
            yield Unmapped(self.path + key, value, "no counterpart")
        for section in self._sections.values():
            yield from section.unmapped()

    def count_at_default(self) -> int:
        """How many values were left out because they are upstream's defaults; ask after `unmapped`.

        Returns:
            The number, with that of the sections in it.
        """
        return self.at_default + sum(section.count_at_default() for section in self._sections.values())

    def _is_default(self, name: str, value: object) -> bool:
        """Whether a value is what upstream would make of none."""
        return any(canonical(value) == canonical(default) for default in self._defaults.get(name, ()))


def register_upstream(*targets: str) -> Callable[[Reader], Reader]:
    """Let a function read the dictionaries of upstream classes; a decorator.

    Args:
        targets: Import paths of the classes, as `_target_` has them. They are compared, never imported.

    Returns:
        The decorator. The function takes the model's section and returns plain data of a config of its family,
        without `engine`, or None if the model is not one of its family.
    """

    def register(function: Reader) -> Reader:
        for target in targets:
            readers = _READERS.setdefault(target, [])
            readers[:] = [one for one in readers if (one.__module__, one.__qualname__) != _name(function)]
            readers.append(function)
        return function

    return register


def register_upstream_module(module: str) -> None:
    """Name a module whose import registers readers; it is imported when something is first converted.

    Args:
        module: Import path, as in `modelwright.gpt.from_megatron`.
    """
    _MODULES[module] = None


def model_data(data: Mapping[str, object], path: str) -> tuple[dict[str, object], UpstreamSection]:
    """Let the families read a model.

    Args:
        data: Plain data of the model.
        path: Where it stands.

    Returns:
        Plain data of a config without `engine`, and the section with what is left.

    Raises:
        ConfigError: If no family reads it.
    """
    load_families()
    while _MODULES:
        importlib.import_module(_MODULES.popitem()[0])
    target = str(data.get("_target_"))
    for reader in _READERS.get(target, []):
        section = UpstreamSection(data, path)
        found = reader(section)
        if found is not None:
            return dict(found), section
    known = ", ".join(f"`{name}`" for name in sorted(_READERS)) or "nothing"
    if target in _READERS:
        message = f"`{shown(target)}` describes a model that none of the installed families can stand for."
    else:
        message = f"`{path}_target_` must be one of {known}, but `{shown(target)}` was given."
    raise ConfigError((Problem(f"{path}_target_", message),))


def plain_upstream(data: object, depth: int = 0) -> Any:
    """What upstream's dictionaries and files hold, as plain data.

    Args:
        data: A value of a dictionary or a file of upstream's.
        depth: How deep it stands.

    Returns:
        Plain data. An enum's member becomes its name, a dtype, a function or a class its path, be it a live object or
        the mapping with `_target_` that stands for it in a file.

    Raises:
        ConfigError: If the data nests too deep.
    """
    if depth > DEPTH_LIMIT:
        raise ConfigError((Problem("", f"this nests deeper than {DEPTH_LIMIT} levels."),))
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
    """What upstream's classes make of fields that nobody sets.

    Returns:
        By class and field, the default as it is declared and as it is after the class has derived its values.
    """
    text = Path(__file__).with_name("defaults.json").read_text(encoding="utf-8")
    return cast("dict[str, dict[str, list[object]]]", json.loads(text))


def _named(entries: Mapping[object, object]) -> str | None:
    """The name that a mapping stands for: a member of an enum, or a function, class or dtype by its path."""
    target = entries.get("_target_")
    if not isinstance(target, str):
        return None
    if isinstance(entries.get("_name_"), str) and "_args_" in entries:
        return str(entries["_name_"])
    return target if entries.get("_call_") is False else None


def _path_of(value: object) -> str:
    """The import path of a function or class; of another object, what it calls itself (`torch.bfloat16`)."""
    name = getattr(value, "__qualname__", None)
    return f"{getattr(value, '__module__', '')}.{name}" if isinstance(name, str) else str(value)


def _name(function: Reader) -> tuple[str, str]:
    """What tells functions apart when a module is reloaded."""
    return function.__module__, function.__qualname__
