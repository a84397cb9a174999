"""Mamba-2 and hybrids have one loss curve on every layout, as every other model."""

import functools
from collections.abc import Callable

import pytest

from modelwright.config import MegatronDDP, Parallelism, Precision, RunConfig, TorchFSDP2, TrainConfig, replace
from modelwright.mamba import MambaModelConfig
from modelwright.testing import CurvePoint, RankPool, assert_layout_parity, reference_curve
from tests.integration.tiny_runs import LONG, SOON_AND_LATE, with_steps

TINY = MambaModelConfig(
    num_layers=4,
    hidden_size=64,
    mamba_state_dim=16,
    mamba_head_dim=16,
    mamba_num_groups=2,
    chunk_size=16,
    vocab_size=256,
    seq_length=64,
)
HYBRID = replace(TINY, num_layers=None, pattern="M-*M-M*-", num_attention_heads=4, position_embedding="rope")
SPARSE = replace(HYBRID, pattern="M*-EM*-E", num_experts=4, top_k=2, expert_ffn_hidden_size=64)
TRAIN = TrainConfig(steps=LONG, micro_batch=2, global_batch=8, lr=1e-3)
RUNS = {"mamba": RunConfig(model=TINY, train=TRAIN), "hybrid": RunConfig(model=HYBRID, train=TRAIN)}
LAYOUTS = {
    "tensor 2": Parallelism(tensor=2),
    "tensor 2, sequence": Parallelism(tensor=2, sequence=True),
    "data 2": Parallelism(data=2),
    "pipeline 2": Parallelism(pipeline=2),
    "pipeline 2 × virtual 2": Parallelism(pipeline=2, virtual_pipeline=2),
    "context 2": Parallelism(context=2),
}


type Curves = Callable[[str, int], list[CurvePoint]]


@pytest.fixture(scope="module")
def curves(two_ranks: RankPool) -> Curves:
    """The curve of a model on one rank, by the number of steps."""
    return functools.cache(lambda name, steps: reference_curve(two_ranks, with_steps(RUNS[name], steps)))


@pytest.mark.parametrize("steps", SOON_AND_LATE)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("model", RUNS)
def test_every_layout_agrees_with_one_rank(
    model: str, layout: str, steps: int, curves: Curves, two_ranks: RankPool
) -> None:
    run = with_steps(RUNS[model], steps)
    assert_layout_parity(two_ranks, run, LAYOUTS[layout], reference=curves(model, steps))


@pytest.mark.parametrize("steps", SOON_AND_LATE)
@pytest.mark.parametrize(
    "layout",
    [Parallelism(expert=2), Parallelism(pipeline=2), Parallelism(tensor=2, sequence=True)],
    ids=["expert 2", "pipeline 2", "tensor 2, sequence"],
)
def test_all_four_symbols_agree_with_one_rank(layout: Parallelism, steps: int, two_ranks: RankPool) -> None:
    assert_layout_parity(two_ranks, with_steps(RunConfig(model=SPARSE, train=TRAIN), steps), layout)


@pytest.mark.parametrize("steps", SOON_AND_LATE)
@pytest.mark.parametrize("wrap", [TorchFSDP2(), MegatronDDP(distributed_optimizer=True)], ids=["fsdp2", "distributed"])
def test_every_wrap_agrees_with_one_rank(
    wrap: TorchFSDP2 | MegatronDDP, steps: int, curves: Curves, two_ranks: RankPool
) -> None:
    run = with_steps(RUNS["mamba"], steps)
    assert_layout_parity(two_ranks, run, Parallelism(data=2), wrap=wrap, reference=curves("mamba", steps))


def test_one_group_is_shared_by_the_heads_of_both_context_ranks(two_ranks: RankPool) -> None:
    run = replace(RUNS["mamba"], model=replace(TINY, mamba_num_groups=1), train=replace(TRAIN, steps=5))
    assert_layout_parity(two_ranks, run, Parallelism(context=2))


def test_a_pattern_with_boundaries_says_what_each_stage_holds(two_ranks: RankPool) -> None:
    run = replace(RUNS["hybrid"], train=replace(TRAIN, steps=5))
    reference = reference_curve(two_ranks, run)
    uneven = replace(run, model=replace(HYBRID, pattern="M-*M-|M*-"), parallelism=Parallelism(pipeline=2))
    assert_layout_parity(two_ranks, uneven, Parallelism(pipeline=2), reference=reference)
    assert reference_curve(two_ranks, uneven) == reference


@pytest.mark.parametrize(
    "options",
    [
        {"d_per_channel": True, "mamba_bias": True, "conv_bias": False},
        {"gated_norm": False, "conv_init": 0.1, "dt_limit": (0.01, 0.05)},
        {"norm_before_gate": True, "mamba_num_heads": 4, "conv_width": 3},
    ],
    ids=["biases", "no norm", "norm first"],
)
def test_every_option_agrees_on_two_tensor_ranks(options: dict[str, object], two_ranks: RankPool) -> None:
    run = replace(RUNS["mamba"], model=replace(TINY, **options), train=replace(TRAIN, steps=5))
    assert_layout_parity(two_ranks, run, Parallelism(tensor=2))


def test_bfloat16_agrees_with_bfloat16_on_one_rank(two_ranks: RankPool) -> None:
    run = replace(RUNS["mamba"], precision=Precision(params="bfloat16"), train=replace(TRAIN, steps=8))
    assert_layout_parity(two_ranks, run, Parallelism(tensor=2), tolerance=2e-2, relative=2e-2)


@pytest.mark.parametrize("model", ["mamba", pytest.param("hybrid", marks=pytest.mark.proof)])
def test_training_learns(model: str, curves: Curves) -> None:
    """Equal curves prove nothing when nothing is learned."""
    curve = curves(model, LONG)
    assert curve[-1].loss < curve[0].loss - 0.5
