"""`TorchFSDP2`: PyTorch's `fully_shard` over a stage, as the engine's schedules and optimizer expect a wrapper.

The engine's own wrapper builds a CUDA mesh, shards parents before their children, and takes a global group; here each
layer is sharded first and the stage last, over the group that was given, on whatever device the stage is.
"""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallelConfig
from megatron.core.distributed.data_parallel_base import _BaseDataParallel  # pyright: ignore[reportPrivateUsage]
from torch import nn
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard


class FullyShardedStage(_BaseDataParallel):
    """A stage whose parameters are sharded over the data-parallel ranks.

    Args:
        config: The engine's config of the stage.
        stage: Not wrapped; sharded in place.
        group: The data-parallel group.
        reshard_after_forward: Free whole parameters after the forward pass.
    """

    def __init__(self, config: Any, stage: nn.Module, group: ProcessGroup, *, reshard_after_forward: bool) -> None:
        super().__init__(config=config, module=stage)
        self.ddp_config = DistributedDataParallelConfig()  # read by the engine's optimizer; nothing of it applies
        device = next(stage.parameters()).device.type
        # Torch takes meshes of the same ranks and names for one, and would go on with the first one's group.
        mesh = DeviceMesh.from_group(group, device, mesh_dim_names=(f"data_{group.group_name}",))
        # fully_shard replaces the parameters, and with them the attributes that the engine reads.
        attributes = {name: dict(vars(parameter)) for name, parameter in stage.named_parameters()}
        for layer in _layers(stage):
            fully_shard(layer, mesh=mesh, reshard_after_forward=reshard_after_forward)
        fully_shard(stage, mesh=mesh, reshard_after_forward=reshard_after_forward)
        for name, parameter in stage.named_parameters():
            for attribute, value in attributes[name].items():
                setattr(parameter, attribute, value)
            setattr(parameter, "is_torch_fsdp2_param", True)  # noqa: B010 - an attribute of the engine

    def finish_grad_sync(self, force_all_reduce: bool = False) -> None:  # noqa: FBT001, FBT002 - the engine's call
        """Nothing is left to do: `fully_shard` reduces in the backward pass."""

    @contextmanager
    def no_sync(self) -> Generator[None]:
        """Accumulate whole gradients without reducing them."""
        stage = self.module
        if not isinstance(stage, FSDPModule):
            raise TypeError(f"a sharded stage must be an FSDPModule, but is {type(stage).__name__}")
        stage.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            stage.set_requires_gradient_sync(True)


def _layers(stage: nn.Module) -> Iterator[nn.Module]:
    """What is gathered and freed together: each layer with parameters of its own.

    The embedding stays with the stage, because a tied output layer reads its weight from outside.
    """
    decoder = getattr(stage, "decoder", None)
    for layer in getattr(decoder, "layers", ()):
        if any(True for _ in layer.parameters()):
            yield layer


def sharded_bytes(parameter: torch.Tensor) -> int:
    """How many bytes of a sharded or plain parameter this rank holds."""
    local: torch.Tensor = getattr(parameter, "_local_tensor", parameter)
    return local.numel() * local.element_size()
