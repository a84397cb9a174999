"""Stages: which layers of a stack pattern each virtual pipeline rank holds.

The engine takes a pattern with `|` at the boundaries and hands segment `vp_stage * pipeline + pp_rank` to each stage.
`staged_pattern` puts boundaries into a pattern that has none, even ones or as `stages` says; `layers_of` says what a
stage holds.
"""

import itertools

from modelwright.config import Parallelism
from modelwright.protocols import ModelwrightError

BOUNDARY = "|"


class StageError(ModelwrightError):
    """The layers of a pattern cannot be divided into the stages that were asked for."""


def staged_pattern(pattern: str, parallelism: Parallelism, *, unit: int = 1) -> str:
    """Put a boundary between each stage and the next.

    Args:
        pattern: One symbol per layer; boundaries that it holds already stay, but where there is one stage they mean
            nothing and go: a model that was trained on a pipeline is read on one process.
        parallelism: Sizes of the axes.
        unit: Symbols that stay together (2 for a transformer block, attention and MLP).

    Returns:
        The pattern with `pipeline * virtual_pipeline - 1` boundaries.

    Raises:
        StageError: The units do not divide by the stages, or given boundaries make another number of stages.
    """
    count = parallelism.pipeline * parallelism.virtual_pipeline
    if count == 1:
        pattern = pattern.replace(BOUNDARY, "")
    if BOUNDARY in pattern:
        _check_given(pattern, count)
        return pattern
    units = len(pattern) // unit
    if parallelism.stages is not None:
        return _uneven(pattern, [unit * blocks for blocks in parallelism.stages])
    if units % count:
        raise StageError(
            f"`pipeline` × `virtual_pipeline` must divide the number of layers, but {count} does not divide {units}; "
            "use a divisor of it, or put `|` into the pattern where a stage ends."
        )
    size = units // count * unit
    return BOUNDARY.join(pattern[i : i + size] for i in range(0, len(pattern), size))


def _uneven(pattern: str, sizes: list[int]) -> str:
    if sum(sizes) != len(pattern):
        raise StageError(
            f"`stages` must add up to the layers of the model, but they hold {sum(sizes)} of the {len(pattern)} layers "
            f"of {pattern!r}; change `parallelism.stages`."
        )
    ends = list(itertools.accumulate(sizes))
    return BOUNDARY.join(pattern[end - size : end] for end, size in zip(ends, sizes, strict=True))


def layers_of(pattern: str, parallelism: Parallelism, pp_rank: int, vp_stage: int = 0) -> tuple[int, str]:
    """What one stage holds.

    Args:
        pattern: With boundaries, as `staged_pattern` makes it.
        parallelism: Sizes of the axes.
        pp_rank: Pipeline rank.
        vp_stage: Virtual stage of that rank.

    Returns:
        The index of its first layer in the whole model, and one symbol per layer.
    """
    segments = pattern.split(BOUNDARY)
    index = vp_stage * parallelism.pipeline + pp_rank
    return sum(len(segment) for segment in segments[:index]), segments[index]


def _check_given(pattern: str, count: int) -> None:
    segments = pattern.split(BOUNDARY)
    if len(segments) != count:
        raise StageError(
            f"a stack pattern with boundaries must have `pipeline` × `virtual_pipeline` = {count} stages, but "
            f"{pattern!r} has {len(segments)}; change the boundaries or the parallelism."
        )
