"""Registry of model kinds: the config class of each `kind`.

A class is registered when its module is imported. The entry points of the group `modelwright.families` name the modules
of the installed families. All of them are imported the first time that a kind or a preset is not known. The imports
depend on the installed packages, never on the content of a file.
"""

import functools
from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, final, override

from modelwright.config.problems.problem import ConfigError, Problem
from modelwright.config.problems.wording import described, quoted_list, shown
from modelwright.config.strict.by_kind import ByKind, key_error
from modelwright.config.strict.migrations import migrated
from modelwright.protocols import did_you_mean

if TYPE_CHECKING:
    from modelwright.config.model.base import ModelConfig

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
"""Kind of everything outside the model in a file; no family can have this kind."""

_CLASSES: dict[str, "type[ModelConfig]"] = {}
_FAILED: dict[str, str] = {}
_INSTALLED: dict[str, str] = {}

# A family that is not installed has no entry point. Its name is listed here, so that the error can say what to install.
_KNOWN_FAMILIES = {"gpt": "modelwright-gpt", "moe": "modelwright-moe", "mamba": "modelwright-mamba"}


def register_config[ConfigT: "ModelConfig"](cls: type[ConfigT]) -> type[ConfigT]:
    """Register a config class by its `kind`, so that files can use it; a class decorator.

    Args:
        cls: A class with a `kind`. The same class may be registered again, as a reloaded module does.

    Returns:
        The class.

    Raises:
        ConfigError: If it has no `kind`, or another class has the same one.
    """
    kind = getattr(cls, "kind", None)
    if not isinstance(kind, str) or not kind:
        rule = f'`{cls.__name__}` must define its `kind`, as in `kind: ClassVar[str] = "mine"`.'
        raise ConfigError((Problem("", rule),))
    if kind == RUN:
        message = f"the kind of `{cls.__name__}` must not be `{RUN}`, which is the kind of a run; use another name."
        raise ConfigError((Problem("", message),))
    taken = _CLASSES.get(kind)
    if taken is not None and _full_name(taken) != _full_name(cls):
        message = f"the kind `{kind}` belongs to `{_full_name(taken)}` already; give `{_full_name(cls)}` another one."
        raise ConfigError((Problem("", message),))
    _CLASSES[kind] = cls
    return cls


def config_class_for(kind: str) -> "type[ModelConfig]":
    """Return the config class of a kind.

    Args:
        kind: Name of the family, as files write it.

    Returns:
        The registered class.

    Raises:
        ConfigError: If there is none; the message names the kinds that exist, or the package to install.
    """
    marker = RegisteredKind()
    found = marker.member(kind)
    if found is None:
        raise ConfigError((Problem("kind", f"`kind` {marker.unknown(kind)}", code="wrong_value"),))
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
    """Return every kind of model that a file may name.

    Returns:
        Names in alphabetical order.
    """
    load_families()
    return sorted(_CLASSES)


def failed_families() -> str:
    """Return the end of a message about an unknown kind or preset.

    Returns:
        The installed families that could not be imported, each with the reason; "" if all could.
    """
    return "".join(f" ({text})" for text in _FAILED.values())


@final
class RegisteredKind(ByKind):
    """Marker of a field that contains any registered model config."""

    def __init__(self, base: type = object) -> None:
        """Store the base class.

        Args:
            base: Class of the instances that the field accepts. It is an argument because `ModelConfig` itself uses
                this registry.
        """
        self._base = base

    @override
    def base(self) -> type:
        return self._base

    @override
    def kinds(self) -> Iterable[str]:
        return registered_kinds()

    @override
    def member(self, kind: str) -> "type[ModelConfig] | None":
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
    """Remove the version from a model's data, and migrate older data.

    Args:
        cls: Config class of the data.
        fields: Plain data without `kind`.

    Returns:
        The fields of the class's version.

    Raises:
        PydanticCustomError: If the data is newer than the class, or cannot be migrated.
    """
    kind, known, given = str(getattr(cls, "kind", "")), int(getattr(cls, "version", 1)), fields.get("version", 1)
    rest = {key: value for key, value in fields.items() if key != "version"}
    if isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= known:
        raise key_error("version", f"of `{kind}` {_wrong_version(cls, known, given)}", "wrong_version")
    return rest if given == known else migrated(kind, rest, start=given, end=known)


def _wrong_version(cls: type, known: int, given: object) -> str:
    """Return the message about a version that cannot be read."""
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
    """Return module and name of a class."""
    return f"{cls.__module__}.{cls.__qualname__}"


def _failure(entry: EntryPoint, error: Exception) -> str:
    """Return the message about a family that could not be imported."""
    package = entry.dist.name if entry.dist is not None else entry.value
    return f"the family `{entry.name}` of `{package}` could not be imported: {error}"
