"""The pipeline split: the layers of a stack pattern that each stage contains.

The engine accepts a pattern with `|` between stages and builds segment `vp_stage * pipeline + pp_rank` in each stage.
`staged_pattern` inserts boundaries into a pattern without them, evenly or by `stages`. `layers_of` returns the layers
of one stage.
"""

import itertools

from modelwright.config import Parallelism
from modelwright.protocols import ModelwrightError

BOUNDARY = "|"


class StageError(ModelwrightError):
    """The layers of a pattern cannot be divided into the requested stages."""


def staged_pattern(pattern: str, parallelism: Parallelism, *, unit: int = 1) -> str:
    """Insert a boundary between each stage and the next.

    Args:
        pattern: One symbol per layer. Boundaries in it are kept. With a single stage they are removed, so that one
            process can load a model that was trained on a pipeline.
        parallelism: Sizes of the axes.
        unit: Number of symbols that stay together (2 for a transformer block of attention and MLP).

    Returns:
        The pattern with `pipeline * virtual_pipeline - 1` boundaries.

    Raises:
        StageError: The units cannot be divided into the stages, or the pattern has boundaries for another number of
            stages.
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
            f"`stages` must add up to the layers of the model, but they contain {sum(sizes)} of the {len(pattern)} "
            f"layers of {pattern!r}; change `parallelism.stages`."
        )
    ends = list(itertools.accumulate(sizes))
    return BOUNDARY.join(pattern[end - size : end] for end, size in zip(ends, sizes, strict=True))


def layers_of(pattern: str, parallelism: Parallelism, pp_rank: int, vp_stage: int = 0) -> tuple[int, str]:
    """Return the layers of one stage.

    Args:
        pattern: Pattern with boundaries, from `staged_pattern`.
        parallelism: Sizes of the axes.
        pp_rank: Pipeline rank.
        vp_stage: Virtual stage of that rank, from 0.

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
