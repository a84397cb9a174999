"""Layout parity on four ranks; slow on two cores, so in a nox session of its own, `parity`."""

from collections.abc import Iterator

import pytest

from modelwright.config import MegatronDDP, Parallelism, RunConfig, TorchFSDP2, TrainConfig
from modelwright.testing import CurvePoint, RankPool, assert_layout_parity, reference_curve
from tests.integration.jobs import TINY
from tests.integration.modules import Place, assert_modules_agree
from tests.integration.test_moe_parity import run_of

RUN = RunConfig(model=TINY, train=TrainConfig(steps=20, micro_batch=2, global_batch=8, lr=1e-3))

FOUR_RANKS = {
    "tensor 2 × pipeline 2": (Parallelism(tensor=2, pipeline=2), MegatronDDP()),
    "tensor 2 × data 2": (Parallelism(tensor=2, data=2), MegatronDDP()),
    "tensor 2, sequence × data 2": (Parallelism(tensor=2, sequence=True, data=2), MegatronDDP()),
    "tensor 2 × data 2, fsdp2": (Parallelism(tensor=2, data=2), TorchFSDP2()),
    "pipeline 2 × data 2": (Parallelism(pipeline=2, data=2), MegatronDDP()),
    "pipeline 2 × virtual 2 × data 2": (Parallelism(pipeline=2, virtual_pipeline=2, data=2), MegatronDDP()),
    "context 2 × data 2": (Parallelism(context=2, data=2), MegatronDDP()),
    "tensor 2 × context 2": (Parallelism(tensor=2, context=2), MegatronDDP()),
    "pipeline 4": (Parallelism(pipeline=4), MegatronDDP()),
}

EXPERTS = {
    "expert 2 × tensor 2": Parallelism(tensor=2, sequence=True, data=2, expert=2),
    "expert 2 × tensor 2, whole experts": Parallelism(tensor=2, sequence=True, data=2, expert=2, expert_tensor=1),
    "expert 2 × data 2": Parallelism(data=4, expert=2),
    "expert 2 × expert tensor 2": Parallelism(data=4, expert=2, expert_tensor=2),
    "expert 4": Parallelism(data=4, expert=4),
    "expert 2 × pipeline 2": Parallelism(pipeline=2, data=2, expert=2),
    "expert 2 × context 2": Parallelism(context=2, data=2, expert=2, expert_tensor=1),
}

COMPOSITES: dict[str, dict[str, Place]] = {
    "two pairs, one shared": {
        "tensor": (range(2), Parallelism(tensor=2, sequence=True), MegatronDDP()),
        "pipeline": (range(2, 4), Parallelism(pipeline=2), MegatronDDP()),
        "data": (range(2), Parallelism(data=2), MegatronDDP(distributed_optimizer=True)),
    },
    "a pair between two": {
        "first": (range(1), Parallelism(), MegatronDDP()),
        "virtual": (range(1, 3), Parallelism(pipeline=2, virtual_pipeline=2), MegatronDDP(distributed_optimizer=True)),
        "context": (range(1, 3), Parallelism(context=2), TorchFSDP2()),
        "last": (range(3, 4), Parallelism(), TorchFSDP2()),
    },
    "one of two axes beside another": {
        "pipelined": (range(4), Parallelism(tensor=2, pipeline=2), MegatronDDP()),
        "copied": (range(4), Parallelism(tensor=2, data=2), MegatronDDP()),
    },
}


@pytest.fixture(scope="module")
def four_ranks() -> Iterator[RankPool]:
    with RankPool(4) as pool:
        yield pool


@pytest.fixture(scope="module")
def one_rank(four_ranks: RankPool) -> list[CurvePoint]:
    return reference_curve(four_ranks, RUN)


@pytest.mark.parametrize("layout", FOUR_RANKS)
def test_four_ranks_agree_with_one(layout: str, one_rank: list[CurvePoint], four_ranks: RankPool) -> None:
    parallelism, wrap = FOUR_RANKS[layout]
    assert_layout_parity(four_ranks, RUN, parallelism, wrap=wrap, reference=one_rank)


@pytest.fixture(scope="module")
def one_rank_of_experts(four_ranks: RankPool) -> dict[str, list[CurvePoint]]:
    return {name: reference_curve(four_ranks, run_of(name)) for name in ("alltoall", "allgather", "deepseek")}


@pytest.mark.parametrize("layout", EXPERTS)
@pytest.mark.parametrize("variant", ["alltoall", "allgather", "deepseek"])
def test_experts_on_four_ranks_agree_with_one(
    layout: str, variant: str, one_rank_of_experts: dict[str, list[CurvePoint]], four_ranks: RankPool
) -> None:
    assert_layout_parity(four_ranks, run_of(variant), EXPERTS[layout], reference=one_rank_of_experts[variant])


@pytest.mark.parametrize("composite", COMPOSITES)
def test_modules_of_a_composite_agree_with_one(composite: str, four_ranks: RankPool) -> None:
    assert_modules_agree(four_ranks, COMPOSITES[composite])
