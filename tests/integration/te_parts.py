"""Stand-ins for Transformer Engine's parts, in plain PyTorch: what of them a checkpoint and a build can see.

They are not Transformer Engine and prove nothing about its kernels. They hold what its parts hold, under its names
(`layer_norm_weight` inside the linear, an `_extra_state` of bytes), and make their weight anew after `init_method`, as
`TransformerEngineBaseModule.reset_parameters` does. That is what decides whether checkpoints and initial values of the
two backends fit each other; the rest is checked on a GPU by `test_te_backend.py`.
"""

from typing import Any

import torch
from megatron.core.tensor_parallel import (
    ColumnParallelLinear,
    RowParallelLinear,
    set_tensor_model_parallel_attributes,
)
from megatron.core.transformer.identity_op import IdentityOp
from torch import Tensor, nn
from torch.nn.functional import layer_norm, rms_norm

from modelwright.layers import Backend, TorchNorm

EXTRA = torch.arange(4, dtype=torch.uint8)


def made_anew(weight: Tensor, dim: int) -> nn.Parameter:
    """As `te.pytorch.Linear.reset_parameters` leaves a weight: another parameter of the same memory."""
    parameter = nn.Parameter(weight)
    set_tensor_model_parallel_attributes(parameter, is_parallel=True, dim=dim, stride=1)
    return parameter


class StandInNormLinear(ColumnParallelLinear):
    """A norm and a column-parallel linear in one part, named as `TELayerNormColumnParallelLinear` names them."""

    def __init__(self, *args: Any, config: Any, **options: Any) -> None:
        super().__init__(*args, config=config, **options)
        self.weight = made_anew(self.weight, dim=0)
        self.eps = config.layernorm_epsilon
        size = self.input_size
        self.layer_norm_weight = nn.Parameter(torch.ones(size))
        self.layer_norm_bias = nn.Parameter(torch.zeros(size)) if config.normalization == "LayerNorm" else None
        for parameter in (self.layer_norm_weight, self.layer_norm_bias):
            if parameter is not None:
                parameter.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]

    def forward(self, input_: Tensor, *given: Any, **options: Any) -> tuple[Tensor, Tensor | None]:
        shape, weight, bias = (self.input_size,), self.layer_norm_weight, self.layer_norm_bias
        normed = (
            rms_norm(input_, shape, weight, self.eps)
            if bias is None
            else layer_norm(input_, shape, weight, bias, self.eps)
        )
        answer: tuple[Tensor, Tensor | None] = super().forward(normed, *given, **options)
        return answer

    def get_extra_state(self) -> Tensor:  # type: ignore[override]
        return EXTRA

    def set_extra_state(self, state: Any) -> None:
        assert state is None or torch.equal(state, EXTRA)


class StandInRowLinear(RowParallelLinear):
    """A row-parallel linear that makes its weight anew."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.weight = made_anew(self.weight, dim=1)

    def get_extra_state(self) -> Tensor:  # type: ignore[override]
        return EXTRA

    def set_extra_state(self, state: Any) -> None:
        assert state is None or torch.equal(state, EXTRA)


class StandInNorm(TorchNorm):
    """A norm with a state beside its weights, which the norm of the backend `torch` has not."""

    def get_extra_state(self) -> Tensor:
        return EXTRA

    def set_extra_state(self, state: Any) -> None:
        assert torch.equal(state, EXTRA)


STAND_IN = Backend(
    norm=StandInNorm,
    norm_before_linear=IdentityOp,
    norm_linear=StandInNormLinear,
    row_linear=StandInRowLinear,
)
