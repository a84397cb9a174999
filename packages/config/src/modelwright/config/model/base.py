"""The base of every family's config."""

import importlib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import PlainValidator

from modelwright.config.problems.problem import ConfigError, Problem
from modelwright.config.run.parallelism import Parallelism
from modelwright.config.strict.config_class import Config, config_class
from modelwright.config.strict.frozen_mapping import FrozenMapping, PlainValue, frozen_mapping
from modelwright.config.strict.plain_data import to_plain

__all__ = ["ModelConfig"]


@config_class
class ModelConfig(Config):
    """What a model is: frozen inputs, no torch, nothing derived. Every family's config inherits from it.

    `kind`, `version` and `builder` belong to the class. They never come from data, so a file cannot name code.
    """

    kind: ClassVar[str]
    """Name of the family, as files write it."""

    version: ClassVar[int] = 1
    """Version of the family's fields; a file without one is of version 1."""

    builder: ClassVar[str]
    """Where the family's builder is: `package.module:Class`."""

    engine: Annotated[
        Mapping[str, PlainValue], PlainValidator(frozen_mapping, json_schema_input_type=dict[str, Any])
    ] = FrozenMapping()
    """Fields of the engine's `TransformerConfig` that are passed straight to it; checked when it is resolved."""

    def layout_problems(self, parallelism: Parallelism) -> Iterable[Problem]:
        """What keeps this model from being cut as `parallelism` says; a family overrides it to state its rules.

        Args:
            parallelism: Sizes of the axes.

        Returns:
            Problems with paths relative to this config; none by default.
        """
        return ()

    def training_problems(self, parallelism: Parallelism) -> Iterable[Problem]:
        """What keeps this model from being trained as `parallelism` says, though it can be cut so.

        Args:
            parallelism: Sizes of the axes.

        Returns:
            Problems with paths relative to this config; none by default.
        """
        return ()

    def engine_fields(self) -> Mapping[str, Any]:
        """What this model is in the words of the engine's `TransformerConfig`; a family overrides it.

        Returns:
            Values by engine field, `activation` by its name; nothing of parallelism or precision.
        """
        return {}

    @classmethod
    def get_builder_cls(cls) -> type[Any]:
        """Import the family's builder.

        Returns:
            The class that `builder` names.

        Raises:
            ConfigError: If the class names no builder, or there is none where it says.
        """
        path = getattr(cls, "builder", "")
        module, _, name = path.partition(":") if ":" in path else path.rpartition(".")
        if not module or not name:
            rule = f"`{cls.__name__}.builder` must name a class as `package.module:Class`, but"
            raise ConfigError((Problem("", f"{rule} {f'`{path}`' if path else 'nothing'} was given."),))
        try:
            found = getattr(importlib.import_module(module), name)
        except (ModuleNotFoundError, AttributeError) as error:
            message = f"`{cls.__name__}.builder` is `{path}`, which cannot be imported: {error}."
            raise ConfigError((Problem("", message),)) from error
        return found  # type: ignore[no-any-return]  # the builder's type is known one layer up

    def as_dict(self) -> dict[str, Any]:
        """This config as plain data.

        Returns:
            Every field, with `kind` and `version`; `from_dict` makes an equal config of it.
        """
        return to_plain(self, full=True)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Make a config of plain data.

        Args:
            data: What `as_dict` gave, or any part of it; `kind` may be left out where the class says it.

        Returns:
            A config of this class, or of the registered class of its `kind`.

        Raises:
            ConfigError: If the data is not valid, or of another kind.
        """
        from modelwright.config.strict.validate import model_from_dict  # the reading side knows this class

        return model_from_dict(cls, data)
