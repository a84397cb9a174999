"""Rotary embeddings with the frequency scaling of Llama 3.1 and of YaRN, as parts for the rotary slot.

Su et al. 2021, "RoFormer", arXiv 2104.09864. The scaling of Llama 3.1 is `rope_scaling` of its model card: low
frequencies are divided by `factor`, high ones are kept, and those between are interpolated. Megatron-Core's own class
supports it with three of its four constants fixed. YaRN: Peng et al. 2023, arXiv 2309.00071. Megatron-Core's own class
keeps the angles of every model in a cache of the process, and needs another position embedding than the model's.
"""

import math
from typing import TYPE_CHECKING, cast

import torch
from megatron.core.models.common.embeddings.rotary_pos_embedding import RotaryEmbedding
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class ScaledRotaryEmbedding(RotaryEmbedding):
    """The engine's rotary embedding with scaled inverse frequencies.

    Seam: subclasses the engine's `RotaryEmbedding` and replaces its attribute `inv_freq` after construction.
    `packages/layers/tests/test_rotary.py` fails when the engine computes angles from another attribute.

    Args:
        kv_channels: Head size.
        rotary_percent: Fraction of the head that is rotated, 0 to 1.
        rotary_base: Base of the geometric series of wavelengths.
        factor: Length of the context, in multiples of the original one.
        low_freq_factor: Wavelengths above `original_seq_length` / this are multiplied by `factor`.
        high_freq_factor: Wavelengths below `original_seq_length` / this are kept.
        original_seq_length: Context of the original training, in tokens.
        seq_len_interpolation_factor: Divisor of the positions; None: 1.
        use_cpu_initialization: True to compute the frequencies on the CPU.
        cp_group: Context-parallel group.
    """

    def __init__(
        self,
        *,
        kv_channels: int,
        rotary_percent: float,
        rotary_base: float,
        factor: float,
        low_freq_factor: float,
        high_freq_factor: float,
        original_seq_length: int,
        seq_len_interpolation_factor: float | None = None,
        use_cpu_initialization: bool = False,
        cp_group: "ProcessGroup | None" = None,
    ) -> None:
        super().__init__(
            kv_channels=kv_channels,
            rotary_percent=rotary_percent,
            rotary_base=cast("int", rotary_base),  # declared int, used as a number
            seq_len_interpolation_factor=cast("float", seq_len_interpolation_factor),  # declared float, None by default
            use_cpu_initialization=use_cpu_initialization,
            cp_group=cp_group,
        )
        self.inv_freq = _scaled(self.inv_freq, factor, low_freq_factor, high_freq_factor, original_seq_length)


def _scaled(inv_freq: Tensor, factor: float, low: float, high: float, original: int) -> Tensor:
    turns = original * inv_freq / (2 * math.pi)  # number of turns within the original context
    keep = ((turns - low) / (high - low)).clamp(0.0, 1.0)
    return torch.lerp(inv_freq / factor, inv_freq, keep)


class YarnScaledRotaryEmbedding(RotaryEmbedding):
    """The engine's rotary embedding with the inverse frequencies of YaRN.

    The engine's attention scales the rotated queries and keys itself, by the `yarn_…` fields of the config.

    Seam: as `ScaledRotaryEmbedding`.

    Args:
        kv_channels: Head size.
        rotary_percent: Fraction of the head that is rotated, 0 to 1.
        rotary_base: Base of the geometric series of wavelengths.
        factor: Length of the context, in multiples of the original one.
        original_seq_length: Context of the original training, in tokens.
        beta_fast: Number of turns in the original context above which a frequency is kept.
        beta_slow: Number of turns below which a frequency is divided by `factor`.
        truncate: True to round the range of the interpolated frequencies to whole dims.
        seq_len_interpolation_factor: Divisor of the positions; None: 1.
        use_cpu_initialization: True to compute the frequencies on the CPU.
        cp_group: Context-parallel group.
    """

    def __init__(
        self,
        *,
        kv_channels: int,
        rotary_percent: float,
        rotary_base: float,
        factor: float,
        original_seq_length: int,
        beta_fast: float,
        beta_slow: float,
        truncate: bool,
        seq_len_interpolation_factor: float | None = None,
        use_cpu_initialization: bool = False,
        cp_group: "ProcessGroup | None" = None,
    ) -> None:
        super().__init__(
            kv_channels=kv_channels,
            rotary_percent=rotary_percent,
            rotary_base=cast("int", rotary_base),  # declared int, used as a number
            seq_len_interpolation_factor=cast("float", seq_len_interpolation_factor),  # declared float, None by default
            use_cpu_initialization=use_cpu_initialization,
            cp_group=cp_group,
        )
        dims = 2 * self.inv_freq.numel()
        low, high = (_dim_of(turns, dims, rotary_base, original_seq_length) for turns in (beta_fast, beta_slow))
        if truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0.0), min(high, dims - 1.0)
        high += 0.001 * (low == high)  # as the reference implementation avoids a division by 0
        index = torch.arange(self.inv_freq.numel(), dtype=torch.float32, device=self.inv_freq.device)
        keep = 1 - ((index - low) / (high - low)).clamp(0.0, 1.0)
        self.inv_freq = torch.lerp(self.inv_freq / factor, self.inv_freq, keep)


def _dim_of(turns: float, dims: int, base: float, original: int) -> float:
    """Return the index of the frequency that makes a number of turns within the original context."""
    return dims * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(base))
