"""The norms."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, rms_norm

from transformer_engine.recorded import record


def normalized(values: Tensor, weight: Tensor, bias: Tensor | None, eps: float, *, zero_centered: bool) -> Tensor:
    """Return RMSNorm, or LayerNorm where there is a bias."""
    gamma = 1 + weight if zero_centered else weight
    if bias is None:
        return rms_norm(values, weight.shape, gamma, eps)
    return layer_norm(values, weight.shape, gamma, bias, eps)


class _Norm(nn.Module):
    has_bias: bool

    def __init__(
        self,
        normalized_shape: int,
        eps: float = 1e-5,
        sequence_parallel: bool | None = None,
        params_dtype: torch.dtype | None = None,
        zero_centered_gamma: bool = False,
        hidden_size: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        record(
            type(self).__name__, size=normalized_shape, eps=eps, sequence_parallel=sequence_parallel,
            dtype=params_dtype, zero_centered_gamma=zero_centered_gamma, **kwargs,
        )  # fmt: skip
        self.eps, self.zero_centered_gamma = eps, zero_centered_gamma
        start = 0.0 if zero_centered_gamma else 1.0
        self.weight = nn.Parameter(torch.full((normalized_shape,), start, dtype=params_dtype))
        self.bias = nn.Parameter(torch.zeros(normalized_shape, dtype=params_dtype)) if self.has_bias else None
        for parameter in self.parameters():
            parameter.sequence_parallel = sequence_parallel  # type: ignore[attr-defined]

    def forward(self, values: Tensor) -> Tensor:
        return normalized(values, self.weight, self.bias, self.eps, zero_centered=self.zero_centered_gamma)


class RMSNorm(_Norm):
    """Division by the root of the mean square."""

    has_bias = False


class LayerNorm(_Norm):
    """Division by the standard deviation, with a bias."""

    has_bias = True
