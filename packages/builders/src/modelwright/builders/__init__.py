"""Builders: what turns a config into modules, which builder a config gets, and the hooks it runs.

`ModelBuilder` is the interface, `builder_for(config)` finds the right one, `register_builder` replaces it for a kind.
"""

from modelwright.builders._builder import ModelBuilder
from modelwright.builders._hooks import BuildContext, Hook, HookError, HookFunction, Phase, ordered_hooks, run_hooks
from modelwright.builders._registry import (
    AnyBuilder,
    BuilderClass,
    BuilderError,
    builder_for,
    register_builder,
    unregister_builder,
)

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
