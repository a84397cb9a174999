"""Models of experts give one loss curve whatever the layout: two ranks here, four in `tests/parity`.

Left out is what differs by nature, as `docs/moe.md` says: capacity is counted on the tokens of one rank, which layouts
that cut the sequence change; the global balancing loss looks at all data ranks at once.
"""

import functools
from collections.abc import Callable
from typing import Any

import pytest

from modelwright.config import MegatronDDP, Parallelism, RunConfig, TorchFSDP2, TrainConfig, Wrap, replace
from modelwright.moe import LatentAttention, MoeModelConfig
from modelwright.testing import CurvePoint, RankPool, assert_layout_parity, reference_curve
from tests.integration.tiny_runs import LONG, SHORT, with_steps

MODEL = MoeModelConfig(
    num_layers=2,
    hidden_size=32,
    num_attention_heads=4,
    num_query_groups=2,
    ffn_hidden_size=64,
    num_experts=4,
    top_k=2,
    expert_ffn_hidden_size=32,
    vocab_size=256,
    seq_length=32,
)
TRAIN = TrainConfig(steps=LONG, micro_batch=2, global_batch=8, lr=5e-3)
LATENT = LatentAttention(query_rank=16, key_value_rank=12, head_dim=8, rotary_head_dim=4, value_head_dim=8)
VARIANTS: dict[str, dict[str, Any]] = {
    "alltoall": {"z_loss_coefficient": 1e-3},
    "allgather": {"dispatcher": "allgather"},
    "deepseek": {
        "latent_attention": LATENT,
        "num_query_groups": None,
        "qk_norm": True,
        "num_layers": None,
        "pattern": "+-+E",
        "shared_experts": 1,
        "router_score": "sigmoid",
        "router_groups": 2,
        "router_top_groups": 1,
        "router_scaling": 2.5,
        "expert_bias": True,
        "load_balancing": "seq_aux",
    },
    "gated": {"shared_experts": 2, "shared_expert_gate": True, "router_pre_softmax": True},
    "capacity": {"capacity_factor": 0.75, "drop_policy": "position"},
    "capacity by weight": {"capacity_factor": 0.75},
    "padded": {"capacity_factor": 1.0, "pad_to_capacity": True, "drop_policy": "position"},
    "global balance": {"load_balancing": "global_aux"},
}
LAYOUTS = {
    "expert 2": Parallelism(data=2, expert=2),
    "expert tensor 2": Parallelism(data=2, expert_tensor=2),
    "tensor 2, sequence": Parallelism(tensor=2, sequence=True),
    "tensor 2, sequence, expert 2": Parallelism(tensor=2, sequence=True, expert=2, expert_tensor=1),
    "tensor 2, sequence, whole experts": Parallelism(tensor=2, sequence=True, expert_tensor=1),
    "pipeline 2": Parallelism(pipeline=2),
    "data 2": Parallelism(data=2),
    "context 2": Parallelism(context=2),
}
ONE_SEQUENCE = ("expert 2", "expert tensor 2", "pipeline 2", "data 2")
CASES = [
    *(("alltoall", layout) for layout in LAYOUTS),
    *(("allgather", layout) for layout in LAYOUTS),
    *(("deepseek", layout) for layout in LAYOUTS),
    *(("gated", layout) for layout in ("expert 2", "tensor 2, sequence")),
    *(("capacity", layout) for layout in ONE_SEQUENCE),
    *(("capacity by weight", layout) for layout in ONE_SEQUENCE),
    *(("padded", layout) for layout in ("expert 2", "expert tensor 2", "pipeline 2")),
    *(("global balance", layout) for layout in ("tensor 2, sequence", "pipeline 2")),
]


def run_of(variant: str) -> RunConfig:
    """Few steps where tokens are dropped by weight: tokens in a run of one letter weigh nearly the same, and
    sooner or later rounding chooses between them.
    """
    train = replace(TRAIN, steps=5) if variant == "capacity by weight" else TRAIN
    return RunConfig(model=replace(MODEL, **VARIANTS[variant]), train=train)


