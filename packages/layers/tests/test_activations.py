"""The activations that a config may name, and adding one."""

from collections.abc import Callable

import pytest
import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from torch import Tensor

from modelwright.config import activation_is_gated, activation_names
from modelwright.layers import activation, register_activation
from modelwright.protocols import ModelwrightError
from packages.layers.tests.toy import ToyConfig, build
from tests.messages import facts

X = torch.linspace(-3, 3, 25, dtype=torch.float64)


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / 2**0.5)) / 2


FORMULAS: dict[str, Callable[[Tensor], Tensor]] = {
    "geglu": gelu,
    "gelu": gelu,
    "gelu_tanh": lambda x: x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3))) / 2,
    "relu": lambda x: x.clamp(min=0),
    "silu": lambda x: x / (1 + torch.exp(-x)),
    "squared_relu": lambda x: x.clamp(min=0) ** 2,
    "swiglu": lambda x: x / (1 + torch.exp(-x)),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_the_built_in_ones(name: str) -> None:
    assert torch.allclose(activation(name).function(X), FORMULAS[name](X))


def test_every_name_of_a_config_has_a_function() -> None:
    assert set(FORMULAS) <= set(activation_names())
    for name in activation_names():
        assert activation(name).gated == activation_is_gated(name)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.usefixtures("registries")
def test_a_model_uses_a_registered_one(groups: ProcessGroupCollection, gated: bool) -> None:
    name = f"toy_cube_{'gated' if gated else 'plain'}"
    register_activation(name, lambda x: x**3, gated=gated)
    assert activation_is_gated(name) == gated
    mlp = build(groups, ToyConfig(activation=name)).decoder.layers[1].mlp
    hidden = torch.randn(3, 1, 16)
    wide = hidden @ mlp.linear_fc1.weight.T
    assert wide.size(-1) == (48 if gated else 24)
    inner = wide[..., :24] ** 3 * wide[..., 24:] if gated else wide**3
    assert torch.allclose(mlp(hidden)[0], inner @ mlp.linear_fc2.weight.T, atol=1e-6)


def test_what_a_test_registered_is_gone_after_it() -> None:
    """Tests of other packages in the same process compare messages that list the names."""
    assert set(activation_names()) == set(FORMULAS)


def test_an_unknown_name() -> None:
    with pytest.raises(ModelwrightError) as caught:
        activation("swiglo")
    assert facts(caught.value).startswith("`activation` gelu_tanh squared_relu")
    assert facts(caught.value).endswith("'swiglo' `swiglu`")
