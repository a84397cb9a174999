"""Process groups that ask for NCCL, and collectives in which gloo accepts less than NCCL."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch

from modelwright.engine.thread_patch import Change


def collective_changes() -> Iterator[Change]:
    """Yield the replaced functions of `torch.distributed`."""
    dist = torch.distributed
    for name in ("init_process_group", "new_group", "new_subgroups", "new_subgroups_by_enumeration"):
        yield dist, name, _over_gloo(getattr(dist, name))
    yield dist, "all_gather", _gather_uneven(dist.all_gather)
    yield dist, "reduce_scatter", _scatter_uneven(dist.reduce_scatter)


def _over_gloo(make_group: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(make_group)
    def redirected(*args: Any, **kwargs: Any) -> Any:
        args = tuple("gloo" if arg == "nccl" else arg for arg in args)
        if kwargs.get("backend") == "nccl":
            kwargs["backend"] = "gloo"
        return make_group(*args, **kwargs)

    return redirected


# NCCL gathers and scatters parts of different sizes, gloo only parts of one size. With expert parallelism each rank has
# as many tokens as were routed to its experts, so the parts are padded to the longest one.
def _gather_uneven(gather: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(gather)
    def gathered(tensor_list: list[torch.Tensor], tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if _even(tensor_list) or kwargs.get("async_op"):
            return gather(tensor_list, tensor, *args, **kwargs)
        padded = tensor.new_zeros(max(part.size(0) for part in tensor_list), *tensor.shape[1:])
        padded[: tensor.size(0)] = tensor
        buffers = [torch.empty_like(padded) for _ in tensor_list]
        gather(buffers, padded, *args, **kwargs)
        for part, buffer in zip(tensor_list, buffers, strict=True):
            part.copy_(buffer[: part.size(0)])
        return None

    return gathered


def _scatter_uneven(scatter: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(scatter)
    def scattered(output: torch.Tensor, input_list: list[torch.Tensor], *args: Any, **kwargs: Any) -> Any:
        if _even(input_list) or kwargs.get("async_op"):
            return scatter(output, input_list, *args, **kwargs)
        longest = max(part.size(0) for part in input_list)
        padded = [part.new_zeros(longest, *part.shape[1:]) for part in input_list]
        for buffer, part in zip(padded, input_list, strict=True):
            buffer[: part.size(0)] = part
        reduced = torch.empty_like(padded[0])
        scatter(reduced, padded, *args, **kwargs)
        output.copy_(reduced[: output.size(0)])
        return None

    return scattered


def _even(parts: list[torch.Tensor]) -> bool:
    return all(part.shape == parts[0].shape for part in parts)
