"""The learning rate of every step, by hand."""

import math

import pytest
import torch

from modelwright.config import ConstantSchedule, CosineSchedule, LinearSchedule, LrSchedule, TrainConfig
from modelwright.training import make_lr_schedule


def rates(way: LrSchedule, *, steps: int, count: int | None = None) -> list[float]:
    """Return the learning rates of a run with the highest rate 1."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.5)
    schedule = make_lr_schedule(optimizer, TrainConfig(steps=steps, lr=1.0, lr_schedule=way))
    found = []
    for _ in range(count or steps):
        found.append(optimizer.param_groups[0]["lr"])
        schedule.step(increment=1)
    return found


def cosine(part: float, least: float = 0.0) -> float:
    return least + (1 - least) * (1 + math.cos(math.pi * part)) / 2


def test_warm_up_from_0_then_cosine() -> None:
    expected = [0, 0.5, 1, *(cosine(part / 4, 0.1) for part in (1, 2, 3))]
    assert rates(CosineSchedule(warmup_steps=2, min_lr=0.1), steps=6) == pytest.approx(expected)


def test_without_warm_up_the_first_step_has_the_highest() -> None:
    assert rates(CosineSchedule(), steps=4) == pytest.approx([1, *(cosine(part / 4) for part in (1, 2, 3))])


def test_linear() -> None:
    expected = [0, 1, 0.775, 0.55, 0.325]
    assert rates(LinearSchedule(warmup_steps=1, min_lr=0.1), steps=5) == pytest.approx(expected)


def test_constant() -> None:
    assert rates(ConstantSchedule(warmup_steps=2), steps=5) == pytest.approx([0, 0.5, 1, 1, 1])


@pytest.mark.parametrize("way", [CosineSchedule, LinearSchedule])
def test_decay_steps_end_the_way_down_early(way: type[CosineSchedule] | type[LinearSchedule]) -> None:
    found = rates(way(decay_steps=4, min_lr=0.25), steps=7)
    assert found[4:] == pytest.approx([0.25] * 3)
    assert found[2] == pytest.approx(0.625)
    assert all(lr > 0.25 for lr in found[:4])


@pytest.mark.parametrize("way", [CosineSchedule, LinearSchedule, ConstantSchedule])
def test_a_run_may_be_shorter_than_its_warm_up(way: type[CosineSchedule]) -> None:
    assert rates(way(warmup_steps=10), steps=5) == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


def test_a_longer_run_goes_on_by_its_own_schedule() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.5)
    short = make_lr_schedule(optimizer, TrainConfig(steps=4, lr=1.0, lr_schedule=LinearSchedule()))
    short.step(increment=4)
    long = make_lr_schedule(optimizer, TrainConfig(steps=8, lr=1.0, lr_schedule=LinearSchedule()))
    long.load_state_dict(short.state_dict())
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5)
