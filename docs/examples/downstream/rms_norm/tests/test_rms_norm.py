"""The part in its slot, without the engine."""

import sys

import torch
from rms_norm import ZeroCenteredRmsNorm
from torch import nn
from torch.testing import assert_close

from modelwright.protocols import NormBuilder
from modelwright.testing import FakeConfig, fill


def test_it_starts_as_a_plain_rms_norm_and_its_weight_counts_from_one() -> None:
    norm = fill(NormBuilder, ZeroCenteredRmsNorm, hidden_size=6, eps=1e-3)
    hidden_SBH = torch.randn(5, 2, 6)
    plain = nn.functional.rms_norm(hidden_SBH, (6,), eps=1e-3)
    assert_close(norm(hidden_SBH), plain)
    nn.init.constant_(norm.weight, 0.5)
    assert_close(norm(hidden_SBH), 1.5 * plain)


def test_the_engine_is_told_of_sequence_parallelism() -> None:
    norm = fill(NormBuilder, ZeroCenteredRmsNorm, config=FakeConfig(sequence_parallel=True))
    assert norm.weight.sequence_parallel


def test_the_engine_was_not_needed() -> None:
    assert sys.modules.get("megatron") is None
