"""Check of a model against its parallelism, before anything is allocated."""

from typing import TYPE_CHECKING

from modelwright.config.problems.problem import ConfigError

if TYPE_CHECKING:
    from modelwright.config.model.base import ModelConfig
    from modelwright.config.run.parallelism import Parallelism

__all__ = ["check_layout"]


def check_layout(model: "ModelConfig", parallelism: "Parallelism") -> None:
    """Check the sizes of a model against the axes.

    Args:
        model: The model.
        parallelism: Sizes of the axes.

    Raises:
        ConfigError: If they do not fit; carries every problem, with paths relative to the model.
    """
    problems = tuple(model.layout_problems(parallelism))
    if problems:
        raise ConfigError(problems)
