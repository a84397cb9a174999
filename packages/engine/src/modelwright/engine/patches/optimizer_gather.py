"""Let the engine compare the parameter groups of an optimizer among the ranks of one model.

- **Changes**: `torch.distributed.get_world_size` and `all_gather_object` use the given ranks when they are called
  without a group, in the thread that entered `gathering_over(ranks)`.
- **Why**: `get_megatron_optimizer` compares parameter groups on all ranks of the job (optimizer/__init__.py), whatever
  groups it is given. In a composite model the ranks of another module do not make this call, or have other
  parameter groups.
- **Versions**: megatron-core 0.19.
- **Undone**: at the end of the block.
- **Entered**: by `modelwright.training.make_optimizer`.
- **Test that fails when it is no longer needed**: `tests/patches/test_optimizer_gather.py`.
"""

import contextlib
from collections.abc import Generator, Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import torch

from modelwright.engine.thread_patch import Change, ThreadPatch

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_ranks: ContextVar["ProcessGroup"] = ContextVar("ranks")


@contextlib.contextmanager
def gathering_over(ranks: "ProcessGroup | None") -> Generator[None]:
    """Use these ranks for collectives without a group until the end of the block, in this thread.

    Args:
        ranks: The group of the ranks of one model. None, or a group of all ranks of the job: nothing is changed.
    """
    if ranks is None or ranks.size() == torch.distributed.get_world_size():
        yield
        return
    token = _ranks.set(ranks)
    try:
        with _GATHERING():
            yield
    finally:
        _ranks.reset(token)


def _changes() -> Iterator[Change]:
    dist: Any = torch.distributed
    size, gather = dist.get_world_size, dist.all_gather_object

    def size_of(group: "ProcessGroup | None" = None) -> Any:
        return size(group or _ranks.get())

    def gather_among(object_list: list[Any], obj: Any, group: "ProcessGroup | None" = None) -> Any:
        return gather(object_list, obj, group=group or _ranks.get())

    yield dist, "get_world_size", size_of
    yield dist, "all_gather_object", gather_among


_GATHERING = ThreadPatch(_changes)
