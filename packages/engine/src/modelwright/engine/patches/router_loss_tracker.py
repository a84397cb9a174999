"""The engine's tracker of router losses, for processes that hold more than one model.

The engine has one tracker a process, and sizes it by the layers of the first model whose router logs a loss; the router
of a deeper one, built later or beside it, then writes past its end.
"""

from typing import Any, final, override

import torch
from megatron.core.transformer.moe.moe_logging import (
    MoEMetricsTracker,
    get_moe_metrics_tracker,
    set_moe_metrics_tracker,
)
from torch import Tensor

from modelwright.engine.module_specs import as_engine


@final
class GrowingTracker(MoEMetricsTracker):
    """A tracker with room for the deepest model."""

    @override
    def record(self, name: str, value: Tensor, layer_number: int, num_layers: int, *args: Any, **options: Any) -> None:
        """Add a value, after making room; the arguments are the engine's."""
        entry = self.metrics.get(name)
        if entry is not None and entry.values.numel() < num_layers:
            entry.values = torch.cat([entry.values, entry.values.new_zeros(num_layers - entry.values.numel())])
        super().record(name, value, layer_number, num_layers, *args, **options)


def track_losses_of_every_model() -> None:
    """Put a tracker that grows in the place of the engine's, unless one is there."""
    if not isinstance(get_moe_metrics_tracker(), GrowingTracker):
        set_moe_metrics_tracker(as_engine(GrowingTracker)())  # its constructor has no types
