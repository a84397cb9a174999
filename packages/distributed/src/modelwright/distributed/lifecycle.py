"""The lifecycle of a distributed build, in one function that every family uses.

The order is: check everything that can be checked, build the stages, initialize them, run the `before_wrap` hooks, set
tensor-parallel attributes, cast to the dtype, wrap, run the `after_wrap` hooks. A `before_wrap` hook sees real values,
and nothing overwrites them later. All ranks reach the end of each phase, or the others report the one that did not.
"""

import contextlib
import datetime
import gc
from collections.abc import Generator, Sequence
from typing import Any, Protocol

import torch
from megatron.core import tensor_parallel
from megatron.core.process_groups_config import ProcessGroupCollection
from torch import nn

from modelwright.builders import BuildContext, Hook, run_hooks
from modelwright.config import ModelConfig, Parallelism, Precision, Wrap
from modelwright.distributed.build_checks import build_problems, facts
from modelwright.distributed.dtypes import check_patterns, kept_in_float32, with_precision
from modelwright.distributed.groups import virtual_stages
from modelwright.distributed.initialization.distributions import deferred_initialization, mark_rewrapped
from modelwright.distributed.initialization.layout_free import initialize_parameters
from modelwright.distributed.initialization.meta_device import MetaBuild
from modelwright.distributed.phase_barrier import DEFAULT_TIMEOUT, PhaseBarrier
from modelwright.distributed.wrappers.data_parallel import wrap_stages


class StageFunction(Protocol):
    """Builds one stage. The method `build_model` of a `ModelBuilder` with its other arguments bound is one."""

    def __call__(self, *, vp_stage: int | None) -> nn.Module:
        """Build a stage.

        Args:
            vp_stage: Virtual stage of this rank, from 0. None: there are no virtual stages.

        Returns:
            The stage without a data-parallel wrapper.
        """
        ...


@contextlib.contextmanager
def _collector_paused() -> Generator[None]:
    """Pause Python's garbage collector: a full collection over the objects of the imported engine takes 0.2 s."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@_collector_paused()
def build_stages(
    build_stage: StageFunction,
    *,
    config: ModelConfig,
    pg_collection: ProcessGroupCollection,
    parallelism: Parallelism,
    precision: Precision,
    wrap: Wrap,
    hooks: Sequence[Hook] = (),
    seed: int = 1234,
    meta: bool = False,
    ranks: Sequence[int] | None = None,
    timeout: datetime.timedelta = DEFAULT_TIMEOUT,
) -> list[nn.Module]:
    """Build all stages of this rank, initialized and wrapped.

    Args:
        build_stage: Builds one stage.
        config: Config of the model, passed to the hooks.
        pg_collection: The process groups of this rank.
        parallelism: Sizes of the axes.
        precision: Dtype of the parameters.
        wrap: Data-parallel wrapper of the stages.
        hooks: Hooks, run in order, each in its phase.
        seed: Seed of the initial values. They depend only on it and on a parameter's name in the unsharded model.
        meta: Build on the meta device first, so that no memory is allocated before all stages of this rank are built.
        ranks: Ranks of the job that build this model. None: those of the groups.
        timeout: Longest time that a rank waits for the others at the end of a phase.

    Returns:
        One wrapped module per virtual stage, in the order of the pipeline.

    Raises:
        BuildError: Config, groups and wrapper do not fit each other, or another rank failed or timed out.
        HookError: A hook failed.
        WrapError: The wrapper does not fit the stages.
    """
    barrier = PhaseBarrier(_ranks_of(pg_collection) if ranks is None else ranks, timeout=timeout)
    barrier.agree(
        "checks",
        build_problems(config, pg_collection, parallelism=parallelism, precision=precision, wrap=wrap),
        **facts(config=config, parallelism=parallelism, precision=precision, wrap=wrap, seed=seed),
    )
    context = BuildContext(
        config=config,
        parallelism=parallelism,
        precision=precision,
        pg_collection=pg_collection,
        rank=torch.distributed.get_rank(),
        stages=tuple(pg_collection.pp.rank() + i * parallelism.pipeline for i in range(parallelism.virtual_pipeline)),
    )
    with barrier.phase("build"):
        stages = _built(build_stage, virtual_stages(parallelism), meta=meta)
    with barrier.phase("initialize"):
        check_patterns(stages, precision, pg_collection.pp)
        kept = [kept_in_float32(stage, precision) for stage in stages]
        initialize_parameters(stages, pg_collection, seed=seed)
    with barrier.phase("before_wrap"):
        stages = run_hooks(hooks, "before_wrap", stages, context)
    with barrier.phase("wrap"):
        for stage in stages:
            for parameter in stage.parameters():
                tensor_parallel.set_defaults_if_not_set_tensor_model_parallel_attributes(parameter)
        stages = [with_precision(stage, precision, keep) for stage, keep in zip(stages, kept, strict=True)]
        stages = wrap_stages(wrap, stages, pg_collection)
    with barrier.phase("after_wrap"):
        return run_hooks(hooks, "after_wrap", stages, context)


def _ranks_of(pg_collection: ProcessGroupCollection) -> list[int] | None:
    """Return the ranks of `intra_dist_opt`, which are all ranks of the model. None: the group is not set."""
    group: Any = pg_collection.intra_dist_opt  # typed as set
    return None if group is None else torch.distributed.get_process_group_ranks(group)


def _built(build_stage: StageFunction, virtual: int | None, *, meta: bool) -> list[nn.Module]:
    """Build the stages and allocate them. Weights are marked with their distribution and not drawn yet."""

    def build() -> list[nn.Module]:
        # A part that names no device was made on the CPU.
        stages = [build_stage(vp_stage=i if virtual else None).cuda() for i in range(virtual or 1)]
        mark_rewrapped(stages)
        return stages

    with deferred_initialization():
        if not meta:
            return build()
        record = MetaBuild()
        with record.recording():
            stages = build()
    record.materialize(stages)
    return stages
