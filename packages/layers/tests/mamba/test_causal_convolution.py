"""The causal convolution against torch's own, and steps against the whole."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv1d, silu

from modelwright.layers import causal_conv, causal_conv_step
from modelwright.layers.mamba import cached_blocks
from modelwright.protocols import CausalConvolutionInterface, ModelwrightError, check_conformance


def inputs(b: int = 2, channels: int = 5, s: int = 9, width: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    return (
        torch.randn(b, channels, s, dtype=torch.float64),
        torch.randn(channels, width, dtype=torch.float64),
        torch.randn(channels, dtype=torch.float64),
    )


def reference(x: Tensor, weight: Tensor, bias: Tensor | None = None, past: Tensor | None = None) -> Tensor:
    """torch's depthwise convolution, of zeros or what was before and the sequence."""
    past = x.new_zeros(x.size(0), x.size(1), weight.size(1) - 1) if past is None else past
    return conv1d(torch.cat([past, x], dim=2), weight[:, None], bias, groups=x.size(1))


@pytest.mark.parametrize("width", [1, 2, 4])
@pytest.mark.parametrize("s", [1, 3, 9])
@pytest.mark.parametrize("activation", [None, "silu", "swish"])
@pytest.mark.parametrize("elements", [2**16, 1])
def test_torchs_convolution(
    width: int, s: int, activation: str | None, elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cached_blocks, "_ELEMENTS", elements)
    x, weight, bias = inputs(s=s, width=width)
    expected = reference(x, weight, bias)
    y = causal_conv(x, weight, bias, activation=activation)
    assert torch.allclose(y, silu(expected) if activation else expected)


@pytest.mark.parametrize("elements", [2**16, 1], ids=["one block", "blocks of 3, 3 and 2"])
@pytest.mark.parametrize("packed", [True, False])
def test_gradients(elements: int, packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cached_blocks, "_ELEMENTS", elements)
    leaves = [part.requires_grad_() for part in (*inputs(s=8), torch.randn(2, 5, 3, dtype=torch.float64))]
    sequences = torch.tensor([[0, 0, 1, 1, 1, 1, 2, 2], [0, 1, 2, 2, 2, 2, 2, 3]]) if packed else None

    def convolve(x: Tensor, weight: Tensor, bias: Tensor, past: Tensor) -> Any:
        return causal_conv(x, weight, bias, seq_idx=sequences, initial_states=past, activation="silu")

    assert torch.autograd.gradcheck(convolve, leaves)


@pytest.mark.parametrize("cut", [1, 2, 5, 8])
def test_a_sequence_in_two_parts(cut: int) -> None:
    x, weight, bias = inputs()
    state = torch.empty(2, 5, 3, dtype=torch.float64)
    first = causal_conv(x[..., :cut], weight, bias, final_states_out=state)
    second = causal_conv(x[..., cut:], weight, bias, initial_states=state.clone(), final_states_out=state)
    assert torch.allclose(torch.cat([first, second], dim=2), reference(x, weight, bias))
    assert torch.equal(state, x[..., -3:])


def test_packed_sequences_do_not_see_each_other() -> None:
    x, weight, bias = inputs()
    y = causal_conv(x, weight, bias, seq_idx=torch.tensor([[0] * 2 + [1] + [2] * 6, [0] * 9]))
    apart = [reference(part, weight, bias) for part in x[:1].split([2, 1, 6], dim=2)]
    assert torch.allclose(y, torch.cat([torch.cat(apart, dim=2), reference(x[1:], weight, bias)]))


def test_bfloat16() -> None:
    x, weight, bias = (part.bfloat16() for part in inputs())
    y = causal_conv(x, weight, bias)
    assert y.dtype == torch.bfloat16
    expected = reference(x.double(), weight.double(), bias.double())
    assert torch.allclose(y.double(), expected, rtol=2**-8, atol=1e-5)


@pytest.mark.parametrize("length", [3, 4, 6])
def test_steps_equal_the_whole(length: int) -> None:
    x, weight, bias = inputs()
    expected = silu(reference(x, weight, bias))
    state = torch.zeros(2, 5, length, dtype=torch.float64)
    for t in range(9):
        assert torch.allclose(causal_conv_step(x[..., t], state, weight, bias, "silu"), expected[..., t])
    assert torch.equal(state, x[..., -length:])


def test_several_tokens_at_once_in_rows_of_a_cache() -> None:
    x, weight, bias = inputs(s=3)
    expected = reference(x, weight, bias)
    cache, between = torch.zeros(5, 5, 4, dtype=torch.float64), torch.zeros(5, 3, 5, 4, dtype=torch.float64)
    tokens = torch.stack([x[0].mT, torch.full_like(x[0].mT, torch.nan), x[1].mT])
    y = causal_conv_step(
        tokens, cache, weight, bias, conv_state_indices=torch.tensor([3, -1, 1]), intermediate_conv_states=between
    )
    assert torch.allclose(y[[0, 2]], expected.mT)
    assert not y[1].any()
    assert torch.equal(cache[[3, 1], :, 1:], x)
    assert not cache[[0, 2, 4]].any()
    assert torch.equal(between[3, 0, :, -1], x[0, :, 0])
    assert torch.equal(between[[3, 1], 2], cache[[3, 1]])


def test_what_does_not_fit() -> None:
    x, weight, bias = inputs()
    cases: list[tuple[Any, str]] = [
        (
            lambda: causal_conv(x, weight, bias, activation="relu"),
            "`activation` must be silu, swish or None, but is 'relu'; use one of these.",
        ),
        (
            lambda: causal_conv(x, weight[:4], bias),
            "`weight` must be [channels, width] for the channels of `x`, but is [4, 4] for 5; give each channel a row.",
        ),
        (
            lambda: causal_conv_step(x[..., 0], x[..., :2], weight, bias),
            (
                "`conv_state` must contain at least the width of the convolution - 1 inputs, but contains 2 of "
                "3; make it longer."
            ),
        ),
    ]
    for call, message in cases:
        with pytest.raises(ModelwrightError, match=f"^{re.escape(message)}$"):
            call()


def test_it_fits_the_slot() -> None:
    check_conformance(CausalConvolutionInterface, causal_conv)
