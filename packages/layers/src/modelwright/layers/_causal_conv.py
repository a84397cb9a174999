"""The causal depthwise convolution of Mamba in PyTorch, for the convolution slot: whole, and by single tokens.

Dao and Gu 2024, arXiv 2405.21060, section 7: a few positions wide, over x, B and C together. It is a sum of shifted
products, computed with the channels last, where they come from a projection and go to the scan.
"""

import torch
from torch import Tensor
from torch.nn.functional import silu

from modelwright.layers._recomputed import recomputed
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

    def convolved(past: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _convolved(torch.cat([past, x.mT], dim=1), weight, bias, activation, seq_idx).to(x.dtype).mT

    return recomputed(convolved, past, x, weight, bias)


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
    y[real] = _convolved(inputs[:, length - past :], weight, bias, activation, None).to(x.dtype)
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


def _convolved(
    inputs: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None, seq_idx: Tensor | None
) -> Tensor:
    """From inputs [b, width - 1 + s, channels] to [b, s, channels], in float32 at least."""
    work = torch.promote_types(inputs.dtype, torch.float32)
    inputs, weight = inputs.to(work), weight.to(work)
    past = weight.size(1) - 1
    s = inputs.size(1) - past
    y = inputs[:, past:] * weight[:, past]
    for column in range(past):
        seen = inputs[:, column : column + s]
        if seq_idx is not None:
            begin = seq_idx[:, :1].expand(-1, past - column)
            same = torch.cat([begin, seq_idx], dim=1)[:, :s] == seq_idx
            seen = seen * same[..., None]
        y = torch.addcmul(y, seen, weight[:, column])
    y = y if bias is None else y + bias.to(work)
    return y if activation is None else silu(y)
