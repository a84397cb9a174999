"""Which class a `kind` means.

Classes register themselves when their module is imported. The modules of installed families are named by the entry
points of the group `modelwright.families` and imported, all of them, the first time that a kind or a preset is not
known: what is imported depends on what is installed, never on what a file says.
"""

import functools
from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import final, override

from modelwright.config.files.migrations import migrated
from modelwright.config.model.base import ModelConfig
from modelwright.config.problems.problem import ConfigError, Problem
from modelwright.config.problems.pydantic_errors import described
from modelwright.config.strict.by_kind import ByKind, key_error, quoted_list, shown
from modelwright.protocols import did_you_mean

__all__ = [
    "RUN",
    "RegisteredKind",
    "config_class_for",
    "current_fields",
    "failed_families",
    "load_families",
    "register_config",
    "registered_kinds",
]

RUN = "run"
"""What surrounds a model in a file; no family can have this kind."""

_CLASSES: dict[str, type[ModelConfig]] = {}
_FAILED: dict[str, str] = {}
_INSTALLED: dict[str, str] = {}
_KNOWN_FAMILIES = {"gpt": "modelwright-gpt", "moe": "modelwright-moe", "mamba": "modelwright-mamba"}


def register_config[ConfigT: ModelConfig](cls: type[ConfigT]) -> type[ConfigT]:
    """Let files use a config class by its `kind`; a class decorator.

    Args:
        cls: A class with a `kind`. The same class may be registered again, as a reloaded module does.

    Returns:
        The class.

    Raises:
        ConfigError: If it has no `kind`, or another class has it.
    """
    kind = getattr(cls, "kind", None)
    if not isinstance(kind, str) or not kind:
        rule = f'`{cls.__name__}` must say its `kind`, as in `kind: ClassVar[str] = "mine"`.'
        raise ConfigError((Problem("", rule),))
    if kind == RUN:
        raise ConfigError((Problem("", f"the kind of `{cls.__name__}` cannot be `{RUN}`, which is a whole run."),))
    taken = _CLASSES.get(kind)
    if taken is not None and _full_name(taken) != _full_name(cls):
        message = f"the kind `{kind}` belongs to `{_full_name(taken)}` already; give `{_full_name(cls)}` another one."
        raise ConfigError((Problem("", message),))
    _CLASSES[kind] = cls
    return cls


def config_class_for(kind: str) -> type[ModelConfig]:
    """The class that a `kind` means.

    Args:
        kind: As files write it.

    Returns:
        The registered class.

    Raises:
        ConfigError: If there is none; says what exists, or what to install.
    """
    marker = RegisteredKind()
    found = marker.member(kind)
    if found is None:
        raise ConfigError((Problem("kind", f"`kind` {marker.unknown(kind)}"),))
    return found


@functools.cache
def load_families() -> None:
    """Import the torch-free config module of every installed family, once."""
    for entry in entry_points(group="modelwright.families"):
        try:
            entry.load()
        except Exception as error:  # noqa: BLE001  # a broken plug-in must not break the families that work
            _FAILED[entry.name] = _failure(entry, error)
        if entry.dist is not None:
            _INSTALLED[entry.module] = f"{entry.dist.name} {entry.dist.version}"


def registered_kinds() -> list[str]:
    """Every kind of model that a file may name here.

    Returns:
        Names in alphabetical order.
    """
    load_families()
    return sorted(_CLASSES)


def failed_families() -> str:
    """The end of a message about something unknown.

    Returns:
        Which installed families could not be imported and why; "" if all could.
    """
    return "".join(f" ({text})" for text in _FAILED.values())


@final
class RegisteredKind(ByKind):
    """Any registered model config, by its kind."""

    @override
    def base(self) -> type[ModelConfig]:
        return ModelConfig

    @override
    def kinds(self) -> Iterable[str]:
        return registered_kinds()

    @override
    def member(self, kind: str) -> type[ModelConfig] | None:
        if kind not in _CLASSES:
            load_families()
        return _CLASSES.get(kind)

    @override
    def split(self, data: Mapping[str, object]) -> tuple[type, dict[str, object]]:
        cls, fields = super().split(data)
        return cls, current_fields(cls, fields)

    @override
    def unknown(self, kind: str) -> str:
        if kind in _KNOWN_FAMILIES and kind not in _FAILED:
            package = _KNOWN_FAMILIES[kind]
            return f"`{kind}` is the family of `{package}`, which is not installed; run `pip install {package}`."
        near = did_you_mean(kind, self.kinds()) or "."
        exists = quoted_list(self.kinds(), "or")
        return f"must be {exists}, but `{shown(kind)}` was given{near}{failed_families()}"


def current_fields(cls: type, fields: Mapping[str, object]) -> dict[str, object]:
    """Take the version off a model's data, and bring older data up to date.

    Args:
        cls: The class that will read the data.
        fields: Its plain data without `kind`.

    Returns:
        The fields of the class's own version.

    Raises:
        PydanticCustomError: If the data is newer than the class, or cannot be brought up to date.
    """
    kind, known, given = str(getattr(cls, "kind", "")), int(getattr(cls, "version", 1)), fields.get("version", 1)
    rest = {key: value for key, value in fields.items() if key != "version"}
    if isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= known:
        raise key_error("version", f"of `{kind}` {_wrong_version(cls, known, given)}")
    return rest if given == known else migrated(kind, rest, start=given, end=known)


def _wrong_version(cls: type, known: int, given: object) -> str:
    """What to say of a version that cannot be read."""
    if not isinstance(given, int) or isinstance(given, bool) or given < 1:
        rule = f"must be {known}" if known == 1 else f"must be an integer from 1 to {known}"
        return f"{rule}, but {described(given)} was given."
    load_families()
    package = _INSTALLED.get(cls.__module__)
    installed = f" (`{package}`)" if package else ""
    advice = f"pip install --upgrade {package.split()[0]}" if package else ""
    upgrade = f"run `{advice}`." if advice else "install a newer version of its package."
    return f"is {described(given)} in this file, but version {known} is installed{installed}; {upgrade}"


def _full_name(cls: type) -> str:
    """Module and name of a class."""
    return f"{cls.__module__}.{cls.__qualname__}"


def _failure(entry: EntryPoint, error: Exception) -> str:
    """What to say of a family that could not be imported."""
    package = entry.dist.name if entry.dist is not None else entry.value
    return f"the family `{entry.name}` of `{package}` could not be imported: {error}"
