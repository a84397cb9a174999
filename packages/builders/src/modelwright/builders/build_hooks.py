"""Hooks: named functions that a builder runs on its stages in a named phase of a build.

A build has two phases for user code. In `before_wrap` every parameter exists and is initialized, but nothing is
data-parallel yet; pretrained weights, frozen parameters and adapters belong here. In `after_wrap` the stages are what
training uses.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from torch import nn

from modelwright.config import ModelConfig, Parallelism, Precision
from modelwright.protocols import ModelwrightError

if TYPE_CHECKING:
    from megatron.core.process_groups_config import ProcessGroupCollection

type Phase = Literal["before_wrap", "after_wrap"]
type HookFunction = Callable[[list[nn.Module], BuildContext], list[nn.Module] | None]


class HookError(ModelwrightError):
    """A hook that raised, or that returned something other than a list of stages; the message names the hook."""


@dataclass(frozen=True, kw_only=True)
class BuildContext:
    """The build that a hook runs in."""

    config: ModelConfig
    """Config of the model."""
    parallelism: Parallelism
    """Sizes of the axes."""
    precision: Precision
    """Dtype of the parameters."""
    pg_collection: "ProcessGroupCollection"
    """Process groups of this rank."""
    rank: int
    """Global rank of this process."""
    stages: tuple[int, ...] = (0,)
    """Position in the whole pipeline of each stage that the hook receives, from 0, in the same order."""


@dataclass(frozen=True, kw_only=True)
class Hook:
    """A function with a name and the phase that it runs in."""

    name: str
    """Name of the hook, unique in its phase; a later hook of the same name replaces the earlier one in its place."""
    phase: Phase
    """Phase in which the hook runs."""
    function: HookFunction
    """Function of this rank's stages and the context. It returns the stages to continue with, or None for unchanged."""


def ordered_hooks(hooks: Iterable[Hook]) -> tuple[Hook, ...]:
    """Return the hooks in the order they run: as given, with a repeated name in the place of its first hook.

    Args:
        hooks: Hooks as given to a builder.

    Returns:
        One hook for each phase and name.

    Raises:
        HookError: The phase of a hook does not exist.
    """
    by_name: dict[tuple[str, str], Hook] = {}
    for hook in hooks:
        if hook.phase not in ("before_wrap", "after_wrap"):
            raise HookError(
                f"`phase` of hook `{hook.name}` must be before_wrap or after_wrap, but is {hook.phase!r}; use one of "
                "the two."
            )
        by_name[hook.phase, hook.name] = hook
    return tuple(by_name.values())


def run_hooks(hooks: Sequence[Hook], phase: Phase, stages: list[nn.Module], context: BuildContext) -> list[nn.Module]:
    """Run every hook of one phase, each on the stages that the previous one returned.

    Args:
        hooks: All hooks of the builder, in order.
        phase: Phase to run.
        stages: Stages of this rank, first virtual stage first.
        context: Context passed to every hook.

    Returns:
        The stages after the last hook.

    Raises:
        HookError: A hook raised, or returned neither None nor a list of as many modules.
    """
    for hook in hooks:
        if hook.phase != phase:
            continue
        try:
            changed = hook.function(stages, context)
        except Exception as error:
            raise HookError(
                f"hook `{hook.name}` failed in phase {phase} on rank {context.rank}: {type(error).__name__}: {error}"
            ) from error
        if changed is not None:
            stages = _checked(changed, hook, len(stages))
    return stages


def _checked(changed: object, hook: Hook, count: int) -> list[nn.Module]:
    items = cast("list[object]", changed) if isinstance(changed, list) else []
    modules = [item for item in items if isinstance(item, nn.Module)]
    if len(modules) != len(items) or len(modules) != count:
        returned = f"list of {len(items)}" if isinstance(changed, list) else f"{changed.__class__.__name__}"
        raise HookError(
            f"hook `{hook.name}` must return a list of {count} modules or None, but returned {returned}; return the "
            "stages that it received, or None if it changed them in place."
        )
    return modules
