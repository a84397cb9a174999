"""A rotary embedding with the frequency scaling of Llama 3.1 or of YaRN, as a part for the rotary slot.

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

from modelwright.config import Llama3RopeScaling, YarnRopeScaling

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class ScaledRotaryEmbedding(RotaryEmbedding):
    """The engine's rotary embedding with scaled inverse frequencies.

    With YaRN the engine's attention scales the rotated queries and keys itself, by the `yarn_…` fields of the config.

    Seam: subclasses the engine's `RotaryEmbedding` and replaces its attribute `inv_freq` after construction.
    `packages/layers/tests/test_rotary.py` fails when the engine computes angles from another attribute.

    Args:
        scaling: How the frequencies are scaled: `rope_scaling` of the config.
        kv_channels: Head size.
        rotary_percent: Fraction of the head that is rotated, 0 to 1.
        rotary_base: Base of the geometric series of wavelengths.
        seq_len_interpolation_factor: Divisor of the positions; None: 1.
        use_cpu_initialization: True to compute the frequencies on the CPU.
        cp_group: Context-parallel group.
    """

    def __init__(
        self,
        *,
        scaling: Llama3RopeScaling | YarnRopeScaling,
        kv_channels: int,
        rotary_percent: float,
        rotary_base: float,
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
        if isinstance(scaling, YarnRopeScaling):
            keep = _kept_by_yarn(self.inv_freq, scaling, rotary_base)
        else:
            keep = _kept_by_llama3(self.inv_freq, scaling)
        self.inv_freq = torch.lerp(self.inv_freq / scaling.factor, self.inv_freq, keep)


def _kept_by_llama3(inv_freq: Tensor, scaling: Llama3RopeScaling) -> Tensor:
    """Return how far each frequency is kept: 1 as it is, 0 divided by the factor."""
    turns = scaling.original_seq_length * inv_freq / (2 * math.pi)  # number of turns within the original context
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    return ((turns - low) / (high - low)).clamp(0.0, 1.0)


def _kept_by_yarn(inv_freq: Tensor, scaling: YarnRopeScaling, base: float) -> Tensor:
    """Return how far each frequency is kept, as `_kept_by_llama3`."""
    dims = 2 * inv_freq.numel()
    low, high = (
        # The index of the frequency that makes this number of turns within the original context.
        dims * math.log(scaling.original_seq_length / (turns * 2 * math.pi)) / (2 * math.log(base))
        for turns in (scaling.beta_fast, scaling.beta_slow)
    )
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0.0), min(high, dims - 1.0)
    high += 0.001 * (low == high)  # as the reference implementation avoids a division by 0
    index = torch.arange(inv_freq.numel(), dtype=torch.float32, device=inv_freq.device)
    return 1 - ((index - low) / (high - low)).clamp(0.0, 1.0)
