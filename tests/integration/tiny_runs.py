"""Runs of three steps that take a second on a layout of two ranks, and the length of longer ones."""

import pytest

from modelwright.config import RunConfig, TrainConfig, replace
from modelwright.gpt import GPTModelConfig
from modelwright.moe import MoeModelConfig

TRAIN = TrainConfig(steps=3, micro_batch=2, global_batch=8, lr=1e-2)
GPT = RunConfig(
    name="gpt",
    model=GPTModelConfig(
        num_layers=4, hidden_size=32, num_attention_heads=4, num_query_groups=2, vocab_size=256, seq_length=32
    ),
    train=TRAIN,
)
MOE = RunConfig(
    name="moe",
    model=MoeModelConfig(
        num_layers=2, hidden_size=32, num_attention_heads=4, vocab_size=256, seq_length=32, num_experts=4, top_k=2
    ),
    train=TRAIN,
)

SHORT, LONG = 4, 20
SOON_AND_LATE = [SHORT, pytest.param(LONG, marks=pytest.mark.proof)]
"""Steps of a comparison in a cross product: few show a fault of a layout, and the proofs show that nothing drifts."""


def with_steps(run: RunConfig, steps: int) -> RunConfig:
    """Return a run of another length."""
    return replace(run, train=replace(run.train, steps=steps))
