"""Caches of the engine that outlive a job."""

import sys

# Methods with `functools.lru_cache`. The cache keeps `self`, and with it the context-parallel group of the module.
_CACHED_METHODS = (
    ("megatron.core.models.common.embeddings.rotary_pos_embedding", "RotaryEmbedding"),
    ("megatron.core.models.common.embeddings.yarn_rotary_pos_embedding", "YarnRotaryEmbedding"),
)


def release_caches() -> None:
    """Empty the caches of the engine that refer to process groups. They are filled again when they are needed."""
    for module, name in _CACHED_METHODS:
        loaded = sys.modules.get(module)
        if loaded is not None:
            getattr(loaded, name).forward.cache_clear()
