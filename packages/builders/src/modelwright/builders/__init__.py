"""Builders: what turns a config into modules, which builder a config gets, and the hooks it runs.

`ModelBuilder` is the interface, `builder_for(config)` finds the right one, `register_builder` replaces it for a kind.
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
        BuilderError,
        builder_for,
        register_builder,
        unregister_builder,
    )
    from modelwright.builders.model_builder import ModelBuilder
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
