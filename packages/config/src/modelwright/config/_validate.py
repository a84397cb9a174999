"""From plain data to a config: pydantic validates, the project's words say what is wrong."""

from collections.abc import Mapping
from typing import Any, cast

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from modelwright.config._base import Config
from modelwright.config._by_kind import make
from modelwright.config._errors import ConfigError, Problem
from modelwright.config._explain import described, dotted, problems_of
from modelwright.config._model import ModelConfig
from modelwright.config._plain import not_plain
from modelwright.config._registry import RegisteredKind, without_version

__all__ = ["model_from_dict", "validate", "validate_model"]


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
        fields = without_version(cls, {key: value for key, value in data.items() if key != "kind"})
    except PydanticCustomError as error:
        raise _key_problem(error) from None
    return validate(cls, fields)


def _key_problem(error: PydanticCustomError) -> ConfigError:
    """An error about `kind` or `version` at the top of the data."""
    context = cast("dict[str, str]", error.context)
    path = dotted((context["key"],))
    return ConfigError((Problem(path, f"`{path}` {context['rest']}"),))
