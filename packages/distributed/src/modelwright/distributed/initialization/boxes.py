"""Boxes: where the elements of a local tensor belong in the unsharded parameters, whatever wraps the stage.

A wrapper may leave a rank with only a range of a parameter's elements: a row shard under FSDP2, a slice of the gradient
buffer under the distributed optimizer. `StageLayout` reads the engine's sharded state dict once, with parameters that
have shapes but no memory, and cuts any such range into boxes of the unsharded parameter.
"""

import contextlib
import math
from bisect import bisect_right
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, final

import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Shard

from modelwright.distributed.initialization.shards import local_shards
from modelwright.distributed.wrappers.data_parallel import unwrapped
from modelwright.protocols import ModelwrightError


class ShardingError(ModelwrightError):
    """A parameter of which the place in the unsharded model is not known."""


@final
@dataclass(frozen=True, kw_only=True)
class Box:
    """A box of an unsharded tensor, and the local tensor that has its elements."""

    key: str
    """Name of the tensor in the unsharded model."""
    global_shape: tuple[int, ...]
    """Shape of the unsharded tensor."""
    start: tuple[int, ...]
    """Index of the first element of the box in each dim."""
    local: Tensor
    """The elements, with the shape of the box; shares memory with the parameter."""
    is_first_copy: bool
    """True on the one rank, of those with the same elements, that saves them."""


@final
@dataclass(frozen=True)
class LocalRange:
    """The elements that this rank has of a parameter of the stage, which may be sharded over data ranks."""

    first: int
    """Index of the first element in the flattened parameter of the stage."""
    over_data: bool
    """True if the data ranks have different elements, False if each has a copy."""


@final
@dataclass(frozen=True)
class _Piece:
    """A part of a parameter that the engine stores under one name, as strides over the flattened parameter."""

    key: str
    global_shape: tuple[int, ...]
    start: tuple[int, ...]
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    first: int
    replica: tuple[int, ...]

    @property
    def is_contiguous(self) -> bool:
        expected = 1
        for size, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if size > 1 and stride != expected:
                return False
            expected *= size
        return True

    def is_first_copy(self, *, over_data: bool) -> bool:
        """Return True on the rank that saves the piece. The engine puts the data rank last in a replica id."""
        return not any(self.replica[:-1] if over_data else self.replica)


@final
class StageLayout:
    """The place of every parameter and buffer of one stage in the unsharded model.

    Args:
        stage: The stage, wrapped or not.
        pg_collection: The process groups of this rank.

    Raises:
        ShardingError: The sharded state dict of the stage does not cover a parameter.
    """

    def __init__(self, stage: nn.Module, pg_collection: ProcessGroupCollection) -> None:
        self.stage = unwrapped(stage)
        self.parameters = {id(p): (name, p) for name, p in self.stage.named_parameters()}
        self._pieces: dict[int, list[_Piece]] = {key: [] for key in self.parameters}
        self._buffers: list[Box] = []
        # Every parameter gets its own range of one imaginary tensor, by which its parts are found again.
        sizes = [parameter.numel() for _, parameter in self.parameters.values()]
        first = dict(zip(self.parameters, accumulate(sizes, initial=0), strict=False))
        with torch.no_grad(), _without_memory(self.stage, first, sum(sizes)):
            for shard, local in local_shards(self.stage, pg_collection):
                self._add(shard, local, first)
        self._check()

    def _add(self, shard: Any, local: Tensor, first: dict[int, int]) -> None:
        """Add one entry of the sharded state dict."""
        extra = shard.prepend_axis_num
        replica = (shard.replica_id,) if isinstance(shard.replica_id, int) else tuple(shard.replica_id)
        shape, start = (*[1] * extra, *local.shape), tuple(shard.global_offset)
        if not local.is_meta:
            self._buffers.append(
                Box(
                    key=shard.key,
                    global_shape=tuple(shard.global_shape),
                    start=start,
                    local=local.detach().view(shape),
                    is_first_copy=not any(replica),
                )
            )
            return
        owner = list(first)[bisect_right(list(first.values()), local.storage_offset()) - 1]
        self._pieces[owner].append(
            _Piece(
                key=shard.key,
                global_shape=tuple(shard.global_shape),
                start=start,
                shape=shape,
                strides=(*[0] * extra, *local.stride()),
                first=int(local.storage_offset()) - first[owner],
                replica=replica,
            )
        )

    def _check(self) -> None:
        """Refuse a parameter that would be lost in a checkpoint."""
        lost = [
            f"`{name}`"
            for key, (name, parameter) in self.parameters.items()
            if sum(math.prod(piece.shape) for piece in self._pieces[key]) != parameter.numel()
        ]
        if lost:
            raise ShardingError(
                f"`sharded_state_dict` of `{type(self.stage).__name__}` must describe every parameter once, but does "
                f"not do so for {', '.join(lost)}; describe it, so that it can be saved and loaded."
            )

    def boxes(self) -> Iterator[Box]:
        """Yield the boxes of all parameters and buffers of this rank."""
        for _, parameter in self.parameters.values():
            yield from self.boxes_of(parameter, parameter, local_range(parameter))
        yield from self._buffers

    def boxes_of(self, parameter: Tensor, values: Tensor, where: LocalRange) -> Iterator[Box]:
        """Yield the boxes of a tensor that has an element for each local element of a parameter.

        Args:
            parameter: A parameter of the stage.
            values: The parameter, or a tensor of its optimizer state, of any shape.
            where: The elements of the parameter that `values` has.

        Raises:
            ShardingError: The elements lie apart in the unsharded parameter.
        """
        flat = local_tensor(values).view(-1)
        for piece in self._pieces[id(parameter)]:
            first_copy = piece.is_first_copy(over_data=where.over_data)
            for offset, shape, local in self._cut(piece, parameter, flat, where.first):
                yield Box(
                    key=piece.key,
                    global_shape=piece.global_shape,
                    start=tuple(a + b for a, b in zip(piece.start, offset, strict=True)),
                    local=local.view(shape) if local.is_contiguous() else local,
                    is_first_copy=first_copy,
                )

    def _cut(
        self, piece: _Piece, parameter: Tensor, flat: Tensor, first: int
    ) -> Iterator[tuple[tuple[int, ...], tuple[int, ...], Tensor]]:
        """Yield start and shape within the piece, and the elements, of each box that `flat` has of the piece."""
        if not piece.is_contiguous:
            if flat.numel() != parameter.numel():
                raise ShardingError(
                    f"`{piece.key}` must lie together in the memory of its parameter to be sharded over data ranks, "
                    "but its elements lie apart; use `wrap: {kind: ddp}` without the distributed optimizer."
                )
            yield (
                (0,) * len(piece.shape),
                piece.shape,
                flat.as_strided(piece.shape, piece.strides, flat.storage_offset() + piece.first),
            )
            return
        low = max(piece.first, first)
        high = min(piece.first + math.prod(piece.shape), first + flat.numel())
        at = low - first
        for start, shape in _boxes_of_range(piece.shape, low - piece.first, high - piece.first):
            size = math.prod(shape)
            yield start, shape, flat[at : at + size]
            at += size


