"""Jitter of a router's input: its range, its independence, and none outside of training."""

import torch
from megatron.core.process_groups_config import ProcessGroupCollection

from modelwright.layers import clear_dropout_draw, set_dropout_draw
from modelwright.layers.dropout import HiddenPlace
from modelwright.layers.moe.router_jitter import RouterJitter

SHAPE = torch.Size([32, 4, 64])


def test_factors_are_uniform_around_one(groups: ProcessGroupCollection) -> None:
    """Mean and variance within five standard errors, and the bounds almost reached."""
    set_dropout_draw(seed=1, step=1, sequences_B=torch.arange(4))
    jitter = RouterJitter(HiddenPlace("router", groups, sequence_parallel=False), 0.2, torch.float64)
    factors = (jitter.train()(SHAPE) - 1) / 0.2
    clear_dropout_draw()
    count = factors.numel()
    assert factors.abs().max() <= 1
    assert factors.abs().max() > 0.99
    assert abs(factors.mean()) < 5 / (3 * count) ** 0.5
    assert abs(factors.square().mean() - 1 / 3) < 5 * (4 / 45 / count) ** 0.5


def test_no_jitter_outside_training(groups: ProcessGroupCollection) -> None:
    jitter = RouterJitter(HiddenPlace("router", groups, sequence_parallel=False), 0.2, torch.bfloat16).eval()
    tokens = torch.rand(SHAPE).bfloat16()
    assert torch.equal(tokens * jitter(SHAPE), tokens)
