"""Recomputation and random states."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch.utils.checkpoint

from transformer_engine.recorded import record


class CudaRNGStatesTracker:
    """Random states by name. Megatron-Core has its own, which modelwright uses."""


def checkpoint(
    function: Callable[..., Any],
    *args: Any,
    distribute_saved_activations: bool = False,
    get_rng_state_tracker: Any = None,
    tp_group: Any = None,
    use_reentrant: bool = True,
    **kwargs: Any,
) -> Any:
    record("checkpoint", distribute=distribute_saved_activations, group=tp_group)
    return torch.utils.checkpoint.checkpoint(function, *args, use_reentrant=False, **kwargs)


@contextmanager
def activation_recompute_forward(activation_recompute: bool = False, recompute_phase: bool = False) -> Iterator[None]:
    record("activation_recompute_forward", recompute=[activation_recompute, recompute_phase])
    yield


def is_fp8_activation_recompute_enabled() -> bool:
    return False
