"""A tracker of router losses that has space for the deepest model of the process.

- **Changes**: the engine's process-wide `MoEMetricsTracker`.
- **Why**: the engine sizes it by the layers of the first model with a router loss. The router of a deeper model, built
  later or beside the first, then writes past its end.
- **Versions**: megatron-core 0.19.
- **Undone**: by `restore_router_loss_tracker`, which restores the earlier tracker.
- **Entered**: by `modelwright.distributed.initialize` and `CompositeModelBuilder.initialize`, undone by `finalize`.
- **Threads**: the engine has one tracker for all threads; so has this patch.
- **Test that fails when it is no longer needed**: `tests/patches/test_router_loss_tracker.py`.
"""

from typing import Any, final, override

import torch
from megatron.core.transformer.moe.moe_logging import (
    MoEMetricsTracker,
    get_moe_metrics_tracker,
    set_moe_metrics_tracker,
)
from torch import Tensor


@final
class GrowingTracker(MoEMetricsTracker):
    """A tracker that grows with the deepest model.

    Args:
        before: The tracker that it replaces.
    """

    def __init__(self, before: MoEMetricsTracker) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.before = before

    @override
    def record(self, name: str, value: Tensor, layer_number: int, num_layers: int, *args: Any, **options: Any) -> None:
        """Make space for the layer, then record the value. The arguments are the engine's."""
        entry = self.metrics.get(name)
        if entry is not None and entry.values.numel() < num_layers:
            entry.values = torch.cat([entry.values, entry.values.new_zeros(num_layers - entry.values.numel())])
        super().record(name, value, layer_number, num_layers, *args, **options)


def track_losses_of_every_model() -> None:
    """Replace the engine's tracker by a growing one, unless that is done already."""
    current = get_moe_metrics_tracker()
    if not isinstance(current, GrowingTracker):
        set_moe_metrics_tracker(GrowingTracker(current))


def restore_router_loss_tracker() -> None:
    """Restore the tracker that the growing one replaced, if there is one."""
    current = get_moe_metrics_tracker()
    if isinstance(current, GrowingTracker):
        set_moe_metrics_tracker(current.before)
