"""Distributed building: process groups, stages, precision, wrapping, and a CPU runtime for the real engine.

`initialize(parallelism)` joins the job and makes the groups, `build_stages` is the lifecycle that every family's
builder runs, `CompositeModelBuilder` builds several modules on ranks of their own, `cpu_runtime()` lets all of it run
without a GPU. Each name is imported when it is first used: starting local ranks does not load the engine.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelwright.distributed.build_checks import build_problems
    from modelwright.distributed.composite.composite_builder import BuiltModule, CompositeModelBuilder
    from modelwright.distributed.composite.module_groups import ModuleGroups, seed_random_states
    from modelwright.distributed.composite.module_plan import CompositeError, ModulePlan
    from modelwright.distributed.context_parallel import context_positions
    from modelwright.distributed.dtypes import PrecisionError, in_precision
    from modelwright.distributed.groups import finalize, initialize, virtual_stages
    from modelwright.distributed.hooks.freezing import FreezeError, freeze, train_only
    from modelwright.distributed.initialization.full_state_dict import WholeStateError, load_whole_state, local_shards
    from modelwright.distributed.initialization.layout_free import (
        InitializationError,
        LayoutFreeInit,
        NormalInit,
        UniformInit,
        deferred_initialization,
        initialize_parameters,
    )
    from modelwright.distributed.initialization.meta_device import MetaBuild, MetaError
    from modelwright.distributed.lifecycle import build_stages
    from modelwright.distributed.phase_barrier import BuildError
    from modelwright.distributed.pipeline_split import StageError, layers_of, staged_pattern
    from modelwright.distributed.rank_pool import RankError, RankPool, run_ranks
    from modelwright.distributed.wrappers.data_parallel import (
        WrapError,
        engine_config,
        total_bytes,
        total_parameters,
        unwrapped,
        wrap_problems,
        wrap_stages,
    )
else:
    from modelwright.engine import load_engine
    from modelwright.protocols import lazy_door

    __getattr__, __dir__ = lazy_door(__name__, __file__, before=load_engine, light={"rank_pool"})

__all__ = [
    "BuildError",
    "BuiltModule",
    "CompositeError",
    "CompositeModelBuilder",
    "FreezeError",
    "InitializationError",
    "LayoutFreeInit",
    "MetaBuild",
    "MetaError",
    "ModuleGroups",
    "ModulePlan",
    "NormalInit",
    "PrecisionError",
    "RankError",
    "RankPool",
    "StageError",
    "UniformInit",
    "WholeStateError",
    "WrapError",
    "build_problems",
    "build_stages",
    "context_positions",
    "deferred_initialization",
    "engine_config",
    "finalize",
    "freeze",
    "in_precision",
    "initialize",
    "initialize_parameters",
    "layers_of",
    "load_whole_state",
    "local_shards",
    "run_ranks",
    "seed_random_states",
    "staged_pattern",
    "total_bytes",
    "total_parameters",
    "train_only",
    "unwrapped",
    "virtual_stages",
    "wrap_problems",
    "wrap_stages",
]
