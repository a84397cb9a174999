"""Context parallelism of a Mamba-2 mixer: ranks exchange their part of the sequence for their part of the heads.

A scan needs the full sequence, but its heads are independent. Before the convolution, an all-to-all gives each rank all
positions of its own heads. After the scan, another one returns each position to its rank. Megatron-Core does the same
(megatron/core/ssm/mamba_context_parallel.py), and its attention defines which positions a rank has. Parameters are
complete on every context rank, and each rank uses the part of its heads.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from megatron.core import tensor_parallel
from torch import Tensor

from modelwright.distributed import context_positions

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_exchange: Any = tensor_parallel  # not typed


@dataclass(frozen=True)
class Sizes:
    """Numbers of channels in the output of a mixer's projection."""

    inner: int
    """Channels of x, and of z."""
    states: int
    """Channels of B, and of C: groups × state size."""
    heads: int
    """Channels of dt."""

    @property
    def projected(self) -> list[int]:
        """Channels of z, x, B, C and dt."""
        return [self.inner, self.inner, self.states, self.states, self.heads]

    @property
    def convolved(self) -> list[int]:
        """Channels of x, B and C."""
        return [self.inner, self.states, self.states]


class HeadsOverContext:
    """Exchange between the positions and the heads of context ranks.

    Args:
        sizes: Sizes on the tensor rank.
        state_size: Channels of one group's B.
        cp_group: Context-parallel group. Its size must divide the heads, and must divide the groups or be a multiple
            of them.
    """

    def __init__(self, sizes: Sizes, *, state_size: int, cp_group: "ProcessGroup") -> None:
        size = cp_group.size()
        groups = sizes.states // state_size
        self._group, self._size, self._rank = cp_group, size, cp_group.rank()
        self._whole, self._state_size = sizes, state_size
        self._repeat = max(1, size // groups)
        self.sizes = Sizes(sizes.inner // size, sizes.states * self._repeat // size, sizes.heads // size)
        """Sizes on this context rank."""

    def gather(self, projected_SBP: Tensor) -> Tensor:
        """Exchange positions for heads.

        Args:
            projected_SBP: `[s / context, b, channels]`: z, x, B, C and dt of the tensor rank.

        Returns:
            `[s, b, channels]`: z, x, B, C and dt of this rank's heads, in the order of the sequence.
        """
        if self._size == 1:
            return projected_SBP
        z, x, B, C, dt = torch.split(projected_SBP, self._whole.projected, dim=-1)
        parts = [self._exchanged(part) for part in (z, x, self._repeated(B), self._repeated(C), dt)]
        joined = torch.cat(parts, dim=-1)
        return joined[self._positions(joined.size(0)).argsort()]

    def scatter(self, inner_SBP: Tensor) -> Tensor:
        """Exchange heads for positions.

        Args:
            inner_SBP: `[s, b, inner / context]`, in the order of the sequence.

        Returns:
            `[s / context, b, inner]`: all heads of the tensor rank, at this rank's positions.
        """
        if self._size == 1:
            return inner_SBP
        s, b, channels = inner_SBP.shape
        found: Tensor = _exchange.all_to_all_hp2sp(inner_SBP[self._positions(s)], group=self._group)
        return found.reshape(s // self._size, b, channels * self._size)

    def of_channels(self, parameter: Tensor) -> Tensor:
        """Select the rows of a convolution's parameter that belong to this rank's heads.

        Args:
            parameter: `[channels, ...]`: rows of x, B and C of the tensor rank.

        Returns:
            `[channels of this context rank, ...]`: rows of x, B and C.
        """
        if self._size == 1:
            return parameter
        x, B, C = torch.split(parameter, self._whole.convolved)
        first = self._rank // self._repeat * self.sizes.states
        rows = slice(first, first + self.sizes.states)
        return torch.cat([self.of_heads(x), B[rows], C[rows]])

    def of_heads(self, parameter: Tensor) -> Tensor:
        """Select the rows of a parameter that belong to this rank's heads.

        Args:
            parameter: `[heads, ...]` or `[inner, ...]` of the tensor rank.

        Returns:
            `[heads / context, ...]` or `[inner / context, ...]`.
        """
        return parameter.chunk(self._size)[self._rank]

    def _exchanged(self, part: Tensor) -> Tensor:
        s, b, channels = part.shape
        found: Tensor = _exchange.all_to_all_sp2hp(part, group=self._group)
        return found.reshape(s * self._size, b, channels // self._size)

    def _repeated(self, part: Tensor) -> Tensor:
        """Repeat each group once for every rank that has some of its heads."""
        grouped = part.reshape(*part.shape[:-1], -1, self._state_size)
        return grouped.repeat_interleave(self._repeat, dim=-2).flatten(-2)

    def _positions(self, s: int) -> Tensor:
        """Return the positions of all ranks, one rank after another."""
        return torch.cat([context_positions(s, rank=rank, size=self._size) for rank in range(self._size)])
