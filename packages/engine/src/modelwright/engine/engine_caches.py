"""Caches of the engine that outlive a job."""

import sys

# Methods with `functools.lru_cache`. The cache keeps `self`, and with it the context-parallel group of the module.
_CACHED_METHODS = (
    ("megatron.core.models.common.embeddings.rotary_pos_embedding", "RotaryEmbedding"),
    ("megatron.core.models.common.embeddings.yarn_rotary_pos_embedding", "YarnRotaryEmbedding"),
)

_OFFLOADING = "megatron.core.pipeline_parallel.fine_grained_activation_offload"


def release_caches() -> None:
    """Empty the caches of the engine that outlive a job. They are filled again when they are needed.

    They refer to process groups, or contain settings of the model of that job: the manager of offloaded activations
    keeps those of the first model that it sees.
    """
    for module, name in _CACHED_METHODS:
        loaded = sys.modules.get(module)
        if loaded is not None:
            getattr(loaded, name).forward.cache_clear()
    offloading = sys.modules.get(_OFFLOADING)
    if offloading is not None:
        offloading.PipelineOffloadManager.OFFLOAD_MGR = None
