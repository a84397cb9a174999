"""The lifecycle of a distributed build, in one function that every family uses.

Build the stages, initialise them, run the `before_wrap` hooks, give every parameter its tensor-parallel attributes,
apply the precision, wrap, run the `after_wrap` hooks. A hook before the wrap sees real values, and nothing after it
overwrites them.
"""

from collections.abc import Callable, Sequence

import torch
from megatron.core import tensor_parallel
from megatron.core.process_groups_config import ProcessGroupCollection
from torch import nn

from modelwright.builders import BuildContext, Hook, run_hooks
from modelwright.config import ModelConfig, Parallelism, Precision, Wrap
from modelwright.distributed._groups import check_groups, virtual_stages
from modelwright.distributed._initialisation import deferred_initialisation, initialise_parameters
from modelwright.distributed._precision import check_patterns, kept_in_float32, with_precision
from modelwright.distributed._wrap import wrap_stages

type StageFunction = Callable[[int | None], nn.Module]


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
) -> list[nn.Module]:
    """Make all stages of this rank, initialised and wrapped.

    Args:
        build_stage: Makes one stage; takes the virtual stage, None when there are none.
        config: What is built; handed to the hooks.
        pg_collection: The process groups of this rank.
        parallelism: Sizes of the axes.
        precision: Number format of the parameters.
        wrap: How the stages become data-parallel.
        hooks: Run in order, each in its phase.
        seed: What the initial values are a function of.

    Returns:
        One wrapped module per virtual stage, the first stage first.

    Raises:
        GroupError: The groups do not fit the parallelism.
        HookError: A hook failed.
        WrapError: The wrap strategy does not fit the stages.
    """
    check_groups(pg_collection, parallelism)
    context = BuildContext(
        config=config,
        parallelism=parallelism,
        precision=precision,
        pg_collection=pg_collection,
        rank=torch.distributed.get_rank(),
    )
    virtual = virtual_stages(parallelism)
    with deferred_initialisation():
        # A part that did not ask for a device was made on the CPU.
        stages = [build_stage(i if virtual else None).cuda() for i in range(virtual or 1)]
    if parallelism.pipeline == 1:
        check_patterns(stages, precision)
    kept = [kept_in_float32(stage, precision) for stage in stages]
    initialise_parameters(stages, pg_collection, seed=seed)
    stages = run_hooks(hooks, "before_wrap", stages, context)
    for stage in stages:
        for parameter in stage.parameters():
            tensor_parallel.set_defaults_if_not_set_tensor_model_parallel_attributes(parameter)
    stages = [with_precision(stage, precision, keep) for stage, keep in zip(stages, kept, strict=True)]
    stages = wrap_stages(wrap, stages, pg_collection)
    return run_hooks(hooks, "after_wrap", stages, context)
