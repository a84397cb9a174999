"""`builder_for`: the builder of a config.

The first of these that exists is used: the builder passed to `builder_for`, the one registered for the config's kind,
the one that the config class names in `builder`.
"""

from collections.abc import Callable, Iterable
from typing import Any

from modelwright.builders.build_hooks import Hook
from modelwright.builders.model_builder import BuilderError, ModelBuilder
from modelwright.config import ConfigError, ModelConfig

type AnyBuilder = ModelBuilder[Any, Any]
type BuilderClass = Callable[..., AnyBuilder]  # called with a config and the arguments of `ModelBuilder`

_registered: dict[str, type[AnyBuilder]] = {}


def register_builder(kind: str, cls: type[AnyBuilder]) -> None:
    """Build every config of `kind` with `cls` from now on, in place of the class that the config names.

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
    """Restore the builder that the config class of `kind` names; do nothing if none was registered."""
    _registered.pop(kind, None)


def builder_for(
    config: ModelConfig,
    *,
    spec: object = None,
    backend: str | None = None,
    hooks: Iterable[Hook] = (),
    builder: BuilderClass | None = None,
) -> AnyBuilder:
    """Return the builder of a config.

    Args:
        config: Config of the model.
        spec: Parts for the slots (a `StackSpec`), or the name under which they were registered. None: the builder's
            own parts.
        backend: Name of the library that the builder's own parts come from (`torch`, `te`, `auto`). None: the
            builder's default.
        hooks: Hooks that run around the data-parallel wrapper, in order.
        builder: A builder class to use instead of the registered one. `functools.partial` binds further options.

    Returns:
        A builder of `config`.

    Raises:
        BuilderError: The config's class names no builder that can be imported, or the builder does not support `spec`,
            `backend` or `hooks`.
    """
    chosen: BuilderClass = builder or _registered.get(config.kind) or _named_by(config)
    options: dict[str, Any] = {}
    if spec is not None:
        options["spec"] = spec
    if backend is not None:
        options["backend"] = backend
    if hooks := tuple(hooks):
        options["hooks"] = hooks
    try:
        return chosen(config, **options)
    except TypeError as error:
        if error.__traceback__ is None or error.__traceback__.tb_next is not None:
            raise  # from inside the constructor, which accepted the arguments
        name = getattr(chosen, "__name__", repr(chosen))
        given = ", ".join(["the config", *(f"`{option}`" for option in options)])
        raise BuilderError(
            f"`{name}` must be callable with {given}, but is not ({error}); leave out what it does not support, or give"
            " it the arguments of `ModelBuilder`: `config`, `spec`, `backend`, `hooks`."
        ) from error


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
            f"`builder` of `{type(config).__name__}` must name a subclass of `ModelBuilder`, but names {cls!r}; name "
            "the builder class."
        )
    return cls
