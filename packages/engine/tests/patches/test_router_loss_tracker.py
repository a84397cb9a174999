"""Models of several depths in one process, although the engine's tracker of router losses has room for the first."""

import pytest
import torch
from megatron.core.transformer.moe.moe_logging import (
    MoEMetricsTracker,
    destroy_moe_metrics_tracker,
    get_moe_metrics_tracker,
    set_moe_metrics_tracker,
)

from modelwright.engine import restore_router_loss_tracker, track_losses_of_every_model


def record_of_two_depths() -> None:
    for layers in (2, 4, 3):
        get_moe_metrics_tracker().record("loss", torch.tensor(1.0), layer_number=layers, num_layers=layers)


def test_a_deeper_model_finds_room() -> None:
    before = get_moe_metrics_tracker()
    try:
        destroy_moe_metrics_tracker()
        track_losses_of_every_model()
        tracker = get_moe_metrics_tracker()
        track_losses_of_every_model()
        assert get_moe_metrics_tracker() is tracker
        record_of_two_depths()
        assert tracker.metrics["loss"].values.tolist() == [0, 1, 1, 1]
        for _ in range(2):
            restore_router_loss_tracker()
            assert type(get_moe_metrics_tracker()) is MoEMetricsTracker
    finally:
        set_moe_metrics_tracker(before)


def test_the_engines_own_has_none() -> None:
    """Why ours is there; should the engine fix it, this test says so."""
    before = get_moe_metrics_tracker()
    try:
        destroy_moe_metrics_tracker()
        with pytest.raises(IndexError):
            record_of_two_depths()
    finally:
        set_moe_metrics_tracker(before)
