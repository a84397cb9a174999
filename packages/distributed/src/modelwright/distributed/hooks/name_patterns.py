"""Patterns of parameter names, which must mean something: a misspelt one would change nothing, in silence."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

import torch
from torch.distributed import ProcessGroup


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name fits one of the patterns, which are those of `fnmatch`."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def idle_patterns(patterns: Sequence[str], names: Iterable[str], pipeline: ProcessGroup) -> str | None:
    """What to say of patterns that match on no stage of the pipeline; every rank of it comes to the same answer.

    Args:
        patterns: As the user gave them.
        names: Of the parameters of this rank.
        pipeline: The group of the stages.

    Returns:
        The end of a sentence, None when every pattern matches somewhere.
    """
    if not patterns:
        return None
    held: list[list[str]] = [[] for _ in range(pipeline.size())]
    torch.distributed.all_gather_object(held, sorted(set(names)), group=pipeline)
    every = sorted({name for stage in held for name in stage})
    idle = [pattern for pattern in patterns if not any(matches(name, [pattern]) for name in every)]
    if not idle:
        return None
    return f"{', '.join(map(repr, idle))} matches none of its {len(every)}; they are named like `{every[0]}`"
