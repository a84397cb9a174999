"""Recipes of narrow dtypes, with the fields of Transformer Engine 2.20.

They are pydantic's dataclasses there too, which ignore arguments that they do not declare.
"""

import enum
from collections.abc import Callable
from typing import Any

from pydantic.dataclasses import dataclass


class Format(enum.Enum):
    """Formats of numbers."""

    E2M1 = "e2m1"
    E4M3 = "e4m3"
    E5M2 = "e5m2"
    HYBRID = "hybrid"


class Recipe:
    """Base of the recipes."""

    @classmethod
    def delayed(cls) -> bool:
        """Return True for scales that come from earlier steps."""
        return issubclass(cls, DelayedScaling)


@dataclass
class DelayedScaling(Recipe):
    """Scales from a history of maxima."""

    margin: int = 0
    fp8_format: Format = Format.HYBRID
    amax_history_len: int = 1024
    amax_compute_algo: str | Callable[..., Any] = "max"
    scaling_factor_compute_algo: Callable[..., Any] | None = None
    reduce_amax: bool = True
    fp8_dpa: bool = False
    fp8_mha: bool = False
    backward_override: str | None = None


@dataclass
class Float8CurrentScaling(Recipe):
    """Scales from the tensor itself."""

    use_power_2_scales: bool = False
    fp8_format: Format = Format.HYBRID
    fp8_dpa: bool = False
    fp8_mha: bool = False
    backward_override: str | None = None


@dataclass
class MXFP8BlockScaling(Recipe):
    """Scales of blocks of 32 numbers."""

    margin: int = 0
    fp8_format: Format = Format.E4M3
    fp8_dpa: bool = False
    fp8_mha: bool = False
    backward_override: str | None = None
    enable_2d_quantization: bool = False


@dataclass
class Float8BlockScaling(Recipe):
    """Scales of blocks of 128 numbers."""

    use_f32_scales: bool = False
    fp8_format: Format = Format.E4M3
    x_block_scaling_dim: int = 1
    w_block_scaling_dim: int = 2
    grad_block_scaling_dim: int = 1
    fp8_dpa: bool = False
    fp8_mha: bool = False
    backward_override: str | None = None


@dataclass
class NVFP4BlockScaling(Recipe):
    """Scales of blocks of 16 numbers of four bits."""

    disable_rht: bool = False
    disable_stochastic_rounding: bool = False
    disable_2d_quantization: bool = False
    fp4_format: Format = Format.E2M1
    fp8_format: Format = Format.E4M3
    fp8_dpa: bool = False
    fp8_mha: bool = False
    backward_override: str | None = None
