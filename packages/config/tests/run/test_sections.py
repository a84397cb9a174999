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


def message_of(function: Any, *args: Any, **values: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        function(*args, **values)
    return str(caught.value)


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
    ("values", "message"),
    [
        ({"widht": 1}, "`widht` is not a field of `sections-toy`; did you mean `width`?"),
        ({"width": "8"}, '`width` must be an integer, but the string "8" was given.'),
        ({"width": True}, "`width` must be an integer, but true was given."),
        ({"engine": 3}, "`engine` must be a mapping of names to values, but 3 was given."),
        (
            {"engine": {"a": object()}},
            "`a` must be a number, a string, true, false, null, a list or a mapping, but a `object` was given.",
        ),
    ],
)
def test_a_constructor_says_what_is_wrong(values: dict[str, Any], message: str) -> None:
    assert message_of(SectionsToyConfig, **values) == message


def test_a_constructor_says_everything_that_is_wrong() -> None:
    problems = message_of(TrainConfig, steps=0, lr=-1, data=3).splitlines()
    assert problems == [
        "`steps` must be at least 1, but 0 was given.",
        "`lr` must be above 0.0, but -1 was given.",
        "`data` must be a string or null, but 3 was given.",
    ]


def test_a_section_takes_objects_not_dicts() -> None:
    kinds = "`NoWrap`, `MegatronDDP`, `MegatronFSDP` or `TorchFSDP2`"
    expected = f"`wrap` must be a config ({kinds}), but a mapping was given."
    assert message_of(RunConfig, model=SectionsToyConfig(), wrap={"kind": "none"}) == expected
    expected = "`model` must be a config (`ModelConfig`), but a mapping was given."
    assert message_of(RunConfig, model={"kind": "sections-toy"}) == expected


def test_config_errors_are_modelwright_errors_and_pickle() -> None:
    error = ConfigError([Problem("b", "second", 2, 1, "f"), Problem("c", "last"), Problem("a", "first", 1, 4, "f")])
    assert isinstance(error, ModelwrightError)
    assert str(error) == "f:1:4: first\nf:2:1: second\nlast"
    again = pickle.loads(pickle.dumps(error))  # noqa: S301  # our own bytes
    assert again.problems == error.problems


def test_replace_is_validated() -> None:
    assert replace(TrainConfig(), steps=5).steps == 5
    assert (
        message_of(replace, TrainConfig(), stepz=5) == "`stepz` is not a field of `TrainConfig`; did you mean `steps`?"
    )
    assert message_of(replace, TrainConfig(), micro_batch=3) == (
        "`global_batch` must be a multiple of `micro_batch`, but 8 is not a multiple of 3; use 6 or 9."
    )


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        (
            {"sequence": True},
            "`sequence` needs `tensor` above 1, but `tensor` is 1; set `sequence: false` or raise `tensor`.",
        ),
        (
            {"virtual_pipeline": 2},
            (
                "`virtual_pipeline` above 1 needs `pipeline` above 1, but 2 was given and `pipeline` is 1;"
                " set `virtual_pipeline: 1` or raise `pipeline`."
            ),
        ),
        (
            {"expert": 4, "tensor": 2, "data": 2},
            (
                "`data` must be a multiple of 4, so that `expert` 4 × `expert_tensor` 2 divides"
                " `tensor` × `context` × `data`, but 2 is not; use 4 or leave it out."
            ),
        ),
    ],
)
def test_parallelism_has_rules(axes: dict[str, Any], message: str) -> None:
    assert message_of(Parallelism, **axes) == message


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
    ("axes", "launched", "message"),
    [
        (
            {"tensor": 2, "pipeline": 2},
            6,
            (
                "the number of processes must be a multiple of "
                "`tensor` 2 × `pipeline` 2 × `context` 1 = 4,"
                " but 6 were launched; launch 4, or change an axis."
            ),
        ),
        (
            {"tensor": 2, "data": 2},
            8,
            (
                "the number of processes must be `tensor` 2 × `pipeline` 1 × `context` 1 × `data` 2 = 4,"
                " but 8 were launched; launch 4, or leave `data` out."
            ),
        ),
        (
            {"expert": 2},
            3,
            (
                "the number of processes must be a multiple of "
                "`tensor` 1 × `pipeline` 1 × `context` 1 = 1,"
                " and of 2 for `expert` 2 × `expert_tensor` 1, but 3 were launched; launch 2, or change an axis."
            ),
        ),
    ],
)
def test_launches_that_do_not_fit(axes: dict[str, Any], launched: int, message: str) -> None:
    assert message_of(Parallelism(**axes).check_world_size, launched) == message


