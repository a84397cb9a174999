"""`engine: {calculate_per_token_loss: true}` (Megatron-LM 673, 5047) trains the same model, on every layout."""

from typing import Any

import pytest

from modelwright.config import MegatronDDP, Parallelism, RunConfig, TorchFSDP2, Wrap, replace
from modelwright.distributed import RankError
from modelwright.testing import RankPool, assert_layout_parity, reference_curve
from tests.integration.tiny_runs import GPT, MOE

RUNS = {"gpt": GPT, "moe": replace(MOE, model=replace(MOE.model, load_balancing="seq_aux"))}
LAYOUTS: dict[str, tuple[Parallelism, Wrap]] = {
    "tensor": (Parallelism(tensor=2, sequence=True), MegatronDDP()),
    "pipeline": (Parallelism(pipeline=2), MegatronDDP()),
    "virtual": (Parallelism(pipeline=2, virtual_pipeline=2), MegatronDDP()),
    "context": (Parallelism(context=2), MegatronDDP()),
    "data": (Parallelism(data=2), MegatronDDP()),
    "overlapped": (Parallelism(data=2), MegatronDDP(overlap_grad_reduce=True)),
    "distributed optimizer": (Parallelism(data=2), MegatronDDP(distributed_optimizer=True)),
    "fsdp2": (Parallelism(data=2), TorchFSDP2()),
    "expert": (Parallelism(data=2, expert=2), MegatronDDP()),
    "expert, fsdp2": (Parallelism(data=2, expert=2), TorchFSDP2()),
}
CASES = [
    *(("gpt", layout) for layout in LAYOUTS if not layout.startswith("expert")),
    *(("moe", layout) for layout in ("expert", "expert, fsdp2", "tensor", "pipeline", "context")),
]


def per_token(run: RunConfig) -> RunConfig:
    """The run with losses that are summed over tokens."""
    return replace(run, model=replace(run.model, engine={"calculate_per_token_loss": True}))


def test_an_average_in_the_collective_is_refused(two_ranks: RankPool):
    with pytest.raises(RankError, match=r"`wrap.average_in_collective` .*`engine.calculate_per_token_loss`"):
        assert_layout_parity(
            two_ranks, per_token(GPT), Parallelism(data=2), wrap=MegatronDDP(average_in_collective=True), reference=[]
        )


@pytest.fixture(scope="module")
def references(two_ranks: RankPool) -> dict[str, Any]:
    """The curve of each run on one rank, with the mean over micro-batches."""
    return {name: reference_curve(two_ranks, run) for name, run in RUNS.items()}


@pytest.mark.parametrize("name", RUNS)
def test_equal_micro_batches_give_the_same_curve(two_ranks: RankPool, references: dict[str, Any], name: str):
    for found, expected in zip(reference_curve(two_ranks, per_token(RUNS[name])), references[name], strict=True):
        assert found.loss == pytest.approx(expected.loss, abs=1e-5)
        assert found.grad_norm == pytest.approx(expected.grad_norm, rel=1e-4)


@pytest.mark.parametrize(("name", "layout"), CASES)
def test_one_curve_on_every_layout(two_ranks: RankPool, references: dict[str, Any], name: str, layout: str):
    parallelism, wrap = LAYOUTS[layout]
    assert_layout_parity(two_ranks, per_token(RUNS[name]), parallelism, wrap=wrap, reference=references[name])
