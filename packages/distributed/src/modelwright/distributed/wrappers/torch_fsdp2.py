"""PyTorch's `fully_shard` around a stage, with the interface that the engine's schedules and optimizer require.

The engine's own wrapper makes a CUDA mesh, shards parents before their children, and uses one global group. Here
experts are sharded first, then each layer, and the stage last, over the given groups, on the device of the stage.

Seam: `_BaseDataParallel` is the class by which the engine recognizes a wrapper.
"""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

from megatron.core.distributed import DistributedDataParallelConfig
from megatron.core.distributed.data_parallel_base import _BaseDataParallel  # pyright: ignore[reportPrivateUsage]
from megatron.core.process_groups_config import ProcessGroupCollection
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from modelwright.distributed.wrappers.wrap_error import WrapError


class FullyShardedStage(_BaseDataParallel):
    """A stage with parameters that are sharded over the ranks that hold copies of them.

    Those are the data-parallel and context-parallel ranks. Experts have data ranks of their own if expert or
    expert-tensor parallelism is set. The gradient of every parameter is the sum over its data ranks, divided by the
    number of data-parallel and context-parallel ranks, as in the engine's own wrapper; with `calculate_per_token_loss`
    it is the sum.

    Args:
        config: The engine's config of the stage.
        stage: The stage without a wrapper; sharded in place.
        pg_collection: The process groups of this rank. Experts are sharded over `expt_dp`, the rest over `dp_cp`.
        reshard_after_forward: Free unsharded parameters after the forward pass.

    Raises:
        WrapError: A module holds parameters of experts beside others.
    """

    def __init__(
        self, config: Any, stage: nn.Module, pg_collection: ProcessGroupCollection, *, reshard_after_forward: bool
    ) -> None:
        super().__init__(config=config, module=stage)
        self.ddp_config = DistributedDataParallelConfig()  # the engine's optimizer reads it, but no option applies
        device = next(stage.parameters()).device.type
        ranks = pg_collection.dp_cp.size()
        divisor = 1.0 if config.calculate_per_token_loss else float(ranks)
        # fully_shard replaces the parameters, which loses the attributes that the engine reads.
        attributes = {name: dict(vars(parameter)) for name, parameter in stage.named_parameters()}
        experts = list(_expert_modules(stage)) if _have_own_ranks(pg_collection) else []
        for modules, group in ((experts, pg_collection.expt_dp), ([*_layers(stage), stage], pg_collection.dp_cp)):
            for module in modules:
                sharded = fully_shard(module, mesh=_mesh(group, device), reshard_after_forward=reshard_after_forward)
                if divisor != group.size():
                    # As a sum and a product, because gloo has no reduction that multiplies first. In a group of one
                    # rank torch 2.15 would divide twice.
                    sharded.set_force_sum_reduction_for_comms(group.size() > 1)
                    sharded.set_gradient_divide_factor(divisor)
        for name, parameter in stage.named_parameters():
            for attribute, value in attributes[name].items():
                setattr(parameter, attribute, value)
            setattr(parameter, "is_torch_fsdp2_param", True)  # noqa: B010 - an attribute of the engine

    def scale_gradients(self, scaling_factor: Tensor | float) -> None:
        """Multiply the gradients of this rank.

        Args:
            scaling_factor: The factor.
        """
        for parameter in self.module.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(scaling_factor)

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


def _mesh(group: ProcessGroup, device: str) -> DeviceMesh:
    """Return the mesh of a group."""
    # torch treats meshes with the same ranks and names as equal, and would use the group of the first for all.
    return DeviceMesh.from_group(group, device, mesh_dim_names=(f"data_{group.group_name}",))


def _have_own_ranks(pg_collection: ProcessGroupCollection) -> bool:
    """Return True if the data ranks of experts are not those of the other parameters."""
    expert, tensor = pg_collection.ep.size(), pg_collection.expt_tp.size()
    return expert > 1 or tensor != pg_collection.tp.size()


def _expert_modules(stage: nn.Module) -> Iterator[nn.Module]:
    """Yield the outermost modules that hold parameters of experts alone."""
    for child in stage.children():
        kinds = {is_expert(parameter) for parameter in child.parameters()}
        if kinds == {True}:
            yield child
        elif len(kinds) == 2:
            if any(is_expert(parameter) for parameter in child.parameters(recurse=False)):
                raise WrapError(
                    f"`wrap.kind: fsdp2` shards experts over ranks of their own, but `{type(child).__name__}` holds "
                    "parameters of experts beside others; give the experts a module of their own, or use `ddp`."
                )
            yield from _expert_modules(child)


def is_expert(parameter: nn.Parameter) -> bool:
    """Return True if a parameter belongs to experts that have other data ranks: the engine's mark `allreduce=False`."""
    return not getattr(parameter, "allreduce", True)


def _layers(stage: nn.Module) -> Iterator[nn.Module]:
    """Yield each layer with parameters. The parameters of a layer are gathered and freed together.

    The embedding stays with the stage, because a tied output layer reads its weight from outside.
    """
    decoder = getattr(stage, "decoder", None)
    for layer in getattr(decoder, "layers", ()):
        if any(True for _ in layer.parameters()):
            yield layer
