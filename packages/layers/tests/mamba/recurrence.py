"""Mamba-2's recurrence token by token, in float64: arXiv 2405.21060, equation 2, discretized."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def recurrence(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor | None = None, D: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """y [b, s, n, d] and the last state [b, n, d, state]; dt [b, s, n] as it is used."""
    x, dt, A, B, C = (part.double() for part in (x, dt, A, B, C))
    heads = x.size(2) // B.size(2)
    B, C = B.repeat_interleave(heads, dim=2), C.repeat_interleave(heads, dim=2)
    state = x.new_zeros(*x[:, 0].shape, B.size(3)) if state is None else state.double()
    y = torch.zeros_like(x)
    for t in range(x.size(1)):
        taken = torch.einsum("bn,bnd,bnk->bndk", dt[:, t], x[:, t], B[:, t])
        state = torch.exp(dt[:, t] * A)[..., None, None] * state + taken
        y = y.clone()
        y[:, t] = torch.einsum("bndk,bnk->bnd", state, C[:, t])
    if D is not None:
        y = y + x * (D if D.dim() == 2 else D[:, None])
    return y, state