def test_a_run_checks_its_sections_against_each_other() -> None:
    axes = Parallelism(tensor=3, data=3)
    message = message_of(RunConfig, model=SectionsToyConfig(), parallelism=axes)
    assert message.splitlines() == [
        "`width` must be a multiple of `tensor`, but 8 is not a multiple of 3; use 6 or 9.",
        (
            "`global_batch` must be a multiple of `micro_batch` 4 × 3 copies of the model,"
            " but 8 is not a multiple of 12; use 12."
        ),
    ]
    axes = Parallelism(pipeline=2, virtual_pipeline=2)
    assert message_of(RunConfig, model=SectionsToyConfig(), parallelism=axes, train=TrainConfig(global_batch=12)) == (
        "`global_batch` must be a multiple of `micro_batch` 4 × 1 copies of the model × `pipeline` 2,"
        " because the stages interleave, but 12 is not a multiple of 8; use 8 or 16."
    )


def test_check_layout() -> None:
    check_layout(SectionsToyConfig(), Parallelism(tensor=4))
    assert message_of(check_layout, SectionsToyConfig(), Parallelism(tensor=5)) == (
        "`width` must be a multiple of `tensor`, but 8 is not a multiple of 5; use 5 or 10."
    )


def test_the_registry() -> None:
    assert config_class_for("sections-toy") is SectionsToyConfig
    assert register_config(SectionsToyConfig) is SectionsToyConfig
    assert "did you mean `sections-toy`?" in message_of(config_class_for, "section-toy")


def test_a_taken_kind_is_refused() -> None:
    @config_class
    class Other(ModelConfig):
        kind: ClassVar[str] = "sections-toy"

    here = f"{__name__}.test_a_taken_kind_is_refused.<locals>.Other"
    assert message_of(register_config, Other) == (
        f"the kind `sections-toy` belongs to `{__name__}.SectionsToyConfig` already; give `{here}` another one."
    )


def test_a_class_without_a_kind_is_refused() -> None:
    @config_class
    class Nameless(ModelConfig):
        pass

    expected = '`Nameless` must define its `kind`, as in `kind: ClassVar[str] = "mine"`.'
    assert message_of(register_config, Nameless) == expected
    assert message_of(Nameless.get_builder_cls) == (
        "`Nameless.builder` must name a class as `package.module:Class`, but nothing was given."
    )


def test_the_builder_is_of_the_class() -> None:
    import collections

    assert SectionsToyConfig.get_builder_cls() is collections.OrderedDict
    assert message_of(SectionsToyConfig.from_dict, {"builder": "os:system"}) == (
        "`builder` is not a field of `sections-toy`; it has `engine` and `width`."
    )


def test_a_builder_that_is_not_there() -> None:
    @config_class
    class Lost(ModelConfig):
        kind: ClassVar[str] = "lost"
        builder: ClassVar[str] = "no_such_module.Builder"

    assert message_of(Lost.get_builder_cls) == (
        "`Lost.builder` is `no_such_module.Builder`, which cannot be imported: No module named 'no_such_module'."
    )


def test_presets() -> None:
    assert preset("sections_toy_wide") == SectionsToyConfig(width=64)
    assert "did you mean `sections_toy_wide`?" in message_of(preset, "sections_toy_wid")


def test_activation_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activations, "_GATED", dict(activations._GATED))
    assert activation_names()[:7] == ("swiglu", "geglu", "gelu", "gelu_tanh", "relu", "squared_relu", "silu")
    assert activation_is_gated("swiglu")
    register_activation_name("test_act", gated=True)
    register_activation_name("test_act", gated=True)
    assert activation_is_gated("test_act")
    assert message_of(register_activation_name, "test_act") == (
        "the activation `test_act` exists already and is gated; use another name."
    )


def test_schedules_share_what_the_engine_reads() -> None:
    assert ConstantSchedule().min_lr == 0.0
    assert MegatronDDP().grad_reduce_in_fp32
