"""Which builder makes the model of a config.

In order: the builder handed to `builder_for`, the one registered for the config's kind, the one the config class
names in `builder`.
"""

from collections.abc import Callable
from typing import Any

from modelwright.builders.model_builder import ModelBuilder
from modelwright.config import ConfigError, ModelConfig
from modelwright.protocols import ModelwrightError

type AnyBuilder = ModelBuilder[Any, Any]
type BuilderClass = Callable[..., AnyBuilder]  # from a config and the builder's own options

_registered: dict[str, type[AnyBuilder]] = {}


class BuilderError(ModelwrightError):
    """No builder for a config, or a class that is not a builder."""


def register_builder(kind: str, cls: type[AnyBuilder]) -> None:
    """Let `cls` build every config of `kind` from now on, in place of the class that the config names.

    Args:
        kind: The `kind` of a registered config class.
        cls: A subclass of `ModelBuilder`.

    Raises:
        BuilderError: `cls` is not a builder class.
    """
    if not _is_builder(cls):
        raise BuilderError(
            f"`cls` must be a subclass of `ModelBuilder`, but is {cls!r}; pass the class itself, not an instance of it."
        )
    _registered[kind] = cls


def unregister_builder(kind: str) -> None:
    """Go back to the builder that the config class of `kind` names; nothing happens when none was registered."""
    _registered.pop(kind, None)


def builder_for(config: ModelConfig, *, builder: BuilderClass | None = None, **options: Any) -> AnyBuilder:
    """Make the builder of a config.

    Args:
        config: What is to be built.
        builder: A builder class to take instead of the registered one.
        **options: Handed to the builder's constructor (`spec`, `backend`, `hooks`, …).

    Returns:
        A builder that holds `config`.

    Raises:
        BuilderError: The config's class names no builder, or one that cannot be imported.
    """
    chosen: BuilderClass = builder or _registered.get(config.kind) or _named_by(config)
    return chosen(config, **options)


def _is_builder(cls: object) -> bool:
    return isinstance(cls, type) and issubclass(cls, ModelBuilder)


def _named_by(config: ModelConfig) -> type[AnyBuilder]:
    try:
        cls = config.get_builder_cls()
    except (ConfigError, ImportError) as error:
        reason = str(error).rstrip(".")
        raise BuilderError(
            f"`{type(config).__name__}` (kind `{config.kind}`) has no builder that can be imported: {reason}; set its "
            "class variable `builder`, call `register_builder`, or pass `builder=`."
        ) from error
    if not _is_builder(cls):
        raise BuilderError(
            f"`builder` of `{type(config).__name__}` must name a subclass of `ModelBuilder`, but names {cls!r}."
        )
    return cls
