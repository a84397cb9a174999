"""`RoutingRecorder`: records what the routers of a model did since the last reading, for metrics.

A hook on each router accumulates statistics on the device, without waiting for it. `read` sums over the ranks, with one
collective for each of two groups.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, cast, final

import torch
from megatron.core.transformer.moe.moe_layer import MoELayer
from torch import Tensor, nn

if TYPE_CHECKING:
    from types import TracebackType

    from megatron.core.process_groups_config import ProcessGroupCollection
    from megatron.core.transformer import TransformerConfig


@dataclass(frozen=True, kw_only=True)
class LayerRouting:
    """Routing statistics of one MoE layer, over all ranks."""

    layer: int
    """Number of the layer in the model, from 1."""
    tokens_per_expert: tuple[int, ...]
    """Number of tokens that each expert received."""
    dropped: int
    """Number of (token, expert) choices dropped over expert capacity."""
    entropy: float
    """Mean entropy, in nats, of each token's normalized router probabilities over its experts; at most ln(top-k)."""


@final
class RoutingRecorder:
    """Recorder of the routers on this rank during training; a context manager that calls `close` at its end.

    A forward pass counts if it is part of training. Evaluation does not count, and recomputed activations count once.
    Only routers of the engine's `MoELayer` are found, of any class. Multi-token prediction blocks are not recorded.

    Args:
        stages: Stages of this rank, wrapped or not.
    """

    def __init__(self, stages: Iterable[nn.Module]) -> None:
        modules = (module for stage in stages for module in stage.modules())
        layers = [module for module in modules if isinstance(module, MoELayer) and not module.is_mtp_layer]
        self._sums: dict[int, Tensor] = {}
        self._shape: tuple[int, int] | None = None
        if layers:
            config = layers[0].config
            self._shape = (config.num_layers, config.num_moe_experts or 0)
        self._hooks = [cast("nn.Module", layer.router).register_forward_hook(self._hook(layer)) for layer in layers]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: "TracebackType | None"
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop recording."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def read(self, pg_collection: "ProcessGroupCollection") -> tuple[LayerRouting, ...]:
        """Return the statistics since the last call, summed over the ranks; all ranks must call it together.

        Args:
            pg_collection: Process groups of this rank.

        Returns:
            One entry for each layer that routed a token, in the order of the layers, the same on every rank.
        """
        layers, experts = self._model_shape(pg_collection)
        total = torch.zeros(layers, experts + 3, dtype=torch.float64, device=torch.cuda.current_device())
        for layer, sums in self._sums.items():
            total[layer - 1] = sums
        self._sums.clear()
        # The first group splits the tokens of a layer, the second one the layers.
        for group in (pg_collection.tp_dp_cp, pg_collection.pp):
            torch.distributed.all_reduce(total, group=group)
        return tuple(_entry(layer, row) for layer, row in enumerate(total.cpu(), start=1) if row[-1] > 0)

    def _model_shape(self, pg_collection: "ProcessGroupCollection") -> tuple[int, int]:
        """Return the numbers of layers and experts in the model; a stage without MoE layers gets them from others."""
        shape = torch.tensor(self._shape or (0, 0), device=torch.cuda.current_device())
        torch.distributed.all_reduce(shape, op=torch.distributed.ReduceOp.MAX, group=pg_collection.pp)
        return int(shape[0]), int(shape[1])

    def _hook(self, layer: MoELayer) -> Callable[[nn.Module, Any, tuple[Tensor, Tensor]], None]:
        def record(router: nn.Module, given: Any, answer: tuple[Tensor, Tensor]) -> None:
            if not router.training or not torch.is_grad_enabled():
                return
            sums = _sums(*answer, layer.config)
            number = cast("int", layer.layer_number)  # set by the transformer layer around it
            self._sums[number] = self._sums[number] + sums if number in self._sums else sums

        return record


@torch.no_grad()
def _sums(probs: Tensor, routing_map: Tensor, config: "TransformerConfig") -> Tensor:
    """Return `[e + 3]`: tokens of each expert, choices over capacity, sum of entropies, number of tokens."""
    if config.moe_pad_expert_input_to_capacity:  # then the map has padding entries of probability 0
        routing_map = routing_map & (probs > 0)
    received = routing_map.sum(dim=0).double()
    tokens = probs.size(0)
    limited = config.moe_expert_capacity_factor is not None
    dropped = tokens * config.moe_router_topk - received.sum() if limited else received.new_zeros(())
    shares = probs.double() / probs.double().sum(dim=-1, keepdim=True).clamp(min=1e-20)
    entropy = -torch.xlogy(shares, shares).sum()
    return torch.cat([received, torch.stack([dropped, entropy, received.new_tensor(tokens)])])


def _entry(layer: int, row: Tensor) -> LayerRouting:
    return LayerRouting(
        layer=layer,
        tokens_per_expert=tuple(int(count) for count in row[:-3]),
        dropped=int(row[-3]),
        entropy=float(row[-2] / row[-1]),
    )
