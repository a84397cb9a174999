"""Distributed building: process groups, stages, precision, wrapping, and a CPU runtime for the real engine.

`initialize(parallelism)` joins the job and makes the groups, `build_stages` is the lifecycle that every family's
builder runs, `CompositeModelBuilder` builds several modules on ranks of their own, `cpu_runtime()` lets all of it run
without a GPU. Each name is imported when it is first used: starting local ranks does not load the engine.
"""

from typing import TYPE_CHECKING

from modelwright.protocols import lazy_door

if TYPE_CHECKING:
    from modelwright.distributed._checks import build_problems
    from modelwright.distributed._composite import BuiltModule, CompositeModelBuilder
    from modelwright.distributed._context import context_positions
    from modelwright.distributed._cpu_runtime import CpuRuntimeError, cpu_runtime, device_runtime
    from modelwright.distributed._freeze import FreezeError, freeze, train_only
    from modelwright.distributed._groups import finalize, initialize, virtual_stages
    from modelwright.distributed._initialisation import (
        InitialisationError,
        LayoutFreeInit,
        NormalInit,
        UniformInit,
        deferred_initialisation,
        initialise_parameters,
    )
    from modelwright.distributed._lifecycle import build_stages
    from modelwright.distributed._local_job import LocalStore
    from modelwright.distributed._meta import MetaBuild, MetaError
    from modelwright.distributed._module_groups import ModuleGroups, seed_random_states
    from modelwright.distributed._module_plan import CompositeError, ModulePlan
    from modelwright.distributed._precision import PrecisionError, in_precision
    from modelwright.distributed._stages import StageError, layers_of, staged_pattern
    from modelwright.distributed._together import BuildError
    from modelwright.distributed._whole import WholeStateError, load_whole_state, local_shards
    from modelwright.distributed._wrap import (
        WrapError,
        engine_config,
        total_bytes,
        total_parameters,
        unwrapped,
        wrap_problems,
        wrap_stages,
    )
else:
    from modelwright.distributed._engine import load_engine

    __getattr__, __dir__ = lazy_door(__name__, __file__, before=load_engine, light={"_local_job"})

__all__ = [
    "BuildError",
    "BuiltModule",
    "CompositeError",
    "CompositeModelBuilder",
    "CpuRuntimeError",
    "FreezeError",
    "InitialisationError",
    "LayoutFreeInit",
    "LocalStore",
    "MetaBuild",
    "MetaError",
    "ModuleGroups",
    "ModulePlan",
    "NormalInit",
    "PrecisionError",
    "StageError",
    "UniformInit",
    "WholeStateError",
    "WrapError",
    "build_problems",
    "build_stages",
    "context_positions",
    "cpu_runtime",
    "deferred_initialisation",
    "device_runtime",
    "engine_config",
    "finalize",
    "freeze",
    "in_precision",
    "initialise_parameters",
    "initialize",
    "layers_of",
    "load_whole_state",
    "local_shards",
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
