"""Dtypes of a model's parameters."""

from typing import Literal

from modelwright.config.strict.config_class import Config, config_class

__all__ = ["Precision"]


@config_class
class Precision(Config):
    """Dtypes of a run. In Python, a derived class may define a custom module wrapper."""

    params: Literal["float32", "bfloat16", "float16"] = "float32"
    """Dtype of parameters and activations. For a 16-bit dtype the optimizer keeps a copy in float32."""

    keep_float32: tuple[str, ...] = ()
    """Name patterns of parameters that stay in float32, such as `*norm*`, if `params` is a 16-bit dtype. Their module
    computes in float32, with all of its own parameters: a bias stays with its weight."""
