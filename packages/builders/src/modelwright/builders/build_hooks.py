"""Hooks: named functions that a builder runs on its stages at a named phase of a build.

A build has two phases that user code may enter: `before_wrap`, when every parameter exists and is initialized but
nothing is data-parallel yet (the place to load pretrained weights, to freeze, to add adapters), and `after_wrap`, when
the stages are what training will see.
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
    """A hook raised, or returned something that is not a list of stages; the message names the hook."""


@dataclass(frozen=True, kw_only=True)
class BuildContext:
    """What a hook may know about the build it runs in."""

    config: ModelConfig
    """The model's config."""
    parallelism: Parallelism
    """Sizes of the axes."""
    precision: Precision
    """Number format of the parameters."""
    pg_collection: "ProcessGroupCollection"
    """The process groups of this rank."""
    rank: int
    """This process among all of the job."""
    stages: tuple[int, ...] = (0,)
    """Which stages of the whole pipeline the hook is given, from 0, in its order."""


@dataclass(frozen=True, kw_only=True)
class Hook:
    """A function with the name it is known by and the phase it runs in."""

    name: str
    """Unique among a builder's hooks of one phase; a later hook of the same name replaces the earlier one in place."""
    phase: Phase
    """When it runs."""
    function: HookFunction
    """Takes the stages of this rank and the context; returns the stages to go on with, or None for unchanged."""


def ordered_hooks(hooks: Iterable[Hook]) -> tuple[Hook, ...]:
    """The hooks in the order they run: as registered, a repeated name keeping the place of its first.

    Args:
        hooks: As given to a builder.

    Returns:
        One hook per phase and name.

    Raises:
        HookError: A phase that does not exist.
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
    """Run every hook of one phase, each on what the one before it returned.

    Args:
        hooks: All hooks of the builder, in order.
        phase: Which of them run.
        stages: The stages of this rank, first virtual stage first.
        context: Handed to every hook.

    Returns:
        The stages after the last hook.

    Raises:
        HookError: A hook raised or returned neither None nor a list of as many modules.
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
            "stages it was given, or None when it changed them in place."
        )
    return modules
