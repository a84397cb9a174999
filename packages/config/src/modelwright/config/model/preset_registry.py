"""Registry of presets: functions that return the config of a published model, by name.

The config module of a family names the module that defines its presets. That module is imported at the first use of a
preset.
"""

import importlib
from collections.abc import Callable

from modelwright.config.model.base import ModelConfig
from modelwright.config.model.kind_registry import failed_families, load_families
from modelwright.config.problems.problem import ConfigError, Problem
from modelwright.config.problems.wording import quoted_list, shown
from modelwright.protocols import did_you_mean

__all__ = ["preset", "presets", "register_preset", "register_preset_module"]

_PRESETS: dict[str, Callable[[], ModelConfig]] = {}
_MODULES: dict[str, None] = {}


def register_preset[ConfigT: ModelConfig](function: Callable[[], ConfigT]) -> Callable[[], ConfigT]:
    """Register a preset by the name of its function; a decorator.

    Args:
        function: Function without arguments that returns a model config. Its docstring names the publication.

    Returns:
        The function.

    Raises:
        ConfigError: If another function has that name.
    """
    name, taken = function.__name__, _PRESETS.get(function.__name__)
    if taken is not None and taken.__module__ != function.__module__:
        message = (
            f"the preset `{name}` belongs to `{taken.__module__}` already; rename the one of `{function.__module__}`."
        )
        raise ConfigError((Problem("", message),))
    _PRESETS[name] = function
    return function


def register_preset_module(module: str) -> None:
    """Register a module that defines presets; it is imported at the first use of a preset.

    Args:
        module: Import path, as in `modelwright.gpt.presets`.
    """
    _MODULES[module] = None


def presets() -> dict[str, Callable[[], ModelConfig]]:
    """Return every preset of the installed families.

    Returns:
        The functions by name, in alphabetical order.
    """
    load_families()
    while _MODULES:
        importlib.import_module(_MODULES.popitem()[0])
    return dict(sorted(_PRESETS.items()))


def preset(name: str) -> ModelConfig:
    """Return the config of a preset.

    Args:
        name: Name of the preset, as in `llama3_8b`.

    Returns:
        A new config.

    Raises:
        ConfigError: If there is no preset of that name; the message lists the presets that exist.
    """
    every = presets()
    if name not in every:
        near = did_you_mean(name, every) or "."
        message = f"the preset must be {quoted_list(every, 'or')}, but `{shown(name)}` was given{near}"
        raise ConfigError((Problem("", f"{message}{failed_families()}", code="wrong_value"),))
    return every[name]()
