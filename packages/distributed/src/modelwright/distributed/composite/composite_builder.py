"""`CompositeModelBuilder`: a model of several modules, each with its own ranks, layout, process groups, hooks and wrap.

A module is what any builder makes of any config. `initialize` joins the job and makes every module's groups,
`build_distributed_models` has each module that stands on this rank built by its own builder, so that a module in a
composite model is built as the same module alone. What flows between modules is the caller's: the engine's
communicators, such as its bridge_communicator.py, take the modules' grids.

The engine's module globals describe one layout of a whole job, which a composite model does not have. They are left
empty, so that a path of the engine which reads them fails instead of communicating with the wrong ranks.
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
from modelwright.distributed.phase_barrier import DEFAULT_TIMEOUT, Together
from modelwright.engine import job_size


@final
@dataclass(frozen=True, kw_only=True)
class BuiltModule:
    """What a rank holds of one module."""

    stages: list[nn.Module]
    """Wrapped; the first virtual stage first."""
    pg_collection: ProcessGroupCollection
    """The process groups of this rank in the module."""


@final
class CompositeModelBuilder:
    """Builds several modules, each on its own ranks.

    Args:
        modules: Plans by name; a name is an identifier. Names and order are the same on every rank.
        timeout: How long a rank waits for the others, at the end of a build and in a collective.
    """

    def __init__(self, modules: Mapping[str, ModulePlan], *, timeout: datetime.timedelta = DEFAULT_TIMEOUT) -> None:
        self.modules: Mapping[str, ModulePlan] = MappingProxyType(dict(modules))
        self.timeout = timeout

    def initialize(self) -> dict[str, ModuleGroups]:
        """Join the job, as `modelwright.distributed.initialize` does, and make the groups of every module.

        Returns:
            For each module, on every rank, its grid; and its groups on the ranks that hold it.

        Raises:
            CompositeError: The modules do not fit into the job or to each other; nothing has been joined.
            BuildError: Another rank has other modules, or did not come.
        """
        check_plans(self.modules, job_size())
        join(self.timeout)
        places = [(name, plan.ranks, plan.parallelism) for name, plan in self.modules.items()]
        Together(timeout=self.timeout).agree("groups", (), modules=repr(places))
        parallel_state.destroy_model_parallel()
        _renew_memory_buffer()
        return {name: make_module_groups(ranks, parallelism) for name, ranks, parallelism in places}

    def build_distributed_models(self, groups: Mapping[str, ModuleGroups]) -> dict[str, BuiltModule]:
        """Make the modules that stand on this rank, each initialized and wrapped as its own plan says.

        Args:
            groups: What `initialize` returned.

        Returns:
            These modules by name.

        Raises:
            CompositeError: The groups are of other modules.
            BuildError: A module does not fit its groups, or another rank failed or did not come.
            HookError: A hook failed.
        """
        if list(groups) != list(self.modules):
            raise CompositeError(
                f"`groups` must be what `initialize` of this builder returned, for {_quoted(self.modules)}, but is for "
                f"{_quoted(groups)}."
            )
        with Together(timeout=self.timeout).phase("modules"):
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
    """Where sequence parallelism gathers into: the one global of the engine that is no group, made with its groups."""
    parallel_state.destroy_global_memory_buffer()
    parallel_state._set_global_memory_buffer()  # pyright: ignore[reportPrivateUsage]


def _quoted(names: Mapping[str, object]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"
