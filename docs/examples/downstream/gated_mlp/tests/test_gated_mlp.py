"""The part in its slot, without the engine."""

import sys

import pytest
import torch
from gated_mlp import GatedMlp
from torch.testing import assert_close

from modelwright.protocols import MlpBuilder
from modelwright.testing import FakeConfig, FakeGroup, FakeGroups, fill


def test_it_computes_the_gated_product() -> None:
    mlp = fill(MlpBuilder, GatedMlp, config=FakeConfig(hidden_size=6))
    hidden_SBH = torch.randn(5, 2, 6)
    answer, bias = mlp(hidden_SBH, padding_mask=None)
    gate, up = (hidden_SBH @ mlp.gate_and_up.weight.T).split(16, dim=-1)
    assert_close(answer, (gate * gate.sigmoid() * up) @ mlp.down.weight.T)
    assert bias is None


def test_it_refuses_to_be_split() -> None:
    with pytest.raises(ValueError, match="`tensor` must be 1 for `GatedMlp`"):
        fill(MlpBuilder, GatedMlp, pg_collection=FakeGroups(tp=FakeGroup(2, 0)))


def test_the_engine_was_not_needed() -> None:
    assert sys.modules.get("megatron") is None
