"""A model that is built after another one in a process trains as in a fresh process, for every ordered pair.

The engine keeps much by process: environment variables of attention, random states, trackers of router losses, caches.
"""

import itertools
import os
from typing import Any

import pytest

from modelwright.config import MegatronDDP, ModelConfig, Precision, RunConfig, TrainConfig
from modelwright.distributed import RankPool
from modelwright.gpt import GPTModelConfig
from modelwright.mamba import MambaModelConfig
from modelwright.moe import LatentAttention, MoeModelConfig

SIZES: dict[str, Any] = {"hidden_size": 32, "num_attention_heads": 4, "vocab_size": 256, "seq_length": 16}
EXPERTS: dict[str, Any] = {"num_experts": 4, "top_k": 2, "expert_ffn_hidden_size": 16}
LATENT = LatentAttention(query_rank=16, key_value_rank=12, head_dim=8, rotary_head_dim=4, value_head_dim=8)
MODELS: dict[str, tuple[ModelConfig, str]] = {
    "gpt": (GPTModelConfig(**SIZES, num_layers=2, hidden_dropout=0.1), "float32"),
    "gpt in bfloat16": (
        GPTModelConfig(**SIZES, num_layers=4, normalization="layernorm", position_embedding="learned"),
        "bfloat16",
    ),
    "moe": (MoeModelConfig(**SIZES, **EXPERTS, num_layers=3, load_balancing="seq_aux"), "float32"),
    "mla": (
        MoeModelConfig(
            **SIZES, **EXPERTS, num_layers=1, latent_attention=LATENT, router_score="sigmoid", expert_bias=True
        ),
        "bfloat16",
    ),
    "hybrid": (
        MambaModelConfig(**SIZES, **EXPERTS, pattern="M*-E", mamba_head_dim=8, mamba_state_dim=8, chunk_size=8),
        "float32",
    ),
}
type Outcome = tuple[list[tuple[float, float, float | None]], dict[str, str]]


def run_of(name: str) -> RunConfig:
    model, dtype = MODELS[name]
    return RunConfig(
        name=name,
        model=model,
        precision=Precision(params=dtype),  # type: ignore[arg-type]
        wrap=MegatronDDP(),
        train=TrainConfig(steps=2, micro_batch=1, global_batch=2, lr=1e-3, eval_batches=1),
    )


def trained(runs: list[RunConfig]) -> list[Outcome]:
    """Train one run after another in this process. Return the losses, and the variables that the engine has set."""
    from modelwright.distributed import finalize
    from modelwright.training import train
    from tests.integration.jobs import quiet

    quiet()
    outcomes: list[Outcome] = []
    before = dict(os.environ)
    for run in runs:
        records = train(run)
        finalize()
        changed = {name: value for name, value in os.environ.items() if before.get(name) != value}
        outcomes.append(([(one.loss, one.grad_norm, one.val_loss) for one in records], changed))
    return outcomes


def walk(names: list[str]) -> list[str]:
    """Return a sequence in which every ordered pair of names stands side by side."""
    left = {(a, b) for a in names for b in names if a != b}
    path = [names[0]]
    while left:
        follows = [b for b in names if (path[-1], b) in left]
        after = follows[0] if follows else next(a for a, _ in sorted(left))
        left.discard((path[-1], after))
        path.append(after)
    return path


@pytest.fixture(scope="module")
def fresh() -> dict[str, Outcome]:
    """Return the outcome of each model as the first one of its process."""
    found: dict[str, Outcome] = {}
    for name in MODELS:
        with RankPool(1) as pool:
            found[name] = pool.run(trained, [run_of(name)])[0][0]
    return found


def test_the_second_model_of_a_process_is_as_in_a_fresh_one(fresh: dict[str, Outcome]) -> None:
    names = walk(list(MODELS))
    assert {pair for pair in itertools.pairwise(names) if pair[0] != pair[1]} == {
        (a, b) for a in MODELS for b in MODELS if a != b
    }
    with RankPool(1) as pool:
        (outcomes,) = pool.run(trained, [run_of(name) for name in names])
    wrong = [
        (before, name, outcome, fresh[name])
        for before, name, outcome in zip(["nothing", *names], names, outcomes, strict=False)
        if outcome != fresh[name]
    ]
    assert wrong == []
