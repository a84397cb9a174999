"""Start the process that ranks are forked from, while this one still imports torch or checks its input."""

import os

from modelwright.engine import StartMethod, rank_environment, start_fork_server

# What every rank imports.
_RANK_MODULES = ("modelwright.training.loop", "modelwright.layers.stack.decoder_builder")


def fork_ahead(ranks: int, threads: int | None = None) -> tuple[dict[str, str], StartMethod]:
    """Start the fork server of `launch`, and return at once. `launch` calls this itself, later.

    Args:
        ranks: Number of ranks.
        threads: CPU threads per rank. None: the cores divided by `ranks`.

    Returns:
        The environment variables of a rank, and how to start the ranks.
    """
    environment = rank_environment(threads or max(1, (os.cpu_count() or 1) // ranks))
    return environment, start_fork_server(environment, *_RANK_MODULES)
