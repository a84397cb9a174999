"""Places where the engine reaches below `torch.cuda`'s public functions, or compares the name of a tensor's type."""

import functools
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import torch

from modelwright.engine.cpu.cuda_calls import get_cpu_rng_state, set_cpu_rng_state
from modelwright.engine.patches.torch_compile import load_engine
from modelwright.engine.thread_patch import Change


def engine_changes() -> Iterator[Change]:
    """Yield the replaced functions of the engine, after importing it."""
    load_engine()
    random = import_module("megatron.core.tensor_parallel.random")
    yield random, "_get_cuda_rng_state", get_cpu_rng_state
    yield random, "_set_cuda_rng_state", set_cpu_rng_state
    dispatcher = import_module("megatron.core.transformer.moe.token_dispatcher")
    yield dispatcher, "maybe_move_tensor_to_cpu", _on_the_host(dispatcher.maybe_move_tensor_to_cpu)
    yield torch.Tensor, "type", _cuda_type_name(torch.Tensor.type)


def _on_the_host(move: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap the function so that it returns a CPU tensor as an array too; the engine's converts CUDA tensors only."""

    @functools.wraps(move)
    def moved(tensor: Any, **options: Any) -> Any:
        if options.get("as_numpy") and isinstance(tensor, torch.Tensor) and not tensor.is_cuda:
            return tensor.numpy()
        return move(tensor, **options)

    return moved


def _cuda_type_name(tensor_type: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap `Tensor.type` so that its names are those of CUDA tensors, which optimizer and gradient clipping require."""

    @functools.wraps(tensor_type)
    def named(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        answer = tensor_type(self, *args, **kwargs)
        return answer.replace("torch.", "torch.cuda.", 1) if isinstance(answer, str) else answer

    return named
