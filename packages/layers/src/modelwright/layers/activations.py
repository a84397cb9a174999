"""Activation functions behind the names that a config may use.

A config names an activation from a closed vocabulary; here is what each name computes, and how code adds one.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from modelwright.config import register_activation_name
from modelwright.protocols import ModelwrightError, did_you_mean

type ActivationFunction = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Activation:
    """What a name stands for."""

    function: ActivationFunction
    """Element by element."""
    gated: bool
    """Whether fc1 makes a second half that the activated first is multiplied by (Shazeer 2020, arXiv 2002.05202)."""


def _gelu_tanh(hidden: Tensor) -> Tensor:
    return F.gelu(hidden, approximate="tanh")


def _squared_relu(hidden: Tensor) -> Tensor:
    return torch.square(F.relu(hidden))


_activations = {
    "geglu": Activation(F.gelu, gated=True),
    "gelu": Activation(F.gelu, gated=False),
    "gelu_tanh": Activation(_gelu_tanh, gated=False),
    "relu": Activation(F.relu, gated=False),
    "silu": Activation(F.silu, gated=False),
    "squared_relu": Activation(_squared_relu, gated=False),
    "swiglu": Activation(F.silu, gated=True),
}


def register_activation(name: str, function: ActivationFunction, *, gated: bool = False) -> None:
    """Add a name that configs may use from now on.

    Args:
        name: What a file writes after `activation:`.
        function: Element by element.
        gated: Whether fc1 is twice as wide and its second half is multiplied by the activated first half.
    """
    register_activation_name(name, gated=gated)
    _activations[name] = Activation(function, gated=gated)


def activation(name: str) -> Activation:
    """What a name stands for.

    Args:
        name: As written in a config.

    Returns:
        The function and whether it is gated.

    Raises:
        ModelwrightError: Nothing is registered under the name.
    """
    if name not in _activations:
        raise ModelwrightError(
            f"`activation` must be one of {', '.join(sorted(_activations))}, but is {name!r}"
            f"{did_you_mean(name, _activations) or '; add it with `register_activation`.'}"
        )
    return _activations[name]
