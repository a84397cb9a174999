"""The plans of a composite model: which module stands on which ranks in which layout, and whether they fit together.

A module stands on a range of ranks. Two modules share one range, or have no rank in common; together they cover the
job. All of that is arithmetic on ranges, and is checked before a process joins the job.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import final

from modelwright.builders import BuilderClass, Hook
from modelwright.config import MegatronDDP, ModelConfig, Parallelism, Precision, Wrap
from modelwright.distributed.wrappers.data_parallel import wrap_problems
from modelwright.protocols import ModelwrightError


class CompositeError(ModelwrightError):
    """Modules that do not fit together or into the job; one line for each problem."""


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class ModulePlan:
    """One module of a composite model: what it is, where it stands, and how it is built there."""

    config: ModelConfig
    """What is built."""
    ranks: range
    """Where: consecutive ranks of the job."""
    parallelism: Parallelism = dataclasses.field(default_factory=Parallelism)
    """Sizes of the axes; `data` is what the ranks leave, unless it is given."""
    precision: Precision = dataclasses.field(default_factory=Precision)
    """Number format of the parameters."""
    wrap: Wrap = dataclasses.field(default_factory=MegatronDDP)
    """How the stages become data-parallel."""
    hooks: Sequence[Hook] = ()
    """Run around the wrap of this module."""
    builder: BuilderClass | None = None
    """In place of the builder that the config gets; a `functools.partial` of a class passes it options."""
    seed: int = 1234
    """What the initial values and the random states are a function of, as where the module is built alone: two modules
    of one config and one seed start equal."""


def check_plans(modules: Mapping[str, ModulePlan], world_size: int) -> None:
    """Check the modules of a composite model against the job and against each other.

    Args:
        modules: Plans by name.
        world_size: How many ranks the job has.

    Raises:
        CompositeError: They do not fit; says every problem.
    """
    problems = tuple(_problems(modules, world_size))
    if problems:
        raise CompositeError("\n".join(problems))


def _problems(modules: Mapping[str, ModulePlan], world_size: int) -> Iterator[str]:
    if not modules:
        yield "`modules` must name a module at least, but is empty; give a `ModulePlan` for each name."
        return
    for name, plan in modules.items():
        if not name.isidentifier():
            yield f"the name of a module must be an identifier, but {name!r} is none; use letters, digits and `_`."
        yield from _place_problems(name, plan, world_size)
        yield from (f"in module `{name}`: {problem}" for problem in plan.config.layout_problems(plan.parallelism))
        yield from (f"in module `{name}`: {problem}" for problem in wrap_problems(plan.wrap, plan.precision))
    yield from _tiling_problems(modules, world_size)


def _place_problems(name: str, plan: ModulePlan, world_size: int) -> Iterator[str]:
    """What is wrong with where one module stands."""
    ranks, subject = plan.ranks, f"`ranks` of module `{name}`"
    if not ranks or ranks.step != 1:
        yield f"{subject} must be consecutive ranks, one at least, but is {ranks}; use `range(first, last + 1)`."
        return
    if ranks.start < 0 or ranks.stop > world_size:
        yield (
            f"{subject} must lie within {_shown(range(world_size))}, those of the job, but is {_shown(ranks)}; move "
            "the module, or launch more processes."
        )
    needed, fixed = plan.parallelism.world_size(), plan.parallelism.data is not None
    if len(ranks) % needed or (fixed and len(ranks) != needed):
        yield (
            f"{subject} must be {needed if fixed else f'a multiple of {needed}'} in number, as its `parallelism` asks, "
            f"but {_shown(ranks)} {'are' if len(ranks) > 1 else 'is'} {len(ranks)}; change the ranks or an axis."
        )


def _tiling_problems(modules: Mapping[str, ModulePlan], world_size: int) -> Iterator[str]:
    """Ranges that overlap in part, and ranks in no range."""
    for (one, first), (other, second) in itertools.combinations(modules.items(), 2):
        shared = sorted(set(first.ranks) & set(second.ranks))
        if shared and first.ranks != second.ranks:
            yield (
                f"modules `{one}` and `{other}` must stand on the same ranks or have none in common, but share "
                f"{_listed(shared)} of {_shown(first.ranks)} and {_shown(second.ranks)}; move one of them."
            )
    idle = sorted(set(range(world_size)).difference(*(plan.ranks for plan in modules.values())))
    if idle:
        yield (
            f"every rank of the job must hold a module, but {_listed(idle)} of {_shown(range(world_size))} "
            f"{'hold' if len(idle) > 1 else 'holds'} none; extend a module's `ranks`, or launch fewer processes."
        )


def _listed(ranks: Sequence[int]) -> str:
    """Ranks in ascending order, runs of them written as one."""
    runs = itertools.groupby(enumerate(ranks), lambda item: item[1] - item[0])
    return ", ".join(_shown([rank for _, rank in run]) for _, run in runs)


def _shown(ranks: Sequence[int]) -> str:
    return f"{ranks[0]}" if len(ranks) == 1 else f"{ranks[0]}-{ranks[-1]}"
