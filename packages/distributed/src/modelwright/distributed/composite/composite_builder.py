"""`CompositeModelBuilder`: a model of several modules, each with its own ranks, layout, groups, hooks and wrapper.

A module may be of any config that has a builder. `initialize` joins the job and makes the groups of every module.
`build_distributed_models` builds each module of this rank with its own builder, exactly as if it were the only module.
The communication between modules is left to the caller. The engine's communicators, such as the one in
bridge_communicator.py, accept the grids of the modules.

The engine's module globals describe one layout of a whole job, which a composite model does not have. They are left
empty, so that engine code that reads them fails instead of communicating with the wrong ranks.
"""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import final

from megatron.core import parallel_state
from megatron.core.process_groups_config import ProcessGroupCollection
from torch import nn

from modelwright.builders import builder_for
from modelwright.distributed.composite.module_groups import ModuleGroups, make_module_groups, seed_random_states
from modelwright.distributed.composite.module_plan import CompositeError, ModulePlan, check_plans
from modelwright.distributed.groups import join
from modelwright.distributed.phase_barrier import DEFAULT_TIMEOUT, PhaseBarrier
from modelwright.engine import job_size


@final
@dataclass(frozen=True, kw_only=True)
class BuiltModule:
    """The part of one module on this rank."""

    stages: list[nn.Module]
    """The wrapped stages, in the order of the pipeline."""
    pg_collection: ProcessGroupCollection
    """The process groups of this rank in the module."""


@final
class CompositeModelBuilder:
    """Builds several modules, each on its own ranks.

    Args:
        modules: Plans by name (a Python identifier). Names and order must be the same on every rank.
        timeout: Longest time that a rank waits for the others, in a build phase and in a collective.
    """

    def __init__(self, modules: Mapping[str, ModulePlan], *, timeout: datetime.timedelta = DEFAULT_TIMEOUT) -> None:
        self.modules: Mapping[str, ModulePlan] = MappingProxyType(dict(modules))
        self.timeout = timeout

    def initialize(self) -> dict[str, ModuleGroups]:
        """Join the job, as `modelwright.distributed.initialize` does, and make the groups of every module.

        Returns:
            The grid of each module on every rank, and its groups on the ranks of the module.

        Raises:
            CompositeError: The modules do not fit into the job or to each other. This process has not joined the job.
            BuildError: Another rank has other modules, or timed out.
        """
        check_plans(self.modules, job_size())
        join(self.timeout)
        places = [(name, plan.ranks, plan.parallelism) for name, plan in self.modules.items()]
        PhaseBarrier(timeout=self.timeout).agree("groups", (), modules=repr(places))
        parallel_state.destroy_model_parallel()
        _renew_memory_buffer()
        return {name: make_module_groups(ranks, parallelism) for name, ranks, parallelism in places}

    def build_distributed_models(self, groups: Mapping[str, ModuleGroups]) -> dict[str, BuiltModule]:
        """Build the modules of this rank, each initialized and wrapped by its own plan.

        Args:
            groups: The result of `initialize`.

        Returns:
            The modules of this rank by name.

        Raises:
            CompositeError: The groups belong to other modules.
            BuildError: A module does not fit its groups, or another rank failed or timed out.
            HookError: A hook failed.
        """
        if list(groups) != list(self.modules):
            raise CompositeError(
                f"`groups` must be the result of `initialize` of this builder, for {_quoted(self.modules)}, but is for "
                f"{_quoted(groups)}; call `initialize` and pass its result."
            )
        with PhaseBarrier(timeout=self.timeout).phase("modules"):
            return {
                name: _build(plan, pg_collection)
                for name, plan in self.modules.items()
                if (pg_collection := groups[name].pg_collection) is not None
            }


def _build(plan: ModulePlan, pg_collection: ProcessGroupCollection) -> BuiltModule:
    seed_random_states(pg_collection, seed=plan.seed)
    stages = builder_for(plan.config, builder=plan.builder, hooks=plan.hooks).build_distributed_models(
        pg_collection, parallelism=plan.parallelism, precision=plan.precision, wrap=plan.wrap, seed=plan.seed
    )
    return BuiltModule(stages=stages, pg_collection=pg_collection)


def _renew_memory_buffer() -> None:
    """Renew the buffer into which sequence parallelism gathers.

    Seam: the engine makes this buffer only together with its global groups, by a private function.
    """
    parallel_state.destroy_global_memory_buffer()
    parallel_state._set_global_memory_buffer()  # pyright: ignore[reportPrivateUsage]


def _quoted(names: Mapping[str, object]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"
