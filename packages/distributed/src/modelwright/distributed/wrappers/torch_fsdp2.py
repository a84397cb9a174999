"""PyTorch's `fully_shard` around a stage, with the interface that the engine's schedules and optimizer require.

The engine's own wrapper makes a CUDA mesh, shards parents before their children, and uses a global group. Here each
layer is sharded first and the stage last, over the given group, on the device of the stage.

Seam: `_BaseDataParallel` is the class by which the engine recognizes a wrapper.
"""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

from megatron.core.distributed import DistributedDataParallelConfig
from megatron.core.distributed.data_parallel_base import _BaseDataParallel  # pyright: ignore[reportPrivateUsage]
from torch import nn
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard


class FullyShardedStage(_BaseDataParallel):
    """A stage with parameters that are sharded over the data-parallel and context-parallel ranks.

    Args:
        config: The engine's config of the stage.
        stage: The stage without a wrapper; sharded in place.
        group: The group to shard over, `dp_cp` of the process groups.
        reshard_after_forward: Free unsharded parameters after the forward pass.
    """

    def __init__(self, config: Any, stage: nn.Module, group: ProcessGroup, *, reshard_after_forward: bool) -> None:
        super().__init__(config=config, module=stage)
        self.ddp_config = DistributedDataParallelConfig()  # the engine's optimizer reads it, but no option applies
        device = next(stage.parameters()).device.type
        # torch treats meshes with the same ranks and names as equal, and would use the group of the first for all.
        mesh = DeviceMesh.from_group(group, device, mesh_dim_names=(f"data_{group.group_name}",))
        # fully_shard replaces the parameters, which loses the attributes that the engine reads.
        attributes = {name: dict(vars(parameter)) for name, parameter in stage.named_parameters()}
        for layer in _layers(stage):
            fully_shard(layer, mesh=mesh, reshard_after_forward=reshard_after_forward)
        fully_shard(stage, mesh=mesh, reshard_after_forward=reshard_after_forward)
        for name, parameter in stage.named_parameters():
            for attribute, value in attributes[name].items():
                setattr(parameter, attribute, value)
            setattr(parameter, "is_torch_fsdp2_param", True)  # noqa: B010 - an attribute of the engine

    def finish_grad_sync(self, force_all_reduce: bool = False) -> None:  # noqa: FBT001, FBT002 - the engine's call
        """Do nothing: `fully_shard` reduces gradients in the backward pass."""

    @contextmanager
    def no_sync(self) -> Generator[None]:
        """Accumulate unsharded gradients without reducing them."""
        stage = self.module
        if not isinstance(stage, FSDPModule):
            raise TypeError(
                f"the module of a `FullyShardedStage` must stay the `FSDPModule` that `fully_shard` made, but is a "
                f"`{type(stage).__name__}`; do not replace `module`."
            )
        stage.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            stage.set_requires_gradient_sync(True)


def _layers(stage: nn.Module) -> Iterator[nn.Module]:
    """Yield each layer with parameters. The parameters of a layer are gathered and freed together.

    The embedding stays with the stage, because a tied output layer reads its weight from outside.
    """
    decoder = getattr(stage, "decoder", None)
    for layer in getattr(decoder, "layers", ()):
        if any(True for _ in layer.parameters()):
            yield layer
