"""The part in its slot, without the engine."""

import functools
import sys

import pytest
import torch
from sliding_window import SlidingWindowAttention
from torch.testing import assert_close

from modelwright.protocols import CoreAttentionBuilder
from modelwright.testing import fill

CALL = {"attn_mask_type": None, "attention_bias": None, "packed_seq_params": None}


def test_a_position_sees_its_window_and_nothing_else() -> None:
    attention = fill(CoreAttentionBuilder, functools.partial(SlidingWindowAttention, window=3))
    query, key, value = torch.randn(8, 1, 4, 2), torch.randn(8, 1, 2, 2), torch.randn(8, 1, 2, 2)
    value.requires_grad_()
    answer = attention(query, key, value, None, **CALL)
    assert answer.shape == (8, 1, 8)
    answer[5].sum().backward()
    assert value.grad is not None
    assert value.grad.abs().sum(dim=(1, 2, 3)).nonzero().flatten().tolist() == [3, 4, 5]


def test_a_window_of_one_copies_the_values() -> None:
    attention = fill(CoreAttentionBuilder, functools.partial(SlidingWindowAttention, window=1))
    value = torch.randn(4, 2, 3, 2)
    assert_close(attention(torch.randn(4, 2, 3, 2), torch.randn(4, 2, 3, 2), value, None, **CALL), value.flatten(2))


def test_it_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ValueError, match="`attention_type` must be self"):
        fill(CoreAttentionBuilder, SlidingWindowAttention, attention_type="cross")
    tensor = torch.randn(2, 1, 1, 2)
    with pytest.raises(ValueError, match="`packed_seq_params` must be None"):
        fill(CoreAttentionBuilder, SlidingWindowAttention)(
            tensor, tensor, tensor, None, **{**CALL, "packed_seq_params": object()}
        )


def test_the_engine_was_not_needed() -> None:
    assert sys.modules.get("megatron") is None
