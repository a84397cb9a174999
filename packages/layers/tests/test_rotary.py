"""The scaling of Llama 3.1, written out from the model card frequency by frequency."""

import math
from functools import partial

import pytest
import torch
from megatron.core.models.common.embeddings.rotary_pos_embedding import RotaryEmbedding
from megatron.core.process_groups_config import ProcessGroupCollection

from modelwright.config import Llama3RopeScaling, YarnRopeScaling
from modelwright.layers import ScaledRotaryEmbedding
from modelwright.protocols import RotaryEmbeddingBuilder, check_conformance

# `rope_scaling` of Llama-3.1-8B: factor 8; of Llama-3.2-1B: factor 32, head size 64.
PUBLISHED = [(128, 8.0), (64, 32.0)]


def frequencies(head_dim: int, factor: float, base: float, low: float, high: float, original: int) -> list[float]:
    """Inverse frequencies as the reference implementation of Llama 3.1 scales them."""
    scaled = []
    for i in range(0, head_dim, 2):
        frequency = base ** (-i / head_dim)
        wavelength = 2 * math.pi / frequency
        if wavelength < original / high:
            scaled.append(frequency)
        elif wavelength > original / low:
            scaled.append(frequency / factor)
        else:
            smooth = (original / wavelength - low) / (high - low)
            scaled.append((1 - smooth) * frequency / factor + smooth * frequency)
    return scaled


def rotary(groups: ProcessGroupCollection, head_dim: int = 128, factor: float = 8.0) -> ScaledRotaryEmbedding:
    scaling = Llama3RopeScaling(factor=factor, low_freq_factor=1.0, high_freq_factor=4.0, original_seq_length=8192)
    return ScaledRotaryEmbedding(
        scaling=scaling, kv_channels=head_dim, rotary_percent=1.0, rotary_base=500000.0, cp_group=groups.cp
    )


@pytest.mark.parametrize(("head_dim", "factor"), PUBLISHED)
def test_the_published_constants(groups: ProcessGroupCollection, head_dim: int, factor: float) -> None:
    expected = frequencies(head_dim, factor, 500000.0, 1.0, 4.0, 8192)
    assert torch.allclose(rotary(groups, head_dim, factor).inv_freq, torch.tensor(expected), rtol=1e-5, atol=0)


def test_all_three_ranges_occur(groups: ProcessGroupCollection) -> None:
    plain = RotaryEmbedding(kv_channels=128, rotary_percent=1.0, rotary_base=500000, cp_group=groups.cp).inv_freq
    ratio = plain / rotary(groups).inv_freq
    kept, slowed = torch.isclose(ratio, torch.tensor(1.0)), torch.isclose(ratio, torch.tensor(8.0))
    assert kept[0]
    assert slowed[-1]
    assert (~kept & ~slowed).any()


def test_the_angles_are_positions_times_frequencies(groups: ProcessGroupCollection) -> None:
    part = rotary(groups)
    angles = part(16)
    assert angles.shape == (16, 1, 1, 128)
    expected = torch.arange(16.0)[:, None] * part.inv_freq
    assert torch.allclose(angles[:, 0, 0], torch.cat([expected, expected], dim=-1))


@pytest.mark.parametrize("scaling", [Llama3RopeScaling(), YarnRopeScaling()])
def test_it_fits_the_slot_once_its_scaling_is_bound(scaling: Llama3RopeScaling | YarnRopeScaling) -> None:
    check_conformance(RotaryEmbeddingBuilder, partial(ScaledRotaryEmbedding, scaling=scaling))
