"""Every config class of a file: the registered families of this repository, and the sections of a run."""

import dataclasses
import typing
from typing import Any

from modelwright.config import Config, ModelConfig, RunConfig, config_class_for, registered_kinds
from modelwright.config.files.json_schema import _nested_classes  # pyright: ignore[reportPrivateUsage]


def families() -> list[type[ModelConfig]]:
    """Return the families of installed packages, without those of tests and examples that ran before."""
    every = [config_class_for(kind) for kind in registered_kinds()]
    return [cls for cls in every if cls.__module__.startswith("modelwright.")]


def classes() -> list[type[Config]]:
    """Return the families, the run, and every class in them."""
    found: dict[type[Config], None] = {}
    waiting: list[Any] = [RunConfig, *families()]
    while waiting:
        cls = waiting.pop(0)
        if cls in found or (cls is not RunConfig and not cls.__module__.startswith("modelwright.")):
            continue
        found[cls] = None
        for hint in typing.get_type_hints(cls, include_extras=True).values():
            waiting += _nested_classes(hint)
    return [cls for cls in found if dataclasses.fields(cls)]
