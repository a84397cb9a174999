"""Overrides are typed by the field and checked like a file."""

from typing import Any

import pytest

from modelwright.config import (
    ConfigError,
    CosineSchedule,
    LinearSchedule,
    ModelConfig,
    NoWrap,
    RunConfig,
    TrainConfig,
    config_class,
    override,
    register_config,
)
from tests.messages import facts


@register_config
@config_class
class OverrideToyConfig(ModelConfig):
    """A family of the tests."""

    kind = "override-toy"

    sizes: tuple[int, ...] = ()
    """A tuple."""


RUN = RunConfig(model=OverrideToyConfig())


@pytest.mark.parametrize(
    ("change", "path", "value"),
    [
        ("train.steps=5", "train.steps", 5),
        ("train.lr=1e-5", "train.lr", 1e-5),
        ("train.lr = 1", "train.lr", 1.0),
        ("name=no", "name", "no"),
        ("name=null", "name", None),
        ("name=", "name", None),
        ("name=123", "name", "123"),
        ('name="123"', "name", "123"),
        ("name=1e5", "name", "1e5"),
        ("train.data=2024", "train.data", "2024"),
        ("train.data=*-*E", "train.data", "*-*E"),
        ("train.data= *.txt # x", "train.data", "*.txt # x"),
        ("train.data=a=b.txt", "train.data", "a=b.txt"),
        ("model.sizes=[1, 2]", "model.sizes", (1, 2)),
        ("model.engine.foo=1", "model.engine", {"foo": 1}),
        ("model.engine={a: [1], b: {c: no}}", "model.engine", {"a": (1,), "b": {"c": "no"}}),
        ("wrap.kind=none", "wrap", NoWrap()),
        ("wrap={kind: none}", "wrap", NoWrap()),
        ("wrap.overlap_grad_reduce=true", "wrap.overlap_grad_reduce", True),
        ("train.lr_schedule.kind=linear", "train.lr_schedule", LinearSchedule()),
        ("train={steps: 3}", "train", TrainConfig(steps=3)),
        ("parallelism.data=null", "parallelism.data", None),
    ],
)
def test_override(change: str, path: str, value: Any) -> None:
    found: Any = override(RUN, change)
    for name in path.split("."):
        found = getattr(found, name)
    assert found == value
    assert type(found) is type(value) or path == "model.engine"


def test_several_are_applied_in_order_and_the_config_stays() -> None:
    changed = override(RUN, ["train.lr_schedule.warmup_steps=10", "train.lr_schedule.min_lr=1e-5", "train.steps=20"])
    assert changed.train.lr_schedule == CosineSchedule(warmup_steps=10, min_lr=1e-5)
    assert RunConfig(model=OverrideToyConfig()) == RUN


def test_a_model_alone() -> None:
    assert override(OverrideToyConfig(), "sizes=[3]") == OverrideToyConfig(sizes=(3,))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("train.stepz=1", "unknown_field: `train.stepz` `TrainConfig` `steps`"),
        ("trian.steps=1", "unknown_field: `trian` `RunConfig` `train`"),
        ("train.steps=abc", 'wrong_type: `train.steps` "abc"'),
        ("train.steps.x=1", "unknown_field: `train.steps` `train.steps.x`"),
        ("train.steps=0", "wrong_value: `train.steps` 1 0"),
        (
            "train.micro_batch=3",
            "`global_batch` `micro_batch` 8 3 6 9",
        ),
        (
            "wrap.kind=dpp",
            "wrong_value: `wrap.kind` `none` `ddp` `megatron_fsdp` `fsdp2` `dpp` `ddp`",
        ),
        ("train.steps", "syntax: `path=value` `train.steps=5` `train.steps`"),
        ("train..steps=1", "syntax: `path=value` `train.steps=5` `train..steps=1`"),
        ("name=[1", "syntax: ',' ']' '<stream end>'"),
        ("name=!!str x", "syntax: `tag:yaml.org,2002:str`"),
        ("model.kind=../x", None),
    ],
)
def test_a_bad_override_names_itself(change: str, expected: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        override(RUN, change)
    assert str(caught.value).startswith(f"--set {change}: ")
    assert expected is None or facts(caught.value).replace(f"--set {change} ", "") == expected


def test_every_bad_override_is_reported() -> None:
    with pytest.raises(ConfigError) as caught:
        override(RUN, ["train.stepz=1", "train.lr=x"])
    assert {(problem.source, problem.path) for problem in caught.value.problems} == {
        ("--set train.stepz=1", "train.stepz"),
        ("--set train.lr=x", "train.lr"),
    }
