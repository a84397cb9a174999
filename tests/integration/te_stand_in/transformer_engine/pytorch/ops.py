"""Operations that one kernel may compute together: the experts as grouped linear, gated activation, grouped linear."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from transformer_engine.recorded import record


class GroupedLinear(nn.Module):
    """A linear for each expert, whose parameters Megatron-Core registers afterwards."""

    def __init__(
        self,
        num_groups: int,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        rng_state_tracker_function: Any = None,
        accumulate_into_main_grad: bool = False,
        single_grouped_weight: bool = False,
        single_grouped_bias: bool = False,
        delay_wgrad_compute: bool = False,
        scale_bias: bool = False,
    ) -> None:
        super().__init__()
        record("ops.GroupedLinear", experts=num_groups, sizes=[in_features, out_features], bias=bias)
        self.num_groups = num_groups

    def forward(self, rows: Tensor, splits: Tensor) -> Tensor:
        parts = rows.split(splits.tolist())
        return torch.cat([linear(part, self.get_parameter(f"weight{i}")) for i, part in enumerate(parts)])


class ScaledSwiGLU(nn.Module):
    """SwiGLU, times a number for each row."""

    def __init__(self, glu_interleave_size: int | None = None, *, activation_recompute_in_mlp: bool = False) -> None:
        super().__init__()

    def forward(self, rows: Tensor, scales: Tensor) -> Tensor:
        gate, up = rows.chunk(2, dim=-1)
        return silu(gate) * up * scales[:, None]


class Sequential(nn.Sequential):
    """Operations one after another; each takes one more input."""

    def forward(self, rows: Tensor, *more: Tensor) -> Tensor:  # type: ignore[override]
        record("ops.Sequential", rows=rows)
        for operation, extra in zip(self, more, strict=True):
            rows = operation(rows, extra)
        return rows
