"""Context parallelism of a Mamba-2 mixer: ranks exchange their part of the sequence for their part of the heads.

A scan needs the whole sequence, but its heads do not need each other. Before the convolution every rank gives away its
positions of the other ranks' heads, and after the scan it takes its positions back; as the engine does it
(megatron/core/ssm/mamba_context_parallel.py), whose attention also decides which positions a rank holds. Parameters
stay whole on every rank, which uses its heads' part of them.
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
    """Channels of what a mixer's projection makes side by side."""

    inner: int
    """Of x, and of z."""
    states: int
    """Of B, and of C: groups × state size."""
    heads: int
    """Of dt."""

    @property
    def projected(self) -> list[int]:
        """z, x, B, C and dt."""
        return [self.inner, self.inner, self.states, self.states, self.heads]

    @property
    def convolved(self) -> list[int]:
        """x, B and C."""
        return [self.inner, self.states, self.states]


class HeadsOverContext:
    """Which heads of a tensor rank's a context rank computes, and how they come to it.

    Args:
        sizes: Of the tensor rank.
        state_size: Channels of one group's B.
        cp_group: The context ranks; their number divides the heads, and divides the groups or is divided by them.
    """

    def __init__(self, sizes: Sizes, *, state_size: int, cp_group: "ProcessGroup") -> None:
        size = cp_group.size()
        groups = sizes.states // state_size
        self._group, self._size, self._rank = cp_group, size, cp_group.rank()
        self._whole, self._state_size = sizes, state_size
        self._repeat = max(1, size // groups)
        self.sizes = Sizes(sizes.inner // size, sizes.states * self._repeat // size, sizes.heads // size)
        """Of this context rank."""

    def gather(self, projected_SBP: Tensor) -> Tensor:
        """Exchange positions for heads.

        Args:
            projected_SBP: `[s / context, b, z x B C dt]` of the tensor rank.

        Returns:
            `[s, b, z x B C dt]` of this rank's heads, in the order of the sequence.
        """
        if self._size == 1:
            return projected_SBP
        z, x, B, C, dt = torch.split(projected_SBP, self._whole.projected, dim=-1)
        parts = [self._exchanged(part) for part in (z, x, self._repeated(B), self._repeated(C), dt)]
        joined = torch.cat(parts, dim=-1)
        return joined[self._held(joined.size(0)).argsort()]

    def scatter(self, inner_SBP: Tensor) -> Tensor:
        """Exchange heads for positions.

        Args:
            inner_SBP: `[s, b, inner / context]`.

        Returns:
            `[s / context, b, inner]`.
        """
        if self._size == 1:
            return inner_SBP
        s, b, channels = inner_SBP.shape
        found: Tensor = _exchange.all_to_all_hp2sp(inner_SBP[self._held(s)], group=self._group)
        return found.reshape(s // self._size, b, channels * self._size)

    def of_channels(self, parameter: Tensor) -> Tensor:
        """The rows x, B and C of a convolution's parameter that belong to this rank's heads."""
        if self._size == 1:
            return parameter
        x, B, C = torch.split(parameter, self._whole.convolved)
        first = self._rank // self._repeat * self.sizes.states
        rows = slice(first, first + self.sizes.states)
        return torch.cat([self.of_heads(x), B[rows], C[rows]])

    def of_heads(self, parameter: Tensor) -> Tensor:
        """The rows of a parameter over heads, or over their channels, that belong to this rank."""
        return parameter.chunk(self._size)[self._rank]

    def _exchanged(self, part: Tensor) -> Tensor:
        s, b, channels = part.shape
        found: Tensor = _exchange.all_to_all_sp2hp(part, group=self._group)
        return found.reshape(s * self._size, b, channels // self._size)

    def _repeated(self, part: Tensor) -> Tensor:
        """Each group as often as there are ranks that share its heads."""
        grouped = part.reshape(*part.shape[:-1], -1, self._state_size)
        return grouped.repeat_interleave(self._repeat, dim=-2).flatten(-2)

    def _held(self, s: int) -> Tensor:
        """The positions of all ranks, one rank after the other."""
        return torch.cat([context_positions(s, rank=rank, size=self._size) for rank in range(self._size)])
