"""Causal depthwise convolution of Mamba-2 in PyTorch, for the convolution slots: full sequences and single tokens.

Dao and Gu 2024, arXiv 2405.21060, section 7: a convolution of a few positions, over x, B and C together. It is computed
as a sum of shifted products. The channels are the last dim, as in the projection before it and the scan after it. The
positions are processed in blocks that fit into the cache, and the backward pass recomputes each block.
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
    """Convolve and activate; same signature as `causal_conv1d_fn` of causal-conv1d.

    Args:
        x: `[b, channels, s]`.
        weight: `[channels, width]`; the last column belongs to the position itself.
        bias: `[channels]`. None: no bias.
        seq_idx: `[b, s]`, index of the packed sequence of each position, not decreasing along `s`. None: one sequence.
        initial_states: `[b, channels, width - 1]`, inputs before the first position. None: zeros.
        final_states_out: `[b, channels, width - 1]`, overwritten with the last inputs, without gradient. They are the
            `initial_states` of the next part of the sequence.
        activation: `"silu"`, its other name `"swish"`, or None.

    Returns:
        `[b, channels, s]` in the dtype of `x`.

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
    """Continue a convolution by one or a few tokens; same signature as the engine's `causal_conv1d_update`.

    Args:
        x: `[b, channels]`, or `[b, s, channels]` for a few tokens.
        conv_state: `[b, channels, length]`, the last inputs, at least width - 1 of them; changed in place. With
            `conv_state_indices`, `[rows of the cache, channels, length]`.
        weight: `[channels, width]`; the last column belongs to the position itself.
        bias: `[channels]`. None: no bias.
        activation: `"silu"`, its other name `"swish"`, or None.
        conv_state_indices: `[b]`, row of `conv_state` of each request. A negative row is padding: its state is neither
            read nor written, and its result is zero. None: the rows in order.
        intermediate_conv_states: `[rows, s, channels, length]`, overwritten with the state after each token, in the
            rows of `conv_state`. None: not stored.

    Returns:
        Tensor with the shape and dtype of `x`.

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
            f"`conv_state` must contain at least the width of the convolution - 1 inputs, but contains {length} of "
            f"{past}; make it longer."
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
    """Return the requests that are not padding, and the row of each in a cache of states.

    Args:
        indices: `[requests]`, row of each request, negative for padding. None: the rows in order.
        requests: Number of requests.
        device: Device of the result.

    Returns:
        Indices of the requests and their rows, both `[requests without padding]`.
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
    """Return the weight as `[width, channels]`, and the bias, or zero without one, in the dtype of the computation."""
    return weight.to(work).mT.contiguous(), weight.new_zeros((), dtype=work) if bias is None else bias.to(work)


def _summed(inputs: Tensor, taps: Tensor, bias: Tensor, seq_idx: Tensor | None) -> Tensor:
    """Convolve inputs `[b, width - 1 + s, channels]` to `[b, s, channels]`; `seq_idx` is `[b, width - 1 + s]`."""
    past = taps.size(0) - 1
    y = torch.addcmul(bias, inputs[:, past:], taps[past])
    for column in range(past):
        y.addcmul_(_seen(inputs, seq_idx, column, past), taps[column])
    return y


def _seen(inputs: Tensor, seq_idx: Tensor | None, column: int, past: int) -> Tensor:
    """Return, for each position, the input that a column of the weight applies to; zero from another sequence."""
    return _masked(inputs[:, column : inputs.size(1) - past + column], seq_idx, column, past)


def _masked(values: Tensor, seq_idx: Tensor | None, column: int, past: int) -> Tensor:
    """Set values to zero where a position and the input of a column belong to different sequences."""
    if seq_idx is None:
        return values
    return values * (seq_idx[:, column : seq_idx.size(1) - past + column] == seq_idx[:, past:])[..., None]


class _Convolution(torch.autograd.Function):
    """Convolution of x `[b, s, channels]` after past inputs `[b, width - 1, channels]`; saves only its arguments."""

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
        """Send the gradient of each position to the inputs it used: its own and those of a few positions before."""
        x, past, weight, bias, seq_idx = ctx.saved_tensors
        work, width = torch.promote_types(x.dtype, torch.float32), weight.size(1)
        taps, offset = _taps(weight, bias, work)
        # One tensor for past inputs and x, in the memory order that x has from a projection.
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
    """Return the positions of a block with the width - 1 before them; no block is shorter than that."""
    before = past.size(1)
    return x[:, block.start - before : block.stop] if block.start else torch.cat([past, x[:, block]], dim=1)


def _sequences(seq_idx: Tensor | None, past: Tensor, block: slice) -> Tensor | None:
    """Return the sequence indices of `_with_past`; past inputs belong to the sequence of the first position."""
    return None if seq_idx is None else _with_past(seq_idx, seq_idx[:, :1].expand(-1, past.size(1)), block)
