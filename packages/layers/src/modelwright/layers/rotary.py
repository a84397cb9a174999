"""Rotary embedding with the frequency scaling of Llama 3.1, as a part for the rotary slot.

Su et al. 2021, "RoFormer", arXiv 2104.09864. Scaling: the Llama 3.1 model card's `rope_scaling` (low frequencies are
slowed by `factor`, high ones kept, those between blended). The engine's own class knows the scaling with three of its
four constants fixed.
"""

import math
from typing import TYPE_CHECKING

import torch
from megatron.core.models.common.embeddings.rotary_pos_embedding import RotaryEmbedding
from torch import Tensor

from modelwright.engine import as_engine

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class ScaledRotaryEmbedding(RotaryEmbedding):
    """The engine's rotary embedding with its inverse frequencies scaled.

    Args:
        kv_channels: Head size.
        rotary_percent: Part of the head that is rotated.
        rotary_base: Base of the geometric series of wavelengths.
        factor: How much longer the context is than the original.
        low_freq_factor: Wavelengths above original_seq_length / this are slowed by `factor`.
        high_freq_factor: Wavelengths below original_seq_length / this stay.
        original_seq_length: Context of the original training, in tokens.
        seq_len_interpolation_factor: Positions are divided by it; None leaves them.
        use_cpu_initialization: Where the frequencies are computed.
        cp_group: The context-parallel group.
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
            rotary_base=as_engine(rotary_base),  # declared int, computed with as a number
            seq_len_interpolation_factor=as_engine(seq_len_interpolation_factor),  # declared float, None by default
            use_cpu_initialization=use_cpu_initialization,
            cp_group=cp_group,
        )
        self.inv_freq = _scaled(self.inv_freq, factor, low_freq_factor, high_freq_factor, original_seq_length)


def _scaled(inv_freq: Tensor, factor: float, low: float, high: float, original: int) -> Tensor:
    turns = original * inv_freq / (2 * math.pi)  # how often each frequency turns within the original context
    keep = ((turns - low) / (high - low)).clamp(0.0, 1.0)
    return torch.lerp(inv_freq / factor, inv_freq, keep)
