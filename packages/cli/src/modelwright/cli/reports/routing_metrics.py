"""Metrics of the routers of a run: load of each expert, dropped tokens, entropy of the routing weights."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from torch import nn

from modelwright.distributed import engine_config, unwrapped
from modelwright.layers import RoutingRecorder

if TYPE_CHECKING:
    from megatron.core.process_groups_config import ProcessGroupCollection


def routing_metrics(
    stages: Sequence[nn.Module], pg_collection: "ProcessGroupCollection", /
) -> Callable[[], Mapping[str, object]]:
    """Make the metrics callback of a run; it returns no metrics for a model without experts.

    Args:
        stages: The wrapped stages of this rank.
        pg_collection: The process groups of this rank.

    Returns:
        A function that returns `expert_load` (tokens of each expert by layer number), `dropped_tokens` (token and
        expert pairs over the expert capacity, summed over layers) and `router_entropy` (entropy of a token's routing
        weights in nats, mean over tokens and layers).
    """
    if not engine_config(unwrapped(stages[0])).num_moe_experts:
        return dict[str, object]
    recorder = RoutingRecorder(stages)

    def measure() -> Mapping[str, object]:
        layers = recorder.read(pg_collection)
        return {
            "expert_load": {str(layer.layer): layer.tokens_per_expert for layer in layers},
            "dropped_tokens": sum(layer.dropped for layer in layers),
            "router_entropy": sum(layer.entropy for layer in layers) / max(1, len(layers)),
        }

    return measure
