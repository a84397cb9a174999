"""Checks before anything is allocated: groups, layout and wrap that do not fit are reported in one error."""

from collections.abc import Iterator

import pytest
from megatron.core.process_groups_config import ProcessGroupCollection
from torch import nn

from modelwright.config import (
    MegatronFSDP,
    ModelConfig,
    NoWrap,
    Parallelism,
    Precision,
    Problem,
    TorchFSDP2,
    config_class,
)
from modelwright.distributed import BuildError, build_problems, build_stages
from tests.messages import facts

AXES = ("tp", "pp", "cp", "ep", "dp", "dp_cp")


@config_class
class OddConfig(ModelConfig):
    """Fits no layout with tensor parallelism."""

    def layout_problems(self, parallelism: Parallelism) -> Iterator[Problem]:
        if parallelism.tensor > 1:
            yield Problem("num_heads", "`num_heads` must be a multiple of `tensor`, but 3 is not; use 4.")


def problems(groups: ProcessGroupCollection, parallelism: Parallelism) -> list[str]:
    return list(
        map(facts, build_problems(ModelConfig(), groups, parallelism=parallelism, precision=Precision(), wrap=NoWrap()))
    )


def test_groups_of_the_parallelism(groups: ProcessGroupCollection) -> None:
    assert problems(groups, Parallelism()) == []
    assert problems(groups, Parallelism(data=1)) == []


def test_every_group_that_does_not_fit_is_named(groups: ProcessGroupCollection) -> None:
    some = ProcessGroupCollection(tp=groups.tp, pp=groups.pp, cp=groups.cp, dp=groups.dp)
    assert problems(some, Parallelism(tensor=4, pipeline=2, data=3)) == [
        ("`pg_collection` `ep` `dp_cp` `tp` 1 4 `pp` 1 2 `dp` 1 3 `modelwright.distributed.initialize(parallelism)`")
    ]


def test_the_groups_of_experts_are_compared(groups: ProcessGroupCollection) -> None:
    (problem,) = problems(groups, Parallelism(expert=2, expert_tensor=2, data=4))
    for name, size in {"ep": 2, "expt_tp": 2, "dp": 4, "dp_cp": 4}.items():
        assert f"`{name}` 1 {size}" in problem
    assert "expt_dp" not in problem


@pytest.mark.parametrize("axis", AXES)
def test_each_group_must_be_set(groups: ProcessGroupCollection, axis: str) -> None:
    """The engine's own check passes such a collection, because `hasattr` is true for a group that is None."""
    some = ProcessGroupCollection(**{name: getattr(groups, name) for name in AXES if name != axis})
    assert hasattr(some, axis)
    (problem,) = problems(some, Parallelism())
    assert f"`{axis}`" in problem


def test_all_problems_in_one_error_before_anything_is_built(groups: ProcessGroupCollection) -> None:
    def build_stage(vp_stage: int | None) -> nn.Module:
        raise AssertionError("built all the same")

    with pytest.raises(BuildError) as caught:
        build_stages(
            build_stage,
            config=OddConfig(),
            pg_collection=groups,
            parallelism=Parallelism(tensor=2),
            precision=Precision(params="bfloat16", keep_float32=("*norm*",)),
            wrap=TorchFSDP2(),
        )
    assert facts(caught.value).splitlines() == [
        "`pg_collection` `tp` 1 2 `modelwright.distributed.initialize(parallelism)`",
        "`num_heads` `tensor` 3 4",
        "`wrap.kind: fsdp2` `precision.keep_float32` `ddp`",
    ]


def test_a_wrap_that_cannot_run_here_is_known_before_the_build(groups: ProcessGroupCollection) -> None:
    found = build_problems(ModelConfig(), groups, parallelism=Parallelism(), precision=Precision(), wrap=MegatronFSDP())
    assert [facts(problem.partition(",")[0]) for problem in found] == ["`wrap.kind: megatron_fsdp`"]
