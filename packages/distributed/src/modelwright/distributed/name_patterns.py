"""Patterns of parameter names. A pattern that matches nothing is an error, because it would silently do nothing."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from torch.distributed import ProcessGroup

from modelwright.distributed.text_gather import gather_texts


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Return True if a name matches one of the patterns.

    Args:
        name: Name of a parameter.
        patterns: Patterns in the syntax of `fnmatch`, case-sensitive.
    """
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def idle_patterns(patterns: Sequence[str], names: Iterable[str], pipeline: ProcessGroup) -> str | None:
    """Return the end of an error message about patterns that match on no stage of the pipeline.

    This is a collective of the pipeline. Every rank returns the same text.

    Args:
        patterns: Patterns that the user passed.
        names: Names of the parameters of this rank.
        pipeline: The group of the pipeline's stages.

    Returns:
        The end of a sentence. None: every pattern matches on some stage.
    """
    if not patterns:
        return None
    gathered = gather_texts("\n".join(sorted(set(names))), pipeline)
    every = sorted({name for stage in gathered for name in stage.splitlines()})
    idle = [pattern for pattern in patterns if not any(matches(name, [pattern]) for name in every)]
    if not idle:
        return None
    names = f"there are {len(every)}, with names such as `{every[0]}`" if every else "there are none"
    verb = "matches" if len(idle) == 1 else "match"
    return f"{', '.join(map(repr, idle))} {verb} none ({names}); correct or remove it"