type Curves = Callable[[str, int], list[CurvePoint]]


@pytest.fixture(scope="module")
def curves(two_ranks: RankPool) -> Curves:
    """The curve of a variant on one rank, by the number of steps."""
    return functools.cache(lambda variant, steps: reference_curve(two_ranks, with_steps(run_of(variant), steps)))


FLAGSHIPS = [("alltoall", "expert 2"), ("deepseek", "tensor 2, sequence, expert 2")]
"""Compared over all steps in the default suite too."""
SHORT_CASES = [case for case in CASES if case not in FLAGSHIPS]


@pytest.mark.parametrize(
    ("variant", "layout", "steps"),
    [
        *((*case, LONG) for case in FLAGSHIPS),
        *((*case, SHORT) for case in SHORT_CASES),
        *(pytest.param(*case, LONG, marks=pytest.mark.proof) for case in SHORT_CASES),
    ],
)
def test_every_layout_agrees_with_one_rank(
    variant: str, layout: str, steps: int, curves: Curves, two_ranks: RankPool
) -> None:
    run = run_of(variant)
    steps = min(steps, run.train.steps)
    assert_layout_parity(two_ranks, with_steps(run, steps), LAYOUTS[layout], reference=curves(variant, steps))


def steep(variant: str) -> RunConfig:
    """Three steps from large initial values."""
    run = run_of(variant)
    return replace(run, model=replace(run.model, init_std=0.1), train=replace(run.train, steps=3))


@pytest.fixture(scope="module")
def steep_one_rank(two_ranks: RankPool) -> dict[str, list[CurvePoint]]:
    """The curve of every variant that `WRAPS` names."""
    return {variant: reference_curve(two_ranks, steep(variant)) for variant in {case[0] for case in WRAPS}}


WRAPS = [
    ("alltoall", "expert 2", MegatronDDP(distributed_optimizer=True)),
    ("alltoall", "data 2", TorchFSDP2()),
    ("alltoall", "context 2", TorchFSDP2()),
    ("alltoall", "expert 2", TorchFSDP2()),
    ("allgather", "expert tensor 2", TorchFSDP2()),
    ("alltoall", "tensor 2, sequence, whole experts", TorchFSDP2()),
    ("alltoall", "tensor 2, sequence, whole experts", MegatronDDP()),
    ("deepseek", "tensor 2, sequence, expert 2", TorchFSDP2()),
    ("gated", "expert 2", TorchFSDP2(reshard_after_forward=False)),
]


@pytest.mark.parametrize(("variant", "layout", "wrap"), WRAPS, ids=[f"{it[0]}-{it[1]}-{it[2].kind}" for it in WRAPS])
def test_wraps_agree_too(
    variant: str, layout: str, wrap: Wrap, steep_one_rank: dict[str, list[CurvePoint]], two_ranks: RankPool
) -> None:
    """Experts are sharded over their own data ranks, and their gradients scaled as in Megatron's wrapper.

    With these initial values the gradients of the experts are a large part of the gradient norm.
    """
    assert_layout_parity(two_ranks, steep(variant), LAYOUTS[layout], wrap=wrap, reference=steep_one_rank[variant])


LEARNING = [variant for variant in VARIANTS if variant != "capacity by weight"]


@pytest.mark.parametrize(
    "variant",
    [
        variant if variant in ("alltoall", "deepseek") else pytest.param(variant, marks=pytest.mark.proof)
        for variant in LEARNING
    ],
)
def test_training_learns(variant: str, curves: Curves) -> None:
    """Equal curves prove nothing when nothing is learned."""
    curve = curves(variant, LONG)
    assert curve[-1].loss < curve[0].loss - 0.5


def test_dropped_tokens_are_missed(curves: Curves) -> None:
    """Capacity bites: without it the same model trains to another curve."""
    whole = curves("allgather", LONG)
    for name in ("capacity", "capacity by weight", "padded"):
        pairs = zip(curves(name, run_of(name).train.steps), whole, strict=False)
        assert max(abs(short.grad_norm - one.grad_norm) for short, one in pairs) > 1e-2
