"""The causal depthwise convolution of Mamba in PyTorch, for the convolution slot: whole, and by single tokens.

Dao and Gu 2024, arXiv 2405.21060, section 7: a few positions wide, over x, B and C together. It is a sum of shifted
products, computed with the channels last, where they come from a projection and go to the scan, in blocks of positions
that stay in the cache; the backward pass computes each block again.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import silu

from modelwright.layers.mamba.cached_blocks import cached_blocks
from modelwright.protocols import ModelwrightError


def causal_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    seq_idx: Tensor | None = None,
    initial_states: Tensor | None = None,
    final_states_out: Tensor | None = None,
    activation: str | None = None,
) -> Tensor:
    """Convolve and activate, in the arguments of causal-conv1d's `causal_conv1d_fn`.

    Args:
        x: `[b, channels, s]`.
        weight: `[channels, width]`, the last column for the position itself.
        bias: `[channels]`.
        seq_idx: `[b, s]`, which packed sequence a position belongs to, never falling along `s`.
        initial_states: `[b, channels, width - 1]`, the inputs before the first position; None for zeros.
        final_states_out: `[b, channels, width - 1]`, takes the last inputs, which continue the sequence as
            `initial_states`; without gradient.
        activation: `"silu"`, its other name `"swish"`, or None.

    Returns:
        `[b, channels, s]` in the type of `x`.

    Raises:
        ModelwrightError: Another activation, or a weight for another number of channels.
    """
    _check(x.size(1), weight, activation)
    width, s = weight.size(1), x.size(2)
    past = x.new_zeros(x.size(0), width - 1, x.size(1)) if initial_states is None else initial_states.mT.to(x.dtype)
    if final_states_out is not None:
        tail = torch.cat([past, x[..., max(0, s - width + 1) :].mT], dim=1)
        final_states_out.copy_(tail[:, tail.size(1) - width + 1 :].mT.detach())

    result: Tensor = _Convolution.apply(x.mT, past, weight, bias, seq_idx, activation)
    return result.mT


def causal_conv_step(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    *,
    conv_state_indices: Tensor | None = None,
    intermediate_conv_states: Tensor | None = None,
) -> Tensor:
    """Continue a convolution by one token or a few, in the arguments of the engine's `causal_conv1d_update`.

    Args:
        x: `[b, channels]`, or `[b, s, channels]` for a few tokens.
        conv_state: `[b, channels, length]`, the last inputs, at least width - 1 of them; changed in place. With
            `conv_state_indices` as many rows as the cache has.
        weight: `[channels, width]`, the last column for the position itself.
        bias: `[channels]`.
        activation: `"silu"`, its other name `"swish"`, or None.
        conv_state_indices: `[b]`, the row of `conv_state` of each request; a negative one is padding, whose state is
            neither read nor written and whose result is zero.
        intermediate_conv_states: `[rows, s, channels, length]`, takes the state after each token, in the rows of
            `conv_state`.

    Returns:
        The shape and type of `x`.

    Raises:
        ModelwrightError: Another activation, a weight for another number of channels, or a state that is too short.
    """
    if x.dim() == 2:
        return causal_conv_step(
            x.unsqueeze(1), conv_state, weight, bias, activation, conv_state_indices=conv_state_indices,
            intermediate_conv_states=intermediate_conv_states,
        ).squeeze(1)  # fmt: skip
    _check(x.size(2), weight, activation)
    s, length, past = x.size(1), conv_state.size(2), weight.size(1) - 1
    if length < past:
        raise ModelwrightError(
            f"`conv_state` must hold at least the width of the convolution - 1 inputs, but holds {length} of {past}; "
            "make it longer."
        )
    real, rows = state_rows(conv_state_indices, x.size(0), x.device)
    inputs = torch.cat([conv_state[rows].mT, x[real].to(conv_state.dtype)], dim=1)
    if intermediate_conv_states is not None:
        for position in range(s):
            state = inputs[:, position + 1 : position + 1 + length].mT
            intermediate_conv_states[rows, position] = state.to(intermediate_conv_states.dtype)
    conv_state[rows] = inputs[:, s:].mT
    y = torch.zeros_like(x)
    work = torch.promote_types(inputs.dtype, torch.float32)
    found = _summed(inputs[:, length - past :].to(work), *_taps(weight, bias, work), None)
    y[real] = (found if activation is None else silu(found)).to(x.dtype)
    return y


def state_rows(indices: Tensor | None, requests: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The requests that are no padding, and the row in a cache of states of each.

    Args:
        indices: `[requests]`, a row each, negative for padding; None for the rows in order.
        requests: How many there are.
        device: Where the answer goes.

    Returns:
        Two tensors of one length.
    """
    if indices is None:
        everything = torch.arange(requests, device=device)
        return everything, everything
    real = (indices >= 0).nonzero().flatten()
    return real, indices[real].long()


