"""From plain data to a config: pydantic validates, the project's words say what is wrong."""

from collections.abc import Mapping
from typing import Any, cast

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from modelwright.config.files.migrations import migrated
from modelwright.config.model.base import ModelConfig
from modelwright.config.model.kind_registry import RUN, RegisteredKind, current_fields
from modelwright.config.problems.problem import ConfigError, Problem
from modelwright.config.problems.pydantic_errors import described, dotted, problems_of
from modelwright.config.run.run import FILE_VERSION, RunConfig
from modelwright.config.strict.by_kind import make
from modelwright.config.strict.config_class import Config
from modelwright.config.strict.plain_data import not_plain

__all__ = ["current_document", "model_from_dict", "validate", "validate_model", "validate_run"]


def validate[ConfigT: Config](cls: type[ConfigT], data: Mapping[str, object]) -> ConfigT:
    """Make a config of plain data.

    Args:
        cls: Its class.
        data: Plain data of its fields, already known to be plain.

    Returns:
        The config.

    Raises:
        ConfigError: With everything that is wrong.
    """
    try:
        return cast("ConfigT", make(cls, data))
    except ValidationError as error:
        raise ConfigError(problems_of(error, cls, data)) from None


def validate_model(data: Mapping[str, object]) -> ModelConfig:
    """Make a model config of plain data with a `kind`.

    Args:
        data: Plain data, already known to be plain.

    Returns:
        A config of the registered class.

    Raises:
        ConfigError: With everything that is wrong.
    """
    try:
        cls, fields = RegisteredKind().split(data)
    except PydanticCustomError as error:
        raise _key_problem(error) from None
    return cast("ModelConfig", validate(cls, fields))


def validate_run(data: Mapping[str, object]) -> RunConfig:
    """Make the config of a run of plain data with `modelwright`.

    Args:
        data: Plain data, already known to be plain.

    Returns:
        The run.

    Raises:
        ConfigError: With everything that is wrong.
    """
    try:
        fields = _current_run(data)
    except PydanticCustomError as error:
        message = f"`modelwright` {cast('dict[str, str]', error.context)['rest']}"
        raise ConfigError((Problem("modelwright", message),)) from None
    return validate(RunConfig, fields)


def current_document(data: Mapping[str, object]) -> dict[str, object]:
    """The plain data of a valid document as its installed version would say the same.

    Args:
        data: Plain data of a run or a model that is valid, maybe of an older version.

    Returns:
        The same fields, in the words of the current version.
    """
    if "modelwright" not in data:
        return _current_model(data)
    run = _current_run(data)
    return {**run, "model": _current_model(cast("Mapping[str, object]", run["model"]))}


def _current_run(data: Mapping[str, object]) -> dict[str, object]:
    """What surrounds the model, brought up to date; what is no older version is left for validation to judge."""
    given = data.get("modelwright")
    if type(given) is not int or not 1 <= given < FILE_VERSION:
        return dict(data)
    rest = {key: value for key, value in data.items() if key != "modelwright"}
    return {"modelwright": FILE_VERSION, **migrated(RUN, rest, start=given, end=FILE_VERSION)}


def _current_model(data: Mapping[str, object]) -> dict[str, object]:
    """A model, brought up to date."""
    cls, fields = RegisteredKind().split(data)
    version = cast("type[ModelConfig]", cls).version
    return {"kind": data["kind"], **({"version": version} if version > 1 else {}), **fields}


def model_from_dict[ConfigT: ModelConfig](cls: type[ConfigT], data: Mapping[str, Any]) -> ConfigT:
    """What `ModelConfig.from_dict` does.

    Args:
        cls: The class that was asked.
        data: Anything a caller has.

    Returns:
        A config of that class or of a subclass.

    Raises:
        ConfigError: With everything that is wrong.
    """
    problems = tuple(not_plain(data))
    if problems:
        raise ConfigError(problems)
    own = getattr(cls, "kind", None)
    if own is None or data.get("kind", own) != own:
        made = validate_model(data)
        if isinstance(made, cls):
            return made
        raise ConfigError((Problem("kind", f"`kind` must be `{own}`, but {described(data['kind'])} was given."),))
    try:
        fields = current_fields(cls, {key: value for key, value in data.items() if key != "kind"})
    except PydanticCustomError as error:
        raise _key_problem(error) from None
    return validate(cls, fields)


def _key_problem(error: PydanticCustomError) -> ConfigError:
    """An error about `kind` or `version` at the top of the data."""
    context = cast("dict[str, str]", error.context)
    path = dotted((context["key"],))
    return ConfigError((Problem(path, f"`{path}` {context['rest']}"),))
