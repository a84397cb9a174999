"""`convert` uses the readers of every installed family, and names the class that none of them converts."""

from collections.abc import Mapping
from typing import Any

import pytest

from modelwright.config import (
    ConfigError,
    ModelConfig,
    UpstreamSection,
    config_class,
    convert,
    register_config,
    register_upstream,
)

TARGET = "elsewhere.models.ToyModelConfig"


@register_config
@config_class
class UpstreamToyConfig(ModelConfig):
    """A family of the tests, which reads an upstream class that no other family reads."""

    kind = "upstream-toy"

    width: int
    """Called `hidden_size` upstream."""


@register_upstream(TARGET)
def from_toy(model: UpstreamSection) -> Mapping[str, Any] | None:
    """Read a model without experts."""
    transformer = model.section("transformer")
    if transformer.seen("num_moe_experts"):
        return None
    return {"kind": "upstream-toy", "width": transformer.take("hidden_size")}


def test_any_family_with_a_reader_is_converted() -> None:
    converted = convert({"_target_": TARGET, "transformer": {"hidden_size": 8}, "extra": 1})
    assert converted.config.model == UpstreamToyConfig(width=8)
    assert [str(one) for one in converted.unmapped] == ["extra: 1 (no counterpart)"]


def test_a_model_that_no_reader_accepts_names_its_class_and_the_readers() -> None:
    with pytest.raises(ConfigError) as caught:
        convert({"_target_": TARGET, "transformer": {"hidden_size": 8, "num_moe_experts": 4}})
    (problem,) = caught.value.problems
    assert (problem.code, problem.path) == ("wrong_value", "_target_")
    assert f"`{TARGET}`" in problem.message
    assert f"`{__name__}`" in problem.message


def test_a_class_without_a_reader_is_named_with_those_that_have_one() -> None:
    with pytest.raises(ConfigError) as caught:
        convert({"_target_": "elsewhere.models.OtherConfig"})
    (problem,) = caught.value.problems
    assert (problem.code, problem.path) == ("wrong_value", "_target_")
    assert f"`{TARGET}`" in problem.message
    assert "`elsewhere.models.OtherConfig`" in problem.message
