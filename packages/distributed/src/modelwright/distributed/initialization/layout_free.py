"""Initial values that do not depend on the layout.

A parameter's values depend only on the seed, its name in the unsharded model and the index of each element. One rank,
two tensor ranks and two pipeline stages start from the same model. `initialize_parameters` draws the values. The
engine's sharded state dict describes which part of which parameter every local tensor is (SwiGLU's fc1 has two parts).
The parameter is divided into tiles, each drawn with its own seed, and a rank draws the tiles that its shard overlaps.
So a rank never stores more than one tile that it does not own.
"""

import hashlib
import itertools
import math
from collections.abc import Iterable
from typing import NamedTuple, final

import torch
from megatron.core.dist_checkpointing import ShardedTensor
from megatron.core.process_groups_config import ProcessGroupCollection
from torch import Tensor, nn

from modelwright.distributed.initialization.distributions import MARK, LayoutFreeInit
from modelwright.distributed.initialization.shards import local_shards
from modelwright.protocols import ModelwrightError


class InitializationError(ModelwrightError):
    """A parameter with memory that would stay uninitialized."""


_TILE = 524_288  # elements at most; so large that seeding a generator for each tile costs little
# Rows and columns of a tile where tensor parallelism splits the columns. Ranks then draw few values that they do not
# own, and the values are still in the cache when they are copied from the buffer.
_NARROW_TILE = (1024, 128)


def initialize_parameters(stages: Iterable[nn.Module], pg_collection: ProcessGroupCollection, *, seed: int) -> None:
    """Draw every parameter that is marked with a distribution. The others keep the values that their module set.

    Args:
        stages: The stages of this rank, without a wrapper.
        pg_collection: The process groups of this rank.
        seed: Seed of the values, the same on all ranks.

    Raises:
        InitializationError: The sharded state dict of a stage does not cover a marked parameter.
    """
    for stage in stages:
        marked = {_storage(p): p for p in stage.parameters() if isinstance(getattr(p, MARK, None), LayoutFreeInit)}
        if not marked:
            continue
        drawn = dict.fromkeys(marked, 0)
        tiles = _Tiles(next(iter(marked.values())).device)
        for shard, local in local_shards(stage, pg_collection):
            address = _storage(local)
            if address in marked:
                columns = getattr(marked[address], "partition_dim", 0) == 1  # of the module, whatever the layout
                _draw(shard, local, getattr(marked[address], MARK), seed, tiles, columns=columns)
                drawn[address] += local.numel()
        _check_drawn(stage, drawn)
        for parameter in marked.values():
            delattr(parameter, MARK)


def _check_drawn(stage: nn.Module, drawn: dict[int, int]) -> None:
    """Refuse a marked parameter that was not drawn completely, because the rest would stay uninitialized."""
    missing = [f"`{name}`" for name, p in stage.named_parameters() if drawn.get(_storage(p), p.numel()) < p.numel()]
    if missing:
        raise InitializationError(
            f"`sharded_state_dict` of `{type(stage).__name__}` must describe every parameter that an `init_method` was "
            f"called on, in the parameter's own memory, but does not cover {', '.join(missing)}; describe it, or set "
            "its values without `config.init_method`."
        )


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


@final
class _Tiles:
    """Draws tiles with one generator and one buffer, because creating these costs as much as drawing."""

    def __init__(self, device: torch.device) -> None:
        self._generator = torch.Generator(device)
        self._buffer = torch.empty(0, device=device)

    def draw(self, seed: int, init: LayoutFreeInit, out: Tensor) -> None:
        """Draw a complete tile in place."""
        self._generator.manual_seed(seed)
        init.draw(out, self._generator)

    def drawn(self, seed: int, init: LayoutFreeInit, size: list[int]) -> Tensor:
        """Return a complete tile; the buffer is reused by the next one."""
        if list(self._buffer.shape) != size:  # most are as large as the one before
            self._buffer = self._buffer.new_empty(size)
        self.draw(seed, init, self._buffer)
        return self._buffer

    def can_fill(self, out: Tensor) -> bool:
        """Return True if drawing in place gives the same values as drawing into the buffer."""
        return out.is_contiguous() and out.dtype == self._buffer.dtype


@torch.no_grad()
def _draw(
    shard: ShardedTensor, local: Tensor, init: LayoutFreeInit, seed: int, tiles: _Tiles, *, columns: bool
) -> None:
    """Fill a local tensor with its part of the parameter; indices of prepended axes (experts) belong to the name."""
    in_front = shard.prepend_axis_num
    name = ".".join([shard.key, *(str(i) for i in shard.global_offset[:in_front])])
    shape, offset = shard.global_shape[in_front:], shard.global_offset[in_front:]
    cuts = [_cuts(*dim) for dim in zip(shape, offset, local.shape, _tile(shape, columns=columns), strict=True)]
    for tile in itertools.product(*cuts):
        tile_seed = _tile_seed(seed, name, tile)
        here = local[tuple(cut.here for cut in tile)]
        inside = all(cut.complete for cut in tile)
        if inside and tiles.can_fill(here):
            tiles.draw(tile_seed, init, here)
        else:
            drawn = tiles.drawn(tile_seed, init, [cut.size for cut in tile])
            here.copy_(drawn if inside else drawn[tuple(cut.within for cut in tile)])


def _tile(shape: tuple[int, ...], *, columns: bool) -> list[int]:
    """Return the shape of a tile: complete rows, or narrow tiles where ranks split the columns.

    The number of rows is halved until a tile is small enough. So the shards of 2, 4 or 8 ranks usually consist of
    complete tiles, and no rank draws values of another one.
    """
    rows, *row = shape
    if row and columns:
        return [*_NARROW_TILE, *row[1:]]
    while rows > 1 and rows * math.prod(row) > _TILE:
        rows = -(-rows // 2)
    return [rows, *row]


class _Cut(NamedTuple):
    """The overlap of a tile and a shard, along one dim."""

    tile: int
    """Index of the tile."""
    size: int
    """Number of elements of the tile along the dim. The last tile may have fewer than the others."""
    within: slice
    """The overlap, as indices of the tile."""
    here: slice
    """The overlap, as indices of the shard."""

    @property
    def complete(self) -> bool:
        """True if the shard contains the complete tile."""
        return bool(self.within.stop - self.within.start == self.size)


def _cuts(full: int, offset: int, local: int, tile: int) -> list[_Cut]:
    """Return every tile that a shard of `local` elements at `offset` overlaps, along one dim of `full` elements."""
    cuts: list[_Cut] = []
    for index in range(offset // tile, -(-(offset + local) // tile)):
        start, stop = index * tile, min((index + 1) * tile, full)
        low, high = max(start, offset), min(stop, offset + local)
        cuts.append(_Cut(index, stop - start, slice(low - start, high - start), slice(low - offset, high - offset)))
    return cuts


def _tile_seed(seed: int, name: str, tile: tuple[_Cut, ...]) -> int:
    digest = hashlib.sha256(f"{seed}/{name}/{'/'.join(str(cut.tile) for cut in tile)}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