def _check(channels: int, weight: Tensor, activation: str | None) -> None:
    if activation not in ("silu", "swish", None):
        raise ModelwrightError(f"`activation` must be silu, swish or None, but is {activation!r}; use one of these.")
    if weight.dim() != 2 or weight.size(0) != channels:
        raise ModelwrightError(
            f"`weight` must be [channels, width] for the channels of `x`, but is {list(weight.shape)} for {channels}; "
            "give each channel a row."
        )


def _taps(weight: Tensor, bias: Tensor | None, work: torch.dtype) -> tuple[Tensor, Tensor]:
    """The weight as one row of channels per column, and the bias, zero without one."""
    return weight.to(work).mT.contiguous(), weight.new_zeros((), dtype=work) if bias is None else bias.to(work)


def _summed(inputs: Tensor, taps: Tensor, bias: Tensor, seq_idx: Tensor | None) -> Tensor:
    """From inputs [b, width - 1 + s, channels], of the sequences [b, width - 1 + s], to [b, s, channels]."""
    past = taps.size(0) - 1
    y = torch.addcmul(bias, inputs[:, past:], taps[past])
    for column in range(past):
        y.addcmul_(_seen(inputs, seq_idx, column, past), taps[column])
    return y


def _seen(inputs: Tensor, seq_idx: Tensor | None, column: int, past: int) -> Tensor:
    """What each position has of the input that a column of the weight is for; nothing from another sequence."""
    return _masked(inputs[:, column : inputs.size(1) - past + column], seq_idx, column, past)


def _masked(values: Tensor, seq_idx: Tensor | None, column: int, past: int) -> Tensor:
    """Zero where a position and the input that a column is for belong to two sequences."""
    if seq_idx is None:
        return values
    return values * (seq_idx[:, column : seq_idx.size(1) - past + column] == seq_idx[:, past:])[..., None]


class _Convolution(torch.autograd.Function):
    """From x [b, s, channels], and what was before it [b, width - 1, channels]; only the arguments are kept."""

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd takes no keywords
        ctx: Any,
        x: Tensor,
        past: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        seq_idx: Tensor | None,
        activation: str | None,
    ) -> Tensor:
        ctx.save_for_backward(x, past, weight, bias, seq_idx)
        ctx.activated = activation is not None
        work = torch.promote_types(x.dtype, torch.float32)
        taps, offset = _taps(weight, bias, work)
        y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        for block in cached_blocks(x, 1, least=past.size(1)):
            summed = _summed(_with_past(x, past, block).to(work), taps, offset, _sequences(seq_idx, past, block))
            y[:, block] = silu(summed, inplace=True) if ctx.activated else summed
        return y

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - the decorator forgets names
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        """A position's gradient goes to the inputs that it saw: to itself, and to those a few rows before."""
        x, past, weight, bias, seq_idx = ctx.saved_tensors
        work, width = torch.promote_types(x.dtype, torch.float32), weight.size(1)
        taps, offset = _taps(weight, bias, work)
        # One tensor for what was before and x, in the order of memory that x has from a projection.
        ginputs = torch.zeros(past.size(1) + x.size(1), x.size(0), x.size(2), dtype=work, device=x.device)
        ginputs = ginputs.transpose(0, 1)
        gtaps, goffset = torch.zeros_like(taps), torch.zeros(x.size(2), dtype=work, device=x.device)
        for block in cached_blocks(x, 1, least=past.size(1)):
            inputs, sequences = _with_past(x, past, block).to(work), _sequences(seq_idx, past, block)
            gsum = gradients[0][:, block].to(work)
            if ctx.activated:
                gsum = torch.ops.aten.silu_backward(gsum, _summed(inputs, taps, offset, sequences))
            goffset += gsum.sum((0, 1))
            for column in range(width):
                gtaps[column] += (gsum * _seen(inputs, sequences, column, width - 1)).sum((0, 1))
                seen = ginputs[:, block.start + column : block.stop + column]
                seen.addcmul_(_masked(gsum, sequences, column, width - 1), taps[column])
        given, before = ginputs.to(x.dtype), past.size(1)
        gbias = None if bias is None else goffset.to(bias.dtype)
        return given[:, before:], given[:, :before], gtaps.mT.to(weight.dtype), gbias, None, None


def _with_past(x: Tensor, past: Tensor, block: slice) -> Tensor:
    """Some positions and the width - 1 before them; a block is not shorter than that."""
    before = past.size(1)
    return x[:, block.start - before : block.stop] if block.start else torch.cat([past, x[:, block]], dim=1)


def _sequences(seq_idx: Tensor | None, past: Tensor, block: slice) -> Tensor | None:
    """The sequences of the same; what was before the first position belongs to its sequence."""
    return None if seq_idx is None else _with_past(seq_idx, seq_idx[:, :1].expand(-1, past.size(1)), block)
