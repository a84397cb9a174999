"""Activation functions by the names that a config may use.

A config names an activation from a closed vocabulary. This module has the function of each name; `modelwright.config`
records which names are gated. `register_activation` adds a name.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from modelwright.config import activation_is_gated, register_activation_name
from modelwright.protocols import ModelwrightError, did_you_mean

type ActivationFunction = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Activation:
    """Activation of an MLP or expert."""

    function: ActivationFunction
    """Elementwise function."""
    gated: bool
    """True if fc1 is twice as wide and its second half is multiplied by the activated first half (Shazeer 2020,
    arXiv 2002.05202)."""


def _gelu_tanh(hidden: Tensor) -> Tensor:
    return F.gelu(hidden, approximate="tanh")


def _squared_relu(hidden: Tensor) -> Tensor:
    return torch.square(F.relu(hidden))


_functions: dict[str, ActivationFunction] = {
    "geglu": F.gelu,
    "gelu": F.gelu,
    "gelu_tanh": _gelu_tanh,
    "relu": F.relu,
    "silu": F.silu,
    "squared_relu": _squared_relu,
    "swiglu": F.silu,
}


def register_activation(name: str, function: ActivationFunction, *, gated: bool = False) -> None:
    """Add a name that configs may use from now on.

    Args:
        name: Value of `activation:` in a run file.
        function: Elementwise function.
        gated: True if fc1 is twice as wide and its second half is multiplied by the activated first half.

    Raises:
        ConfigError: The name exists and differs in `gated`.
    """
    register_activation_name(name, gated=gated)
    _functions[name] = function


def activation(name: str) -> Activation:
    """Return the activation of a name.

    Args:
        name: Value of `activation` in a config.

    Returns:
        The function, and whether it is gated.

    Raises:
        ModelwrightError: No activation is registered under the name.
    """
    if name not in _functions:
        raise ModelwrightError(
            f"`activation` must be one of {', '.join(sorted(_functions))}, but is {name!r}"
            f"{did_you_mean(name, _functions) or '; add it with `register_activation`.'}"
        )
    return Activation(_functions[name], gated=activation_is_gated(name))
