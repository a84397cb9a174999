"""Data-parallel wrappers around the stages of a rank.

The config contains the wrapper as a value (`NoWrap()`, `MegatronDDP(...)`), and `wrap_stages` applies it. Add a custom
class by `wrap_stages.register(MyWrap)`.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from megatron.core.distributed import (
    DistributedDataParallel,
    DistributedDataParallelConfig,
    FullyShardedDataParallel,
)
from megatron.core.process_groups_config import ProcessGroupCollection
from torch import nn

from modelwright.config import MegatronDDP, MegatronFSDP, NoWrap, Precision, TorchFSDP2
from modelwright.distributed.wrappers.torch_fsdp2 import FullyShardedStage
from modelwright.distributed.wrappers.wrap_error import WrapError
from modelwright.engine import OPTIONAL_PACKAGES


@functools.singledispatch
def wrap_stages(
    strategy: object, stages: Sequence[nn.Module], pg_collection: ProcessGroupCollection
) -> list[nn.Module]:
    """Wrap the stages of a rank.

    Args:
        strategy: The `wrap:` of a config.
        stages: The stages of this rank, in the order of the pipeline.
        pg_collection: The process groups of this rank.

    Returns:
        One module per stage, in the same order.

    Raises:
        WrapError: Nothing is registered for the type of the strategy, or the wrapper does not fit the stages.
    """
    raise WrapError(_unknown(strategy))


def _unknown(strategy: object) -> str:
    known = ", ".join(sorted(t.__name__ for t in wrap_stages.registry if t is not object))
    return f"`wrap` must be one of {known}, but is {type(strategy).__name__}; add it with `wrap_stages.register`."


@wrap_stages.register
def _(strategy: NoWrap, stages: Sequence[nn.Module], pg_collection: ProcessGroupCollection) -> list[nn.Module]:
    return list(stages)


@wrap_stages.register
def _(strategy: MegatronDDP, stages: Sequence[nn.Module], pg_collection: ProcessGroupCollection) -> list[nn.Module]:
    # Only the first stage is bucketed: the later ones are reduced while it still computes (Megatron-LM, training.py).
    wrapped = [
        DistributedDataParallel(
            config=engine_config(stage),
            ddp_config=_ddp_config(strategy, pg_collection),
            module=stage,
            disable_bucketing=index > 0,
            pg_collection=pg_collection,
        )
        for index, stage in enumerate(stages)
    ]
    if strategy.broadcast_from_data_rank_0:
        for stage in wrapped:
            stage.broadcast_params()
    return list[nn.Module](wrapped)


@wrap_stages.register
def _(strategy: TorchFSDP2, stages: Sequence[nn.Module], pg_collection: ProcessGroupCollection) -> list[nn.Module]:
    for stage in stages:
        dtypes = sorted({str(parameter.dtype).removeprefix("torch.") for parameter in stage.parameters()})
        if len(dtypes) > 1:
            raise WrapError(f"{_ONE_DTYPE}, but the model has {' and '.join(dtypes)}; use `ddp`.")
    return [
        FullyShardedStage(
            engine_config(stage), stage, pg_collection, reshard_after_forward=strategy.reshard_after_forward
        )
        for stage in stages
    ]


@wrap_stages.register
def _(strategy: MegatronFSDP, stages: Sequence[nn.Module], pg_collection: ProcessGroupCollection) -> list[nn.Module]:
    for problem in wrap_problems(strategy, Precision()):
        raise WrapError(problem)
    ddp_config = DistributedDataParallelConfig(
        use_megatron_fsdp=True,
        use_distributed_optimizer=True,
        data_parallel_sharding_strategy=strategy.sharding,
        overlap_grad_reduce=strategy.overlap_grad_reduce,
        overlap_param_gather=strategy.overlap_param_gather,
    )
    return [
        FullyShardedDataParallel(
            config=engine_config(stage), ddp_config=ddp_config, module=stage, pg_collection=pg_collection
        )
        for stage in stages
    ]


_ONE_DTYPE = "`wrap.kind: fsdp2` shards parameters of one dtype together"


@functools.singledispatch
def wrap_problems(strategy: object, precision: Precision) -> Iterator[str]:
    """Yield the reasons why a wrapper cannot be used here that are known before the stages are built.

    Args:
        strategy: The `wrap:` of a config. Register the rules of a custom class by `wrap_problems.register`.
        precision: Dtype of the parameters.

    Yields:
        A sentence for each problem.
    """
    if wrap_stages.dispatch(type(strategy)) is wrap_stages.dispatch(object):
        yield _unknown(strategy)


@wrap_problems.register
def _(strategy: TorchFSDP2, precision: Precision) -> Iterator[str]:
    if precision.params != "float32" and precision.keep_float32:
        yield (
            f"{_ONE_DTYPE}, but `precision.keep_float32` leaves some of the {precision.params} model in float32; "
            "leave it out, or use `ddp`."
        )


@wrap_problems.register
def _(strategy: MegatronFSDP, precision: Precision) -> Iterator[str]:
    missing: list[str] = []
    einops = OPTIONAL_PACKAGES["einops"]
    if not einops.is_installed:
        missing.append(f"einops is not installed ({einops.install})")
    if not torch.cuda.is_available():
        missing.append("CUDA is not usable: it orders its communication by CUDA streams and events")
    if missing:
        yield (
            f"`wrap.kind: megatron_fsdp` cannot be used here, because {' and '.join(missing)}; use `fsdp2`, which "
            "shards the same on the CPU and on a GPU."
        )


def engine_config(stage: nn.Module) -> Any:
    """Return the engine's config of a stage, its attribute `config`, which the engine's wrappers read.

    Args:
        stage: The stage without a wrapper.

    Returns:
        Its `TransformerConfig`.

    Raises:
        WrapError: The stage has no `config`.
    """
    config = getattr(stage, "config", None)
    if config is None:
        raise WrapError(
            f"a stage that the engine wraps must have the engine's config as `config`, but {type(stage).__name__} has "
            "none; set it in `build_model`, or use `wrap: {kind: none}`."
        )
    return config


def _ddp_config(strategy: MegatronDDP, pg_collection: ProcessGroupCollection) -> DistributedDataParallelConfig:
    """Return the engine's config of the wrapper, with the default bucket size of Megatron-LM (dist_utils.py)."""
    bucket_size = strategy.bucket_size or max(40_000_000, 1_000_000 * pg_collection.dp_cp.size())
    return DistributedDataParallelConfig(
        grad_reduce_in_fp32=strategy.grad_reduce_in_fp32,
        use_distributed_optimizer=strategy.distributed_optimizer,
        overlap_grad_reduce=strategy.overlap_grad_reduce,
        bucket_size=bucket_size if strategy.overlap_grad_reduce else None,
        average_in_collective=strategy.average_in_collective,
        check_for_nan_in_grad=strategy.check_for_nan,
    )


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the stage inside its wrappers, each of which has its content as the attribute `module`.

    Args:
        module: A stage in any number of wrappers.
    """
    for wrapper in wrappers_of(module):
        module = wrapper.get_submodule("module")
    return module


def wrappers_of(module: nn.Module) -> list[nn.Module]:
    """Return the wrappers of a stage, outermost first, each of which has its content as the attribute `module`.

    Args:
        module: A stage in any number of wrappers.
    """
    children = dict(module.named_children())
    return [module, *wrappers_of(children["module"])] if "module" in children else []


def total_parameters(stages: Sequence[nn.Module]) -> int:
    """Return the number of parameters of this rank's stages. A weight tied on this rank counts once."""
    return sum(p.numel() for p in {id(p): p for stage in stages for p in stage.parameters()}.values())


def total_bytes(stages: Sequence[nn.Module]) -> int:
    """Return the size of the parameters of this rank's stages in bytes. A weight tied on this rank counts once."""
    unique: dict[int, torch.Tensor] = {id(p): p for stage in stages for p in stage.parameters()}
    return sum(p.numel() * p.element_size() for p in unique.values())
