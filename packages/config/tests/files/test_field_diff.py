"""`diff` says every field that differs, and only those."""

import math
from typing import ClassVar

from modelwright.config import (
    ABSENT,
    Difference,
    ModelConfig,
    NoWrap,
    RunConfig,
    TrainConfig,
    config_class,
    diff,
    override,
    register_config,
    replace,
)


@register_config
@config_class
class DiffToyConfig(ModelConfig):
    """A family of the tests."""

    kind: ClassVar[str] = "diff-toy"

    width: int = 8
    """A field."""

    scale: float = 1.0
    """A float."""


RUN = RunConfig(model=DiffToyConfig())


def lines(left: RunConfig | ModelConfig, right: RunConfig | ModelConfig) -> list[str]:
    return [str(one) for one in diff(left, right)]


def test_equal_configs_do_not_differ() -> None:
    assert diff(RUN, replace(RUN, train=TrainConfig())) == ()
    nan = DiffToyConfig(scale=math.nan)
    assert diff(nan, DiffToyConfig(scale=math.nan)) == ()
    assert lines(nan, DiffToyConfig()) == ["scale: NaN → 1.0 (default)"]


def test_paths_values_and_defaults() -> None:
    other = override(RUN, ["train.lr=0.1", "model.engine.a.b=[1]", "name=x"])
    assert lines(RUN, other) == [
        'name: null (default) → "x"',
        "model.engine: {} (default) → absent",
        "train.lr: 0.0003 (default) → 0.1",
        "model.engine.a.b: absent → [1]",
    ]
    assert diff(other, RUN)[1] == Difference(
        path="model.engine.a.b", left=[1], right=ABSENT, left_is_default=False, right_is_default=False
    )


def test_another_kind() -> None:
    found = lines(RUN, replace(RUN, wrap=NoWrap()))
    assert found[0] == 'wrap.kind: "ddp" (default) → "none"'
    assert all(line.endswith("→ absent") for line in found[1:])


def test_a_model_and_a_run() -> None:
    assert 'model.kind: absent → "diff-toy"' in lines(DiffToyConfig(), RUN)
