"""Base class of every family's config."""

import importlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, cast

from pydantic import PlainValidator
from pydantic_core import PydanticCustomError

from modelwright.config.model.kind_registry import RegisteredKind, current_fields
from modelwright.config.problems.problem import ConfigError, Problem
from modelwright.config.problems.wording import described
from modelwright.config.strict.config_class import Config, config_class
from modelwright.config.strict.frozen_mapping import FrozenMapping, PlainValue, frozen_mapping
from modelwright.config.strict.plain_data import not_plain, to_plain
from modelwright.config.strict.validate import key_problem, validated

if TYPE_CHECKING:
    from modelwright.config.run.dtypes import Precision
    from modelwright.config.run.parallelism import Parallelism

__all__ = ["ModelConfig"]


@config_class
class ModelConfig(Config):
    """Description of a model: frozen inputs without torch and without derived values. Every family inherits from it.

    `kind`, `version` and `builder` belong to the class. They never come from data, so that a file cannot name code.
    """

    kind: ClassVar[str]
    """Name of the family, as files write it."""

    version: ClassVar[int] = 1
    """Version of the family's fields; a file without a version is of version 1."""

    builder: ClassVar[str]
    """Import path of the family's builder: `package.module:Class`."""

    engine: Annotated[
        Mapping[str, PlainValue], PlainValidator(frozen_mapping, json_schema_input_type=dict[str, Any])
    ] = FrozenMapping()
    """Fields of the engine's `TransformerConfig` that are passed to it unchanged. They are checked when the model is
    resolved."""

    def layout_problems(self, parallelism: "Parallelism") -> Iterable[Problem]:
        """Return the rules that a layout breaks for this model; a family overrides it to state its rules.

        Args:
            parallelism: Sizes of the axes.

        Returns:
            Problems with paths relative to this config; none by default.
        """
        return ()

    def training_problems(self, parallelism: "Parallelism") -> Iterable[Problem]:
        """Return the rules that a layout breaks for training, but not for building or inference.

        Args:
            parallelism: Sizes of the axes.

        Returns:
            Problems with paths relative to this config; none by default.
        """
        return ()

    def precision_problems(self, precision: "Precision") -> Iterable[Problem]:
        """Return the rules that the dtypes of a run break for this model.

        Args:
            precision: Dtypes of the parameters.

        Returns:
            Problems with paths relative to `precision`; none by default.
        """
        return ()

    def engine_fields(self) -> Mapping[str, Any]:
        """Return the fields of the engine's `TransformerConfig` for this model; a family overrides it.

        Returns:
            Values by engine field, `activation` by its name, without the fields of parallelism and dtypes.
        """
        return {}

    @classmethod
    def get_builder_cls(cls) -> type[Any]:
        """Import the family's builder.

        Returns:
            The class that `builder` names.

        Raises:
            ConfigError: If the class names no builder, or the builder cannot be imported.
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
        """Return this config as plain data.

        Returns:
            Every field, with `kind` and `version`; `from_dict` makes an equal config of it.
        """
        return to_plain(self, full=True)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Make a config of plain data.

        Args:
            data: Result of `as_dict`, or a part of it. `kind` may be left out if the class defines it.

        Returns:
            A config of this class, or, if this class defines no `kind`, of the registered class of the data's `kind`.

        Raises:
            ConfigError: If the data is not valid, or of another kind.
        """
        problems = tuple(not_plain(data))
        if problems:
            raise ConfigError(problems)
        try:
            found, fields = cls._split(data)
        except PydanticCustomError as error:
            raise key_problem(error) from None
        if not issubclass(found, cls):
            kind = getattr(cls, "kind", None) or f"the kind of a {cls.__name__}"
            message = f"`kind` must be `{kind}`, but {described(data['kind'])} was given."
            raise ConfigError((Problem("kind", message, code="wrong_value"),))
        return validated(found, fields)

    @classmethod
    def _split(cls, data: Mapping[str, Any]) -> tuple[type["ModelConfig"], dict[str, object]]:
        """Return the class that the data names, and the fields of its version."""
        kind = getattr(cls, "kind", None)
        if kind is None or data.get("kind", kind) != kind:
            return cast("tuple[type[ModelConfig], dict[str, object]]", RegisteredKind().split(data))
        return cls, current_fields(cls, {key: value for key, value in data.items() if key != "kind"})
