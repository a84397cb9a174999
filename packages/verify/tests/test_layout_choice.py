"""No layout has more ranks than allowed, and each axis and wrapper is there as soon as its ranks are."""

import pytest

from modelwright.config import MegatronDDP, Parallelism, RunConfig
from modelwright.verify.layout_choice import layouts_of
from modelwright.verify.subject import MegatronConfig

RUN = RunConfig(model=MegatronConfig(experts=True))


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_no_layout_has_more_ranks(ranks: int) -> None:
    layouts = layouts_of(RUN, ranks)
    assert layouts
    assert max(Parallelism(**layout.parallelism).world_size() for layout in layouts) == ranks


def test_one_rank_has_options_alone() -> None:
    assert {(layout.wrap, *layout.parallelism.items()) for layout in layouts_of(RUN, 1)} == {(MegatronDDP(),)}


def test_two_ranks_have_each_axis_and_wrapper() -> None:
    layouts = layouts_of(RUN, 2)
    axes = {name for layout in layouts for name in layout.parallelism}
    assert axes >= {"tensor", "sequence", "pipeline", "virtual_pipeline", "context", "data", "expert", "expert_tensor"}
    assert {type(layout.wrap).__name__ for layout in layouts} == {"MegatronDDP", "TorchFSDP2"}
