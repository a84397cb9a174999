"""Stack specs under names."""

import pytest

from modelwright.layers import MlpLayerSpec, StackSpec, TorchNorm, register_stack, registered_stack
from modelwright.protocols import ModelwrightError
from packages.layers.tests.toy import ToyConfig
from tests.messages import facts

pytestmark = pytest.mark.usefixtures("registries")


class OtherNorm(TorchNorm):
    """A custom part."""


def test_a_name_gives_the_spec_for_a_config() -> None:
    seen = []

    def toy(config: object) -> StackSpec:
        seen.append(config)
        return StackSpec(final_norm=OtherNorm)

    register_stack("toy", toy)
    config = ToyConfig()
    assert registered_stack("toy", config) == StackSpec(final_norm=OtherNorm)
    assert seen == [config]
    register_stack("toy", lambda config: StackSpec(mlp=MlpLayerSpec(pre_mlp_layernorm=OtherNorm)))
    assert registered_stack("toy", config).final_norm is TorchNorm


def test_an_unknown_name() -> None:
    register_stack("toy", lambda config: StackSpec())
    with pytest.raises(ModelwrightError) as caught:
        registered_stack("toi", ToyConfig())
    assert facts(caught.value) == "`stack` 'toi' `toy` `toy` `register_stack` `--import`"
