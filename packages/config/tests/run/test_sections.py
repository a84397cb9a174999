"""Configs made in Python: frozen, strict, hashable, with the rules of each section."""

import dataclasses
import pickle
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

import modelwright.config
from modelwright.config import (
    ConfigError,
    ConstantSchedule,
    FrozenMapping,
    MegatronDDP,
    ModelConfig,
    Parallelism,
    Problem,
    RunConfig,
    TrainConfig,
    activation_is_gated,
    activation_names,
    check_layout,
    config_class,
    config_class_for,
    multiple_of,
    preset,
    register_activation_name,
    register_config,
    register_preset,
    replace,
)
from modelwright.config.model import activations
from modelwright.protocols import ModelwrightError
from tests.messages import facts


@register_config
@config_class
class SectionsToyConfig(ModelConfig):
    """A family of the tests, with a rule of its own about layouts."""

    kind: ClassVar[str] = "sections-toy"
    builder: ClassVar[str] = "collections:OrderedDict"

    width: int = 8
    """What `tensor` cuts."""

    def layout_problems(self, parallelism: Parallelism) -> Iterator[Problem]:
        yield from multiple_of("width", self.width, parallelism.tensor, "`tensor`")


@register_preset
def sections_toy_wide() -> SectionsToyConfig:
    """A preset of the tests."""
    return SectionsToyConfig(width=64)


def facts_of(function: Any, *args: Any, **values: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        function(*args, **values)
    return facts(caught.value)


def test_the_door_is_sorted_and_complete() -> None:
    exported = modelwright.config.__all__
    assert exported == sorted(exported, key=lambda name: (not name.isupper(), name[0].islower(), name))  # as ruff does
    assert [name for name in exported if getattr(modelwright.config, name, None) is None] == []


def test_importing_loads_no_torch_and_no_yaml() -> None:
    code = (
        "import sys, modelwright.config as c; c.TrainConfig(); print(*sorted({n.split('.')[0] for n in sys.modules}))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {"torch", "megatron", "numpy", "ruamel"} & set(loaded)


def test_a_config_is_frozen_and_hashable() -> None:
    config = SectionsToyConfig(engine={"a": [1, {"b": 2}]})
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.width = 3  # type: ignore[misc]
    assert hash(config) == hash(SectionsToyConfig(engine={"a": (1, {"b": 2})}))
    assert isinstance(config.engine, FrozenMapping)
    assert config.engine == {"a": (1, {"b": 2})}
    assert repr(config.engine) == "{'a': (1, {'b': 2})}"
    assert pickle.loads(pickle.dumps(config)) == config  # noqa: S301  # our own bytes


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"widht": 1}, "unknown_field: `widht` `sections-toy` `width`"),
        ({"width": "8"}, 'wrong_type: `width` "8"'),
        ({"width": True}, "wrong_type: `width` true"),
        ({"engine": 3}, "wrong_type: `engine` 3"),
        (
            {"engine": {"a": object()}},
            "not_plain: `a` true false null `object`",
        ),
    ],
)
def test_a_constructor_says_what_is_wrong(values: dict[str, Any], expected: str) -> None:
    assert facts_of(SectionsToyConfig, **values) == expected


def test_a_constructor_says_everything_that_is_wrong() -> None:
    problems = facts_of(TrainConfig, steps=0, lr=-1, data=3).splitlines()
    assert problems == [
        "wrong_value: `steps` 1 0",
        "wrong_value: `lr` 0.0 -1",
        "not_a_string: `data` null 3",
    ]


def test_a_section_takes_objects_not_dicts() -> None:
    kinds = "`NoWrap` `MegatronDDP` `MegatronFSDP` `TorchFSDP2`"
    expected = f"wrong_type: `wrap` {kinds}"
    assert facts_of(RunConfig, model=SectionsToyConfig(), wrap={"kind": "none"}) == expected
    expected = "wrong_type: `model` `ModelConfig`"
    assert facts_of(RunConfig, model={"kind": "sections-toy"}) == expected


def test_config_errors_are_modelwright_errors_and_pickle() -> None:
    error = ConfigError([Problem("b", "second", 2, 1, "f"), Problem("c", "last"), Problem("a", "first", 1, 4, "f")])
    assert isinstance(error, ModelwrightError)
    assert str(error) == "f:1:4: first\nf:2:1: second\nlast"
    again = pickle.loads(pickle.dumps(error))  # noqa: S301  # our own bytes
    assert again.problems == error.problems


def test_replace_is_validated() -> None:
    assert replace(TrainConfig(), steps=5).steps == 5
    assert facts_of(replace, TrainConfig(), stepz=5) == "unknown_field: `stepz` `TrainConfig` `steps`"
    assert facts_of(replace, TrainConfig(), micro_batch=3) == "`global_batch` `micro_batch` 8 3 6 9"


@pytest.mark.parametrize(
    ("axes", "expected"),
    [
        (
            {"sequence": True},
            "`sequence` `tensor` 1 `tensor` 1 `sequence: false` `tensor`",
        ),
        (
            {"virtual_pipeline": 2},
            "`virtual_pipeline` 1 `pipeline` 1 2 `pipeline` 1 `virtual_pipeline: 1` `pipeline`",
        ),
        (
            {"expert": 4, "tensor": 2, "data": 2},
            "`data` 4 `expert` 4 `expert_tensor` 2 `tensor` `context` `data` 2 4",
        ),
    ],
)
def test_parallelism_has_rules(axes: dict[str, Any], expected: str) -> None:
    assert facts_of(Parallelism, **axes) == expected


