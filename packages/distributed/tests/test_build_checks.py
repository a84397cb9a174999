"""What is refused before anything is allocated: groups, layout and wrap that do not fit, all in one error."""

from collections.abc import Iterator
from typing import Any

import pytest
from megatron.core.process_groups_config import ProcessGroupCollection
from torch import nn

from modelwright.config import (
    MegatronDDP,
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

AXES = ("tp", "pp", "cp", "ep", "dp", "dp_cp")


@config_class
class OddConfig(ModelConfig):
    """Fits no layout with tensor parallelism."""

    def layout_problems(self, parallelism: Parallelism) -> Iterator[Problem]:
        if parallelism.tensor > 1:
            yield Problem("num_heads", "`num_heads` must be divisible by `tensor`, but 3 is not; use 4.")


def problems(groups: ProcessGroupCollection, parallelism: Parallelism) -> list[str]:
    return list(build_problems(ModelConfig(), groups, parallelism=parallelism, precision=Precision(), wrap=NoWrap()))


def test_groups_of_the_parallelism(groups: ProcessGroupCollection) -> None:
    assert problems(groups, Parallelism()) == []
    assert problems(groups, Parallelism(data=1)) == []


def test_every_group_that_does_not_fit_is_named(groups: ProcessGroupCollection) -> None:
    some = ProcessGroupCollection(tp=groups.tp, pp=groups.pp, cp=groups.cp, dp=groups.dp)
    assert problems(some, Parallelism(tensor=4, pipeline=2, data=3)) == [
        (
            "`pg_collection` must contain the groups of the parallelism, but `ep` is not set; `dp_cp` is not set; `tp` "
            "has 1 ranks where the parallelism needs 4; `pp` has 1 ranks where the parallelism needs 2; `dp` has "
            "1 ranks where the parallelism needs 3; pass the result of "
            "`modelwright.distributed.initialize(parallelism)`."
        )
    ]


def test_the_groups_of_experts_are_compared(groups: ProcessGroupCollection) -> None:
    (problem,) = problems(groups, Parallelism(expert=2, expert_tensor=2, data=4))
    for name, size in {"ep": 2, "expt_tp": 2, "dp": 4, "dp_cp": 4}.items():
        assert f"`{name}` has 1 ranks where the parallelism needs {size}" in problem
    assert "expt_dp" not in problem


@pytest.mark.parametrize("axis", AXES)
def test_each_group_must_be_set(groups: ProcessGroupCollection, axis: str) -> None:
    """The engine's own check passes such a collection, because `hasattr` is true for a group that is None."""
    some = ProcessGroupCollection(**{name: getattr(groups, name) for name in AXES if name != axis})
    assert hasattr(some, axis)
    (problem,) = problems(some, Parallelism())
    assert f"but `{axis}` is not set; pass" in problem


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
    assert str(caught.value).splitlines() == [
        (
            "`pg_collection` must contain the groups of the parallelism, but `tp` has 1 ranks where the parallelism "
            "needs 2; pass the result of `modelwright.distributed.initialize(parallelism)`."
        ),
        "`num_heads` must be divisible by `tensor`, but 3 is not; use 4.",
        (
            "`wrap.kind: fsdp2` shards parameters of one dtype together, but `precision.keep_float32` leaves "
            "some of the bfloat16 model in float32; leave it out, or use `ddp`."
        ),
    ]


def test_a_wrap_that_cannot_run_here_is_known_before_the_build(groups: ProcessGroupCollection) -> None:
    found = build_problems(ModelConfig(), groups, parallelism=Parallelism(), precision=Precision(), wrap=MegatronFSDP())
    assert [problem.partition(",")[0] for problem in found] == ["`wrap.kind: megatron_fsdp` cannot be used here"]


@pytest.mark.parametrize("layout", [{"expert": 2}, {"tensor": 2, "expert_tensor": 1}])
def test_fsdp2_is_refused_where_experts_have_their_own_data_ranks(
    layout: dict[str, int], groups: ProcessGroupCollection
) -> None:
    """It would train another model without a word: experts are averaged over the ranks of the other parameters."""
    options: dict[str, Any] = {"parallelism": Parallelism(**layout), "precision": Precision()}
    found = list(build_problems(ModelConfig(), groups, **options, wrap=TorchFSDP2()))
    assert found[-1].startswith("`wrap.kind: fsdp2` shards all parameters over one group, but with")
    assert "fsdp2" not in " ".join(build_problems(ModelConfig(), groups, **options, wrap=MegatronDDP()))
