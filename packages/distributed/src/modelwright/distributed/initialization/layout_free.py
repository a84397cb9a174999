"""Initial values that do not depend on the layout.

A parameter's values are a function of the seed, its name in the whole model and the index of each element, so that one
rank, tensor 2 and pipeline 2 start from the same model. The engine calls `init_method(weight)` on the local shard of
each weight; `NormalInit`, which `resolve` passes as that method, only notes its distribution there while
`deferred_initialization` lasts, and a part that wants another distribution calls a `LayoutFreeInit` of its own.
`initialize_parameters` then draws: the engine's sharded state dictionary says which part of which whole parameter every
local tensor is (SwiGLU's fc1 is two parts), the whole is drawn in tiles, each from a generator of its own, and the part
is cut out of the tiles that it overlaps, so that no rank ever holds more than one tile of what it does not own.
"""

import abc
import contextlib
import hashlib
import itertools
import math
from collections.abc import Callable, Generator, Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import NamedTuple, final, override

import torch
from megatron.core.dist_checkpointing import ShardedTensor
from megatron.core.process_groups_config import ProcessGroupCollection
from torch import Tensor, nn

from modelwright.distributed.initialization.full_state_dict import local_shards
from modelwright.protocols import ModelwrightError


class InitializationError(ModelwrightError):
    """A parameter that nobody would have given its values."""


_TILE = 524_288  # elements at most; large enough that a seed of its own costs little
# Rows and columns where tensor parallelism splits the columns: ranks draw little that is not theirs, and what is copied
# from the buffer is in the cache still.
_NARROW_TILE = (1024, 128)
_NOTE = "modelwright_init"

_deferred: ContextVar[list[Tensor] | None] = ContextVar("deferred", default=None)


class LayoutFreeInit(abc.ABC):
    """A distribution of initial values, element by element, as the engine's `init_method`."""

    @abc.abstractmethod
    def draw(self, out: Tensor, generator: torch.Generator | None) -> None:
        """Fill a tensor.

        Args:
            out: Any shape; changed in place.
            generator: What is drawn from; torch's own when None.
        """

    def __call__(self, weight: Tensor) -> Tensor:
        """Note the distribution on `weight` while initialization is deferred, else draw now.

        Args:
            weight: The local shard; any shape.

        Returns:
            `weight` itself.
        """
        marked = _deferred.get()
        if marked is not None:
            setattr(weight, _NOTE, self)
            marked.append(weight)
        else:
            with torch.no_grad():
                self.draw(weight, None)
        return weight


@final
@dataclass(frozen=True)
class NormalInit(LayoutFreeInit):
    """A normal distribution around 0.

    Args:
        std: Standard deviation.
    """

    std: float

    @override
    def draw(self, out: Tensor, generator: torch.Generator | None) -> None:
        out.normal_(0.0, self.std, generator=generator)


@final
@dataclass(frozen=True)
class UniformInit(LayoutFreeInit):
    """A uniform distribution, and a function of it.

    Args:
        low: The least value.
        high: No value is above it.
        then: Makes the initial values of what was drawn, element by element; None for the identity.
    """

    low: float
    high: float
    then: Callable[[Tensor], Tensor] | None = None

    @override
    def draw(self, out: Tensor, generator: torch.Generator | None) -> None:
        out.uniform_(self.low, self.high, generator=generator)
        if self.then is not None:
            out.copy_(self.then(out))


@contextlib.contextmanager
def deferred_initialization() -> Generator[None]:
    """While it lasts, weights are only marked with their distribution; `initialize_parameters` draws them."""
    token = _deferred.set([])
    try:
        yield
    finally:
        _deferred.reset(token)


def mark_wrapped_anew(stages: Iterable[nn.Module]) -> None:
    """Mark parameters that their module made anew around memory that was marked, which loses what hung on the old ones.

    Transformer Engine does so after it has called `init_method` (module/base.py, reset_parameters); unmarked, such a
    weight would keep whatever the memory held.

    Args:
        stages: Just built; initialization is still deferred.
    """
    notes = {_memory(weight): getattr(weight, _NOTE) for weight in _deferred.get() or ()}
    for parameter in (parameter for stage in stages for parameter in stage.parameters()):
        if _memory(parameter) in notes:
            setattr(parameter, _NOTE, notes[_memory(parameter)])


def _memory(tensor: Tensor) -> int:
    """What identifies the memory of a tensor, also on the meta device."""
    return int(tensor.untyped_storage()._cdata)  # pyright: ignore[reportPrivateUsage]


def initialize_parameters(stages: Iterable[nn.Module], pg_collection: ProcessGroupCollection, *, seed: int) -> None:
    """Draw every parameter that is marked with a distribution; the others keep the values their module gave them.

    Args:
        stages: The stages of this rank, not wrapped.
        pg_collection: The process groups of this rank.
        seed: The same on all ranks.

    Raises:
        InitializationError: A stage does not describe all of a parameter that is marked.
    """
    for stage in stages:
        marked = {_storage(p): p for p in stage.parameters() if isinstance(getattr(p, _NOTE, None), LayoutFreeInit)}
        if not marked:
            continue
        drawn = dict.fromkeys(marked, 0)
        tiles = _Tiles(next(iter(marked.values())).device)
        for shard, local in local_shards(stage, pg_collection):
            where = _storage(local)
            if where in marked:
                columns = getattr(marked[where], "partition_dim", 0) == 1  # of the module, whatever the layout
                _draw(shard, local, getattr(marked[where], _NOTE), seed, tiles, columns=columns)
                drawn[where] += local.numel()
        _check_drawn(stage, drawn)
        for parameter in marked.values():
            delattr(parameter, _NOTE)


