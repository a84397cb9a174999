"""Distributed building: process groups, the pipeline split, initialization, dtypes, data-parallel wrappers.

`initialize(parallelism)` joins the job and makes the groups. `build_stages` is the lifecycle that the builder of every
family runs. `CompositeModelBuilder` builds several modules, each on its own ranks. Each name is imported when it is
first used, so that a process that only starts local ranks does not load Megatron-Core.
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
    from modelwright.distributed.initialization.boxes import (
        Box,
        LocalRange,
        ShardingError,
        StageLayout,
        local_range,
        local_tensor,
    )
    from modelwright.distributed.initialization.distributions import (
        LayoutFreeInit,
        NormalInit,
        UniformInit,
        deferred_initialization,
    )
    from modelwright.distributed.initialization.full_state_dict import StateDictError, load_full_state_dict
    from modelwright.distributed.initialization.layout_free import InitializationError, initialize_parameters
    from modelwright.distributed.initialization.meta_device import MetaBuild, MetaError
    from modelwright.distributed.initialization.shards import local_shards
    from modelwright.distributed.lifecycle import StageFunction, build_stages
    from modelwright.distributed.phase_barrier import BuildError, PhaseBarrier
    from modelwright.distributed.pipeline_split import StageError, layers_of, staged_pattern
    from modelwright.distributed.rank_pool import RankError, RankPool, run_ranks
    from modelwright.distributed.text_gather import gather_texts
    from modelwright.distributed.wrappers.data_parallel import (
        engine_config,
        total_bytes,
        total_parameters,
        unwrapped,
        wrap_problems,
        wrap_stages,
        wrappers_of,
    )
    from modelwright.distributed.wrappers.wrap_error import WrapError
else:
    from modelwright.engine import load_engine
    from modelwright.protocols import lazy_door

    __getattr__, __dir__ = lazy_door(__name__, __file__, before=load_engine, light={"rank_pool"})

__all__ = [
    "Box",
    "BuildError",
    "BuiltModule",
    "CompositeError",
    "CompositeModelBuilder",
    "FreezeError",
    "InitializationError",
    "LayoutFreeInit",
    "LocalRange",
    "MetaBuild",
    "MetaError",
    "ModuleGroups",
    "ModulePlan",
    "NormalInit",
    "PhaseBarrier",
    "PrecisionError",
    "RankError",
    "RankPool",
    "ShardingError",
    "StageError",
    "StageFunction",
    "StageLayout",
    "StateDictError",
    "UniformInit",
    "WrapError",
    "build_problems",
    "build_stages",
    "context_positions",
    "deferred_initialization",
    "engine_config",
    "finalize",
    "freeze",
    "gather_texts",
    "in_precision",
    "initialize",
    "initialize_parameters",
    "layers_of",
    "load_full_state_dict",
    "local_range",
    "local_shards",
    "local_tensor",
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
    "wrappers_of",
]
