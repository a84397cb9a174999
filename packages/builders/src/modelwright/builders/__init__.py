"""Builders, which build modules from a config, and the hooks that they run.

`ModelBuilder` is the interface. `builder_for(config)` returns the builder of a config, and `register_builder` replaces
the builder of every config of one kind.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelwright.builders.build_hooks import (
        BuildContext,
        Hook,
        HookError,
        HookFunction,
        Phase,
        ordered_hooks,
        run_hooks,
    )
    from modelwright.builders.builder_registry import (
        AnyBuilder,
        BuilderClass,
        builder_for,
        register_builder,
        unregister_builder,
    )
    from modelwright.builders.model_builder import BuilderError, ModelBuilder
else:
    from modelwright.protocols import lazy_door

    __getattr__, __dir__ = lazy_door(__name__, __file__)

__all__ = [
    "AnyBuilder",
    "BuildContext",
    "BuilderClass",
    "BuilderError",
    "Hook",
    "HookError",
    "HookFunction",
    "ModelBuilder",
    "Phase",
    "builder_for",
    "ordered_hooks",
    "register_builder",
    "run_hooks",
    "unregister_builder",
]
