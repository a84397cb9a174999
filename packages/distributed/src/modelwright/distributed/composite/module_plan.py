"""The plans of a composite model: ranks and layout of each module, and the checks that they fit together.

A module is on a range of ranks. Two modules have the same range, or no rank in common. Together they cover the job.
All of this is arithmetic on ranges, so it is checked before a process joins the job.
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
    """Modules that do not fit together or into the job, with one line per problem."""


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class ModulePlan:
    """One module of a composite model: its config, its ranks, and how it is built there."""

    config: ModelConfig
    """Config of the module."""
    ranks: range
    """Consecutive ranks of the job."""
    parallelism: Parallelism = dataclasses.field(default_factory=Parallelism)
    """Sizes of the axes. `data: None`: the number of ranks divided by the other axes."""
    precision: Precision = dataclasses.field(default_factory=Precision)
    """Dtype of the parameters."""
    wrap: Wrap = dataclasses.field(default_factory=MegatronDDP)
    """Data-parallel wrapper of the stages."""
    hooks: Sequence[Hook] = ()
    """Hooks that run around the wrapper of this module, in order."""
    builder: BuilderClass | None = None
    """Builder class; arguments may be bound by `functools.partial`. None: the class registered for `config`."""
    seed: int = 1234
    """Seed of the initial values and the random states, from 0 to 2**63 - 1. Two modules with equal configs
    and seeds start with equal values."""


def check_plans(modules: Mapping[str, ModulePlan], world_size: int) -> None:
    """Check the modules of a composite model against the job and against each other.

    Args:
        modules: Plans by name.
        world_size: Number of ranks of the job.

    Raises:
        CompositeError: The modules do not fit. The message lists every problem.
    """
    problems = tuple(_problems(modules, world_size))
    if problems:
        raise CompositeError("\n".join(problems))


def _problems(modules: Mapping[str, ModulePlan], world_size: int) -> Iterator[str]:
    if not modules:
        yield "`modules` must have at least one module, but is empty; pass a `ModulePlan` for each name."
        return
    for name, plan in modules.items():
        if not name.isidentifier():
            yield f"the name of a module must be an identifier, but is {name!r}; use letters, digits and `_`."
        if not 0 <= plan.seed < 2**63:
            yield f"`seed` of module `{name}` must be from 0 to 2**63 - 1, but is {plan.seed}; use a smaller one."
        yield from _place_problems(name, plan, world_size)
        yield from (f"in module `{name}`: {problem}" for problem in plan.config.layout_problems(plan.parallelism))
        yield from (f"in module `{name}`: {problem}" for problem in wrap_problems(plan.wrap, plan.precision))
    yield from _tiling_problems(modules, world_size)


def _place_problems(name: str, plan: ModulePlan, world_size: int) -> Iterator[str]:
    """Yield the problems of the ranks of one module."""
    ranks, subject = plan.ranks, f"`ranks` of module `{name}`"
    if not ranks or ranks.step != 1:
        yield f"{subject} must be at least one rank, and consecutive, but is {ranks}; use `range(first, last + 1)`."
        return
    if ranks.start < 0 or ranks.stop > world_size:
        yield (
            f"{subject} must be within the ranks of the job, {_shown(range(world_size))}, but is {_shown(ranks)}; move "
            "the module, or launch more processes."
        )
    needed, fixed = plan.parallelism.world_size(), plan.parallelism.data is not None
    if len(ranks) % needed or (fixed and len(ranks) != needed):
        yield (
            f"the number of {subject} must be {needed if fixed else f'a multiple of {needed}'} by its `parallelism`, "
            f"but is {len(ranks)} ({_shown(ranks)}); change the ranks or an axis."
        )


def _tiling_problems(modules: Mapping[str, ModulePlan], world_size: int) -> Iterator[str]:
    """Yield ranges that overlap in part, and ranks without a module."""
    for (one, first), (other, second) in itertools.combinations(modules.items(), 2):
        shared = sorted(set(first.ranks) & set(second.ranks))
        if shared and first.ranks != second.ranks:
            yield (
                f"modules `{one}` and `{other}` must be on the same ranks or have none in common, but share "
                f"{_listed(shared)} of {_shown(first.ranks)} and {_shown(second.ranks)}; move one of them."
            )
    idle = sorted(set(range(world_size)).difference(*(plan.ranks for plan in modules.values())))
    if idle:
        yield (
            f"every rank of the job must have a module, but {_listed(idle)} of {_shown(range(world_size))} "
            f"{'have' if len(idle) > 1 else 'has'} none; extend a module's `ranks`, or launch fewer processes."
        )


def _listed(ranks: Sequence[int]) -> str:
    """Return ascending ranks in words, with a run of consecutive ones as a range."""
    runs = itertools.groupby(enumerate(ranks), lambda item: item[1] - item[0])
    return ", ".join(_shown([rank for _, rank in run]) for _, run in runs)


def _shown(ranks: Sequence[int]) -> str:
    return f"{ranks[0]}" if len(ranks) == 1 else f"{ranks[0]}-{ranks[-1]}"
