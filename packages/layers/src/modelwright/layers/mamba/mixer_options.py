"""Options of a Mamba-2 mixer that Megatron-Core's config does not have."""

import math
from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True, kw_only=True)
class MambaOptions:
    """Options of a mixer that the engine's config does not have; the defaults are the engine's."""

    conv_width: int = 4
    """Width of the convolution, in positions, its own included."""
    conv_bias: bool = True
    """True for a bias in the convolution."""
    conv_init: float | None = None
    """Bound of the uniform initial values of the convolution. None: 1 / sqrt(`conv_width`)."""
    chunk_size: int = 128
    """Number of positions in a chunk of the scan."""
    bias: bool = False
    """True for biases in the two projections."""
    gated_norm: bool = True
    """True for a norm after the scan, False for the gate alone."""
    norm_before_gate: bool = False
    """True to gate after the norm, False to gate before."""
    d_per_channel: bool = False
    """True for one skip coefficient `D` per channel, False for one per head."""
    a_init: tuple[float, float] = (1.0, 16.0)
    """Bounds of the uniform initial values of -A."""
    dt_init: tuple[float, float] = (0.001, 0.1)
    """Bounds of the initial step sizes, which are uniform in the logarithm."""
    dt_init_floor: float = 1e-4
    """Smallest initial step size."""
    dt_limit: tuple[float, float] = (0.0, math.inf)
    """Bounds of the step sizes."""