@pytest.mark.parametrize(
    ("axes", "launched", "world", "data"),
    [
        ({}, None, 1, 1),
        ({}, 8, 8, 8),
        ({"tensor": 2, "pipeline": 3, "context": 2}, None, 12, 1),
        ({"tensor": 2, "pipeline": 3, "context": 2}, 24, 24, 2),
        ({"tensor": 2, "data": 3}, None, 6, 3),
        ({"tensor": 2, "data": 3}, 6, 6, 3),
        ({"expert": 2}, None, 2, 2),
        ({"tensor": 2, "expert": 2, "expert_tensor": 1}, None, 2, 1),
        ({"tensor": 2, "expert": 4}, None, 8, 4),
    ],
)
def test_world_size(axes: dict[str, Any], launched: int | None, world: int, data: int) -> None:
    assert Parallelism(**axes).world_size(launched) == world
    assert Parallelism(**axes).data_size(launched) == data


@pytest.mark.parametrize(
    ("axes", "launched", "expected"),
    [
        (
            {"tensor": 2, "pipeline": 2},
            6,
            "`tensor` 2 `pipeline` 2 `context` 1 4 6 4",
        ),
        (
            {"tensor": 2, "data": 2},
            8,
            "`tensor` 2 `pipeline` 1 `context` 1 `data` 2 4 8 4 `data`",
        ),
        (
            {"expert": 2},
            3,
            "`tensor` 1 `pipeline` 1 `context` 1 1 2 `expert` 2 `expert_tensor` 1 3 2",
        ),
    ],
)
def test_launches_that_do_not_fit(axes: dict[str, Any], launched: int, expected: str) -> None:
    assert facts_of(Parallelism(**axes).check_world_size, launched) == expected


def test_a_run_checks_its_sections_against_each_other() -> None:
    axes = Parallelism(tensor=3, data=3)
    expected = facts_of(RunConfig, model=SectionsToyConfig(), parallelism=axes)
    assert expected.splitlines() == [
        "`width` `tensor` 8 3 6 9",
        "`global_batch` `micro_batch` 4 3 8 12 12",
    ]
    axes = Parallelism(pipeline=2, virtual_pipeline=2)
    assert (
        facts_of(RunConfig, model=SectionsToyConfig(), parallelism=axes, train=TrainConfig(global_batch=12))
        == "`global_batch` `micro_batch` 4 1 `pipeline` 2 12 8 8 16"
    )


def test_check_layout() -> None:
    check_layout(SectionsToyConfig(), Parallelism(tensor=4))
    assert facts_of(check_layout, SectionsToyConfig(), Parallelism(tensor=5)) == "`width` `tensor` 8 5 5 10"


def test_the_registry() -> None:
    assert config_class_for("sections-toy") is SectionsToyConfig
    assert register_config(SectionsToyConfig) is SectionsToyConfig
    assert "`sections-toy`" in facts_of(config_class_for, "section-toy")


def test_a_taken_kind_is_refused() -> None:
    @config_class
    class Other(ModelConfig):
        kind: ClassVar[str] = "sections-toy"

    here = f"{__name__}.test_a_taken_kind_is_refused.<locals>.Other"
    assert facts_of(register_config, Other) == f"`sections-toy` `{__name__}.SectionsToyConfig` `{here}`"


def test_a_class_without_a_kind_is_refused() -> None:
    @config_class
    class Nameless(ModelConfig):
        pass

    expected = '`Nameless` `kind` `kind: ClassVar[str] = "mine"`'
    assert facts_of(register_config, Nameless) == expected
    assert facts_of(Nameless.get_builder_cls) == "`Nameless.builder` `package.module:Class`"


def test_the_builder_is_of_the_class() -> None:
    import collections

    assert SectionsToyConfig.get_builder_cls() is collections.OrderedDict
    assert (
        facts_of(SectionsToyConfig.from_dict, {"builder": "os:system"})
        == "unknown_field: `builder` `sections-toy` `engine` `width`"
    )


def test_a_builder_that_is_not_there() -> None:
    @config_class
    class Lost(ModelConfig):
        kind: ClassVar[str] = "lost"
        builder: ClassVar[str] = "no_such_module.Builder"

    assert facts_of(Lost.get_builder_cls) == "`Lost.builder` `no_such_module.Builder` 'no_such_module'"


def test_presets() -> None:
    assert preset("sections_toy_wide") == SectionsToyConfig(width=64)
    assert "`sections_toy_wide`" in facts_of(preset, "sections_toy_wid")


def test_activation_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activations, "_GATED", dict(activations._GATED))
    assert activation_names()[:7] == ("swiglu", "geglu", "gelu", "gelu_tanh", "relu", "squared_relu", "silu")
    assert activation_is_gated("swiglu")
    register_activation_name("test_act", gated=True)
    register_activation_name("test_act", gated=True)
    assert activation_is_gated("test_act")
    assert facts_of(register_activation_name, "test_act") == "`test_act`"


def test_schedules_share_what_the_engine_reads() -> None:
    assert ConstantSchedule().min_lr == 0.0
    assert MegatronDDP().grad_reduce_in_fp32


def test_a_seed_fits_the_generators_of_torch() -> None:
    """The seed of the last step of the longest run still fits 64 bits."""
    assert TrainConfig(seed=2**63 - 1).seed == 2**63 - 1
    for seed in (2**63, -1):
        with pytest.raises(ConfigError) as caught:
            TrainConfig(seed=seed)
        assert [(one.code, one.path) for one in caught.value.problems] == [("wrong_value", "seed")]


def test_evaluation_needs_a_text() -> None:
    assert TrainConfig(validation_fraction=0.0).eval_interval is None
    assert facts_of(TrainConfig, validation_fraction=0.0, eval_interval=5) == (
        "`eval_interval` null `validation_fraction` 0 5"
    )
