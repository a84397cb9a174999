"""`RoutingRecorder`: what the routers of a model did since it was last asked, for metrics.

A hook on each router adds up what it gave, on the device and without waiting for it; `read` sums over the ranks, in one
collective for each of two groups.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, final

import torch
from megatron.core.transformer.moe.moe_layer import MoELayer
from torch import Tensor, nn

from modelwright.engine import as_engine

if TYPE_CHECKING:
    from types import TracebackType

    from megatron.core.process_groups_config import ProcessGroupCollection


@dataclass(frozen=True, kw_only=True)
class LayerRouting:
    """What one layer's router did, over all ranks."""

    layer: int
    """From 1, over the whole model."""
    tokens_per_expert: tuple[int, ...]
    """Rows that each expert got."""
    dropped: int
    """Choices of an expert that its capacity had no room for."""
    entropy: float
    """Of the shares in which a token weighs the experts that took it, mean over tokens, in nats; at most ln(top-k)."""


@final
class RoutingRecorder:
    """Records the routers of this rank's stages in training; a context manager that ends with `close`.

    A forward pass counts when it is trained on: not in evaluation, and once when activations are computed again. Only
    mixtures of the engine (`MoELayer`) have a router that can be found; of multi-token prediction nothing is recorded.

    Args:
        stages: Of this rank, wrapped or not; their routers may be of any class.
    """

    def __init__(self, stages: Iterable[nn.Module]) -> None:
        modules = (module for stage in stages for module in stage.modules())
        mixtures = [as_engine(m) for m in modules if isinstance(m, MoELayer) and not m.is_mtp_layer]
        self._sums: dict[int, Tensor] = {}
        self._shape: tuple[int, int] | None = None
        if mixtures:
            self._shape = (mixtures[0].config.num_layers, mixtures[0].config.num_moe_experts)
        self._hooks = [mixture.router.register_forward_hook(self._hook(mixture)) for mixture in mixtures]

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
        """Sum over the ranks what was recorded since the last call; called by all ranks together.

        Args:
            pg_collection: The process groups of this rank.

        Returns:
            One entry for each layer that routed a token, first layer first, the same on every rank.
        """
        layers, experts = self._whole_shape(pg_collection)
        total = torch.zeros(layers, experts + 3, dtype=torch.float64, device=torch.cuda.current_device())
        for layer, sums in self._sums.items():
            total[layer - 1] = sums
        self._sums.clear()
        # The tokens of a layer are spread over these ranks, the layers over those of the pipeline.
        for group in (pg_collection.tp_dp_cp, pg_collection.pp):
            torch.distributed.all_reduce(total, group=group)
        return tuple(_entry(layer, row) for layer, row in enumerate(total.cpu(), start=1) if row[-1] > 0)

    def _whole_shape(self, pg_collection: "ProcessGroupCollection") -> tuple[int, int]:
        """Layers and experts of the model; a stage without a mixture learns them from the others."""
        shape = torch.tensor(self._shape or (0, 0), device=torch.cuda.current_device())
        torch.distributed.all_reduce(shape, op=torch.distributed.ReduceOp.MAX, group=pg_collection.pp)
        return int(shape[0]), int(shape[1])

    def _hook(self, mixture: Any) -> Callable[[nn.Module, Any, tuple[Tensor, Tensor]], None]:
        def record(router: nn.Module, given: Any, answer: tuple[Tensor, Tensor]) -> None:
            if not router.training or not torch.is_grad_enabled():
                return
            sums = _sums(*answer, mixture.config)
            layer = mixture.layer_number
            self._sums[layer] = self._sums[layer] + sums if layer in self._sums else sums

        return record


@torch.no_grad()
def _sums(probs: Tensor, routing_map: Tensor, config: Any) -> Tensor:
    """[e + 3]: rows of each expert, choices without room, entropy, tokens."""
    if config.moe_pad_expert_input_to_capacity:  # the map then holds rows that nobody chose, of probability 0
        routing_map = routing_map & (probs > 0)
    rows = routing_map.sum(dim=0).double()
    tokens = probs.size(0)
    limited = config.moe_expert_capacity_factor is not None
    dropped = tokens * config.moe_router_topk - rows.sum() if limited else rows.new_zeros(())
    shares = probs.double() / probs.double().sum(dim=-1, keepdim=True).clamp(min=1e-20)
    entropy = -torch.xlogy(shares, shares).sum()
    return torch.cat([rows, torch.stack([dropped, entropy, rows.new_tensor(tokens)])])


def _entry(layer: int, row: Tensor) -> LayerRouting:
    return LayerRouting(
        layer=layer,
        tokens_per_expert=tuple(int(count) for count in row[:-3]),
        dropped=int(row[-3]),
        entropy=float(row[-2] / row[-1]),
    )
