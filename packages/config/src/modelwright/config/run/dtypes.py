"""The number format of a model's parameters."""

from typing import Literal

from modelwright.config.strict.config_class import Config, config_class

__all__ = ["Precision"]


@config_class
class Precision(Config):
    """The number formats of a run; in code, a class derived from it may bring a wrapper of its own."""

    params: Literal["float32", "bfloat16", "float16"] = "float32"
    """Format of parameters and activations; the optimizer keeps its own copy in float32 below that."""

    keep_float32: tuple[str, ...] = ()
    """Parameters that stay float32, as patterns of their names such as `*norm*`, when `params` is a shorter format."""
