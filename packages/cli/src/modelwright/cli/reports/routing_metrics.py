"""What the routers of a run did, for its metrics: load of each expert, dropped tokens, how sure the routers were."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from torch import nn

from modelwright.distributed import engine_config, unwrapped
from modelwright.layers import RoutingRecorder

if TYPE_CHECKING:
    from megatron.core.process_groups_config import ProcessGroupCollection


def routing_meter(
    stages: Sequence[nn.Module], pg_collection: "ProcessGroupCollection", /
) -> Callable[[], Mapping[str, object]]:
    """The meter of a run: measures nothing in a model without experts.

    Args:
        stages: Wrapped, of this rank.
        pg_collection: The process groups of this rank.

    Returns:
        Gives `expert_load`, tokens of each expert by the number of the layer; `dropped_tokens`, how often an expert had
        no room for a token that it should have had, over all layers; and `router_entropy`, of the weights of a token's
        experts, in nats, the mean over tokens and layers.
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