def _check_drawn(stage: nn.Module, drawn: dict[int, int]) -> None:
    """Refuse a marked parameter that was not drawn as a whole: it would hold whatever the memory held."""
    missing = [f"`{name}`" for name, p in stage.named_parameters() if drawn.get(_storage(p), p.numel()) < p.numel()]
    if missing:
        raise InitializationError(
            f"`sharded_state_dict` of `{type(stage).__name__}` must describe every parameter that an `init_method` was "
            f"called on, in the parameter's own memory, but does not hold all of {', '.join(missing)}; describe it, or "
            "give it its values without `config.init_method`."
        )


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


@final
class _Tiles:
    """Draws one tile after the other with one generator and through one buffer, which cost as much as the numbers."""

    def __init__(self, device: torch.device) -> None:
        self._generator = torch.Generator(device)
        self._buffer = torch.empty(0, device=device)

    def draw(self, seed: int, init: LayoutFreeInit, out: Tensor) -> None:
        """A whole tile, in place."""
        self._generator.manual_seed(seed)
        init.draw(out, self._generator)

    def drawn(self, seed: int, init: LayoutFreeInit, size: list[int]) -> Tensor:
        """A whole tile, until the next one is drawn."""
        if list(self._buffer.shape) != size:  # most are as large as the one before
            self._buffer = self._buffer.new_empty(size)
        self.draw(seed, init, self._buffer)
        return self._buffer

    def can_fill(self, out: Tensor) -> bool:
        """Whether drawing in place gives the numbers that drawing into the buffer gives."""
        return out.is_contiguous() and out.dtype == self._buffer.dtype


@torch.no_grad()
def _draw(
    shard: ShardedTensor, local: Tensor, init: LayoutFreeInit, seed: int, tiles: _Tiles, *, columns: bool
) -> None:
    """Fill one local tensor with its part of the whole: axes put in front (experts) name it, the rest index it."""
    in_front = shard.prepend_axis_num
    name = ".".join([shard.key, *(str(i) for i in shard.global_offset[:in_front])])
    shape, offset = shard.global_shape[in_front:], shard.global_offset[in_front:]
    cuts = [_cuts(*dim) for dim in zip(shape, offset, local.shape, _tile(shape, columns=columns), strict=True)]
    for tile in itertools.product(*cuts):
        tile_seed = _tile_seed(seed, name, tile)
        here = local[tuple(cut.here for cut in tile)]
        inside = all(cut.whole for cut in tile)
        if inside and tiles.can_fill(here):
            tiles.draw(tile_seed, init, here)
        else:
            drawn = tiles.drawn(tile_seed, init, [cut.size for cut in tile])
            here.copy_(drawn if inside else drawn[tuple(cut.within for cut in tile)])


def _tile(shape: tuple[int, ...], *, columns: bool) -> list[int]:
    """The shape of a tile: whole rows, which are drawn in place, or narrow ones where ranks split the columns.

    The rows are halved until a tile is small enough, so that the shards of 2, 4 or 8 ranks hold whole tiles: no rank
    draws numbers that another one has.
    """
    rows, *row = shape
    if row and columns:
        return [*_NARROW_TILE, *row[1:]]
    while rows > 1 and rows * math.prod(row) > _TILE:
        rows = -(-rows // 2)
    return [rows, *row]


class _Cut(NamedTuple):
    """Where a row of tiles meets a shard, along one dim."""

    tile: int
    """Which tile."""
    size: int
    """Of the tile; smaller at the end of the parameter."""
    within: slice
    """The overlap, counted in the tile."""
    here: slice
    """The overlap, counted in the shard."""

    @property
    def whole(self) -> bool:
        """Whether the shard holds the tile from end to end."""
        return bool(self.within.stop - self.within.start == self.size)


def _cuts(whole: int, offset: int, local: int, tile: int) -> list[_Cut]:
    """Along one dim of `whole` elements, every tile that a shard of `local` elements at `offset` overlaps."""
    cuts: list[_Cut] = []
    for index in range(offset // tile, -(-(offset + local) // tile)):
        start, stop = index * tile, min((index + 1) * tile, whole)
        low, high = max(start, offset), min(stop, offset + local)
        cuts.append(_Cut(index, stop - start, slice(low - start, high - start), slice(low - offset, high - offset)))
    return cuts


def _tile_seed(seed: int, name: str, tile: tuple[_Cut, ...]) -> int:
    digest = hashlib.sha256(f"{seed}/{name}/{'/'.join(str(cut.tile) for cut in tile)}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
