"""Initial values that do not depend on the layout.

A parameter's values are a function of the seed, its name in the whole model and the index of each element, so that one
rank, tensor 2 and pipeline 2 start from the same model. The engine calls `init_method(weight)` on the local shard of
each weight; `NormalInit`, which `resolve` passes as that method, only notes its distribution there while
`deferred_initialisation` lasts. `initialise_parameters` then draws: the engine's sharded state dictionary says which
part of which whole parameter every local tensor is (SwiGLU's fc1 is two parts), the whole is drawn in blocks of rows,
each from a generator of its own, and the part is cut out, so that no rank ever holds more than one block of a row that
it does not own.
"""

import contextlib
import hashlib
from collections.abc import Generator, Iterable
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from megatron.core.dist_checkpointing import ShardedTensor
from megatron.core.process_groups_config import ProcessGroupCollection
from torch import Tensor, nn

from modelwright.distributed._whole import local_shards
from modelwright.protocols import ModelwrightError


class InitialisationError(ModelwrightError):
    """A parameter that nobody would have given its values."""


_ROWS_PER_BLOCK = 64
_NOTE = "modelwright_init"

_deferred: ContextVar[bool] = ContextVar("deferred", default=False)


@dataclass(frozen=True)
class NormalInit:
    """A normal distribution around 0, as the engine's `init_method`.

    Args:
        std: Standard deviation.
    """

    std: float

    def __call__(self, weight: Tensor) -> Tensor:
        """Note the distribution on `weight` while initialisation is deferred, else draw now.

        Args:
            weight: The local shard; any shape.

        Returns:
            `weight` itself.
        """
        if _deferred.get():
            setattr(weight, _NOTE, self)
            return weight
        return nn.init.normal_(weight, mean=0.0, std=self.std)


@contextlib.contextmanager
def deferred_initialisation() -> Generator[None]:
    """While it lasts, weights are only marked with their distribution; `initialise_parameters` draws them."""
    token = _deferred.set(True)
    try:
        yield
    finally:
        _deferred.reset(token)


def initialise_parameters(stages: Iterable[nn.Module], pg_collection: ProcessGroupCollection, *, seed: int) -> None:
    """Draw every parameter that is marked with a distribution; the others keep the values their module gave them.

    Args:
        stages: The stages of this rank, not wrapped.
        pg_collection: The process groups of this rank.
        seed: The same on all ranks.

    Raises:
        InitialisationError: A stage does not describe all of a parameter that is marked.
    """
    for stage in stages:
        marked = {_storage(p): p for p in stage.parameters() if isinstance(getattr(p, _NOTE, None), NormalInit)}
        if not marked:
            continue
        drawn = dict.fromkeys(marked, 0)
        for shard, local in local_shards(stage, pg_collection):
            where = _storage(local)
            if where in marked:
                _draw(shard, local, getattr(marked[where], _NOTE), seed)
                drawn[where] += local.numel()
        _check_drawn(stage, drawn)
        for parameter in marked.values():
            delattr(parameter, _NOTE)


def _check_drawn(stage: nn.Module, drawn: dict[int, int]) -> None:
    """Refuse a marked parameter that was not drawn as a whole: it would hold whatever the memory held."""
    missing = [f"`{name}`" for name, p in stage.named_parameters() if drawn.get(_storage(p), p.numel()) < p.numel()]
    if missing:
        raise InitialisationError(
            f"`sharded_state_dict` of `{type(stage).__name__}` must describe every parameter that an `init_method` was "
            f"called on, in the parameter's own memory, but does not hold all of {', '.join(missing)}; describe it, or "
            "give it its values without `config.init_method`."
        )


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


@torch.no_grad()
def _draw(shard: ShardedTensor, local: Tensor, init: NormalInit, seed: int) -> None:
    """Fill one local tensor with its part of the whole: axes put in front (experts) name it, the rest index it."""
    in_front = shard.prepend_axis_num
    name = ".".join([shard.key, *(str(i) for i in shard.global_offset[:in_front])])
    rows, *rest = shard.global_shape[in_front:]
    first_row, *first_rest = shard.global_offset[in_front:]
    window = tuple(slice(start, start + size) for start, size in zip(first_rest, local.shape[1:], strict=True))
    last_row = min(first_row + local.shape[0], rows)
    for block in range(first_row // _ROWS_PER_BLOCK, -(-last_row // _ROWS_PER_BLOCK)):
        start, stop = block * _ROWS_PER_BLOCK, min((block + 1) * _ROWS_PER_BLOCK, rows)
        generator = torch.Generator(local.device).manual_seed(_block_seed(seed, name, block))
        whole = torch.empty((stop - start, *rest), device=local.device).normal_(0.0, init.std, generator=generator)
        low, high = max(start, first_row), min(stop, last_row)
        local[low - first_row : high - first_row].copy_(whole[(slice(low - start, high - start), *window)])


def _block_seed(seed: int, name: str, block: int) -> int:
    digest = hashlib.sha256(f"{seed}/{name}/{block}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
