"""Validation: the one function that makes a config of plain data.

pydantic validates, in its JSON mode, the only mode that is strict and accepts nested data. Its errors become problems
in the wording of this project.
"""

from collections.abc import Mapping
from typing import cast

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from modelwright.config.problems.problem import ConfigError, Problem
from modelwright.config.strict.by_kind import make
from modelwright.config.strict.config_class import Config
from modelwright.config.strict.pydantic_errors import problems_of

__all__ = ["key_problem", "validated"]


def validated[ConfigT: Config](cls: type[ConfigT], fields: Mapping[str, object]) -> ConfigT:
    """Make a config of plain data.

    Args:
        cls: Class of the config.
        fields: Plain data of the fields, without `kind` and `version`.

    Returns:
        The config.

    Raises:
        ConfigError: With everything that is wrong.
    """
    try:
        return cast("ConfigT", make(cls, fields))
    except ValidationError as error:
        raise ConfigError(problems_of(error, cls, fields)) from None


def key_problem(error: PydanticCustomError, key: str | None = None) -> ConfigError:
    """Return the error for a wrong `kind` or `version` at the top of a document.

    Args:
        error: The exception that `key_error` made.
        key: Name of the key in the document. None: the name that the exception gives.

    Returns:
        The error to raise.
    """
    context = error.context or {}
    path = key or str(context["key"])
    return ConfigError((Problem(path, f"`{path}` {context['rest']}", code=context["code"]),))
