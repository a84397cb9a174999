"""Patterns of parameter names. A pattern that matches nothing is an error, since it would silently change nothing."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

import torch
from torch.distributed import ProcessGroup


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Return True if a name matches one of the patterns (those of `fnmatch`)."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def idle_patterns(patterns: Sequence[str], names: Iterable[str], pipeline: ProcessGroup) -> str | None:
    """Return the end of an error message about patterns that match on no stage of the pipeline.

    A collective of the pipeline: every rank returns the same.

    Args:
        patterns: Patterns as the user gave them.
        names: Names of the parameters of this rank.
        pipeline: The group of the pipeline's stages.

    Returns:
        The end of a sentence. None: every pattern matches somewhere.
    """
    if not patterns:
        return None
    gathered: list[list[str]] = [[] for _ in range(pipeline.size())]
    torch.distributed.all_gather_object(gathered, sorted(set(names)), group=pipeline)
    every = sorted({name for stage in gathered for name in stage})
    idle = [pattern for pattern in patterns if not any(matches(name, [pattern]) for name in every)]
    if not idle:
        return None
    return f"{', '.join(map(repr, idle))} matches none of its {len(every)}; they are named like `{every[0]}`"
