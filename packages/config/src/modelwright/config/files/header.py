"""Header of a document: `modelwright` or `kind` at its top selects the class, `version` the migrations.

This is the one way from the plain data of a document to a config. `load`, `loads`, `override` and `convert` use it.
"""

from collections.abc import Mapping
from typing import cast

from pydantic_core import PydanticCustomError

from modelwright.config.model.base import ModelConfig
from modelwright.config.model.kind_registry import RUN, RegisteredKind
from modelwright.config.run import run
from modelwright.config.run.run import RunConfig
from modelwright.config.strict.migrations import migrated
from modelwright.config.strict.plain_data import RUN_KEY
from modelwright.config.strict.validate import key_problem, validated

__all__ = ["config_of", "current_data"]


def config_of(data: Mapping[str, object]) -> RunConfig | ModelConfig:
    """Make the config of a document. Everything in it is validated once, here.

    Args:
        data: Plain data with `modelwright` or `kind`, of any version that can be read.

    Returns:
        The config.

    Raises:
        ConfigError: With everything that is wrong, without places.
    """
    if RUN_KEY in data:
        return validated(RunConfig, _run_fields(data))
    try:
        cls, fields = RegisteredKind().split(data)
    except PydanticCustomError as error:
        raise key_problem(error) from None
    return cast("ModelConfig", validated(cls, fields))


def current_data(data: Mapping[str, object]) -> dict[str, object]:
    """Convert a document to the installed versions.

    Args:
        data: Plain data of a valid run or model, of any version that can be read.

    Returns:
        The same fields in the installed versions.

    Raises:
        ConfigError: If a migration is missing.
    """
    if RUN_KEY not in data:
        return _current_model(data)
    fields = _run_fields(data)
    return {**fields, "model": _current_model(cast("Mapping[str, object]", fields["model"]))}


def _run_fields(data: Mapping[str, object]) -> dict[str, object]:
    """Migrate everything outside the model. Validation reports a version that is not an older one."""
    given = data.get(RUN_KEY)
    if type(given) is not int or not 1 <= given < run.FILE_VERSION:
        return dict(data)
    rest = {key: value for key, value in data.items() if key != RUN_KEY}
    try:
        return {RUN_KEY: run.FILE_VERSION, **migrated(RUN, rest, start=given, end=run.FILE_VERSION)}
    except PydanticCustomError as error:
        raise key_problem(error, RUN_KEY) from None


def _current_model(data: Mapping[str, object]) -> dict[str, object]:
    """Migrate a model."""
    cls, fields = RegisteredKind().split(data)
    version = cast("type[ModelConfig]", cls).version
    return {"kind": data["kind"], **({"version": version} if version > 1 else {}), **fields}