def local_tensor(tensor: Tensor) -> Tensor:
    """Return the elements that this rank has of a tensor, without gradients. They share memory with the tensor."""
    plain = tensor.detach()
    return plain.to_local() if isinstance(plain, DTensor) else plain


def local_range(parameter: Tensor) -> LocalRange:
    """Return the elements that this rank has of a parameter: all of them, or a shard of its rows.

    Args:
        parameter: A parameter of a stage, wrapped or not.

    Raises:
        ShardingError: The parameter is sharded in another way than by rows over one axis.
    """
    if not isinstance(parameter, DTensor):
        return LocalRange(first=0, over_data=False)
    mesh, placements = parameter.device_mesh, parameter.placements
    if mesh.ndim != 1 or placements != (Shard(0),):
        raise ShardingError(
            f"a parameter that is sharded over data ranks must be sharded by rows over one axis, but is placed as "
            f"{placements}; use `wrap: {{kind: fsdp2}}` or `ddp`."
        )
    rows, row = parameter.shape[0], math.prod(parameter.shape[1:])
    start = min(mesh.get_local_rank() * -(-rows // mesh.size()), rows)  # as torch.chunk divides
    return LocalRange(first=start * row, over_data=True)


def _boxes_of_range(shape: tuple[int, ...], low: int, high: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Yield start and shape of boxes that together are the elements [low, high) of a flattened tensor, in order.

    A range of a matrix is at most three boxes: the end of a row, full rows, and the begin of a row.
    """
    if low >= high:
        return
    if not shape:
        yield (), ()
        return
    row = math.prod(shape[1:])
    begin, end = low // row, -(-high // row)
    full_begin, full_end = -(-low // row), high // row
    if begin < full_begin:  # the range begins within a row
        for start, size in _boxes_of_range(shape[1:], low - begin * row, min(high, full_begin * row) - begin * row):
            yield (begin, *start), (1, *size)
    if full_begin < full_end:
        yield (full_begin, *[0] * len(shape[1:])), (full_end - full_begin, *shape[1:])
    if full_end < end and full_end >= full_begin:  # and ends within a later one
        for start, size in _boxes_of_range(shape[1:], 0, high - full_end * row):
            yield (full_end, *start), (1, *size)


@contextlib.contextmanager
def _without_memory(stage: nn.Module, first: dict[int, int], count: int) -> Generator[None]:
    """Replace the parameters of a stage by ones that have shapes and no memory, until the end of the block.

    The engine describes the shards of plain parameters of the full local shape; FSDP2 keeps only rows of them.
    """
    modules = list(stage.modules())
    for module in modules:
        if isinstance(module, FSDPModule):
            module.reshard()
    imaginary = torch.empty(count, device="meta")
    replaced: list[tuple[nn.Module, str, nn.Parameter]] = []
    stand_ins: dict[int, nn.Parameter] = {}
    try:
        for module in modules:
            for name, parameter in list(module.named_parameters(recurse=False, remove_duplicate=False)):
                if id(parameter) not in stand_ins:
                    stand_ins[id(parameter)] = _stand_in(parameter, imaginary, first[id(parameter)])
                module.register_parameter(name, stand_ins[id(parameter)])
                replaced.append((module, name, parameter))
        yield
    finally:
        for module, name, parameter in replaced:
            module.register_parameter(name, parameter)


def _stand_in(parameter: nn.Parameter, imaginary: Tensor, first: int) -> nn.Parameter:
    """Return a parameter with the shape and the attributes of another, as a view of the imaginary tensor."""
    part = imaginary[first : first + parameter.numel()].view(parameter.shape)
    stand_in = nn.Parameter(part, requires_grad=parameter.requires_grad)
    vars(stand_in).update({k: v for k, v in vars(parameter).items() if k != "is_torch_fsdp2_param"})
    return stand_in
