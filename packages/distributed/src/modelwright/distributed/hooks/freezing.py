"""Freezing: hooks that select which parameters are trained, before the wrapper reads `requires_grad`.

Patterns match names in the unsharded model, with global layer indices, as in checkpoints. One pattern freezes the same
weights on every layout. It freezes a tied embedding on the first and the last stage.
"""

from collections.abc import Iterator
from functools import partial

from torch import nn

from modelwright.builders import BuildContext, Hook
from modelwright.distributed.initialization.shards import local_shards
from modelwright.distributed.name_patterns import idle_patterns, matches
from modelwright.protocols import ModelwrightError


class FreezeError(ModelwrightError):
    """No patterns, or a pattern that matches no parameter of the model."""


def freeze(*patterns: str) -> Hook:
    """Return a hook that freezes the parameters with matching names; the others stay as they are.

    Args:
        *patterns: Patterns of names in the unsharded model, such as `embedding.*` or `decoder.layers.[01].*`.

    Returns:
        A hook of the phase `before_wrap`. The build fails if a pattern matches on no stage.

    Raises:
        FreezeError: There are no patterns.
    """
    return _hook("freeze", patterns, trained=False)


def train_only(*patterns: str) -> Hook:
    """Return a hook that freezes every parameter but those with matching names, which are trained.

    Args:
        *patterns: Patterns of names in the unsharded model, such as `*.lora_?`.

    Returns:
        A hook of the phase `before_wrap`. The build fails if a pattern matches on no stage.

    Raises:
        FreezeError: There are no patterns.
    """
    return _hook("train_only", patterns, trained=True)


def _hook(name: str, patterns: tuple[str, ...], *, trained: bool) -> Hook:
    if not patterns:
        raise FreezeError(f"`{name}` must be given patterns of names, but was given none; use `*` for every parameter.")
    function = partial(_set_trained, name=name, patterns=patterns, trained=trained)
    return Hook(name=f"{name} {' '.join(patterns)}", phase="before_wrap", function=function)


def _set_trained(
    stages: list[nn.Module], context: BuildContext, *, name: str, patterns: tuple[str, ...], trained: bool
) -> None:
    named = [pair for stage in stages for pair in _full_names(stage, context)]
    idle = idle_patterns(patterns, [key for key, _ in named], context.pg_collection.pp)
    if idle:
        raise FreezeError(f"`{name}` must be given patterns that match parameters of the model, but {idle}.")
    if trained:
        for stage in stages:
            stage.requires_grad_(requires_grad=False)
    for key, parameter in named:
        if matches(key, patterns):
            parameter.requires_grad_(trained)


def _full_names(stage: nn.Module, context: BuildContext) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield every parameter with its name in the unsharded model. One with several shards is yielded for each."""
    parameters = {parameter.untyped_storage().data_ptr(): parameter for parameter in stage.parameters()}
    for shard, local in local_shards(stage, context.pg_collection):
        parameter = parameters.get(local.untyped_storage().data_ptr())
        if parameter is not None:  # the rest are buffers
            yield shard.key, parameter
