"""Scan of Mamba-2 in PyTorch, for the scan slots of a mixer: chunked with its backward pass, and token by token.

Dao and Gu 2024, "Transformers are SSMs", arXiv 2405.21060. Per head, with state `h` of `[d, state]`:

    h_t = exp(dt_t A) h_(t-1) + dt_t x_t B_t^T        y_t = h_t C_t + D x_t

Section 6 and listing 1 divide the sequence into chunks: matrix products inside each chunk (`_outputs`), one state per
chunk (`_summed`), and a recurrence over the chunks only (`_passed`). Matrices of `[positions, positions]` per head
exist for a few chunks at a time, and the backward pass recomputes them. So memory grows linearly with the length, and
the products stay in the cache.

Decays are differences of logarithms that are summed in float64. Their rounding errors in float32 become one factor per
position (`_factors`). The base is 2, because PyTorch computes 2^x several times faster than e^x on a CPU, above all
where results underflow. The contribution of a position to itself has no decay and is computed separately. Otherwise the
gradients of decays would be small differences of large sums.

Names of dims: `c` chunks of `l` positions, `g` groups, `r` heads per group, `m` = b * c.
"""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad, silu, softplus

from modelwright.layers.mamba.causal_convolution import state_rows
from modelwright.protocols import ModelwrightError

_ELEMENTS = {"cpu": 2**18}
"""Number of elements of `[positions, positions]` matrices that exist at once; on a CPU they fit into its cache."""
_ELEMENTS_ELSEWHERE = 2**26
_NOTHING_LEFT = -1100.0
"""Logarithm to base 2 of the decay of one position below which the decay is zero even in float64."""


def ssd_scan(  # noqa: PLR0917 - the kernel's arguments
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    chunk_size: int,
    *,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    seq_idx: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, math.inf),
    return_final_states: bool = False,
    state_dtype: torch.dtype | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Scan a sequence; same signature as `mamba_chunk_scan_combined` of mamba-ssm.

    Computes in float32, or in float64 if `x` is float64. The chunk size changes speed and memory, not the result.

    Args:
        x: `[b, s, n, d]`.
        dt: `[b, s, n]`, step sizes before `dt_bias`, softplus and limits.
        A: `[n]`, negative decay rates.
        B: `[b, s, groups, state]`; each group belongs to n / groups consecutive heads.
        C: `[b, s, groups, state]`.
        chunk_size: Number of positions in a chunk; need not divide `s`.
        D: `[n]` or `[n, d]`, skip coefficients. None: no skip.
        z: `[b, s, n, d]`, gate: the result is multiplied by silu(z). None: no gate.
        dt_bias: `[n]`, added to `dt`. None: nothing.
        initial_states: `[b, n, d, state]`, states before the first position. None: zeros.
        seq_idx: `[b, s]`, index of the packed sequence of each position, not decreasing along `s`. None: one sequence.
        dt_softplus: True to apply softplus to `dt`.
        dt_limit: Bounds of `dt` after softplus.
        return_final_states: True to return the states after the last position too.
        state_dtype: Dtype of the returned states. None: that of the computation.

    Returns:
        `[b, s, n, d]` in the dtype of `x`; with `return_final_states` also the states `[b, n, d, state]`.

    Raises:
        ModelwrightError: The shapes do not fit each other.
    """
    _check(x, dt, B, C, chunk_size)
    b, s, n, d = x.shape
    g, state_size = B.shape[2:]
    work = torch.promote_types(x.dtype, torch.float32)
    dt = _steps(dt.to(work), dt_bias, dt_softplus, dt_limit)
    length = max(1, min(chunk_size, s))
    steps = _chunks(dt, length, (g, n // g))
    log = (steps.double() * (A.double() / math.log(2)).view(g, -1)).clamp(min=_NOTHING_LEFT).cumsum(2)
    first = torch.zeros(b, n, d, state_size, dtype=work, device=x.device)
    first = first if initial_states is None else initial_states.to(work)
    first = first.reshape(b, g, n // g, d, state_size).permute(0, 1, 4, 2, 3)
    values = _chunks(x, length, (g, n // g, d))
    # Copies: a view would keep the tensor that contains both alive until the backward pass.
    keys, queries = (_chunks(part.contiguous(), length, (g, state_size)) for part in (B, C))
    sequences = None if seq_idx is None else _chunks(seq_idx, length, (), last=True)
    passing = (steps * (keys.to(work) * queries.to(work)).sum(-1, keepdim=True))[..., None]
    passing = passing if D is None else passing + D.to(work).view(g, n // g, -1)
    y, final = cast("tuple[Tensor, Tensor]", _Scan.apply(values, steps, log, keys, queries, first, passing, sequences))
    y = _gated(y.reshape(b, -1, n, d)[:, :s], z).to(x.dtype)
    if not return_final_states:
        return y
    return y, final.permute(0, 1, 3, 4, 2).reshape(b, n, d, state_size).to(state_dtype or work)


def ssd_step(  # noqa: PLR0917 - the kernel's arguments
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    *,
    dt_softplus: bool = False,
    state_batch_indices: Tensor | None = None,
    intermediate_ssm_states: Tensor | None = None,
) -> Tensor:
    """Continue a scan by one or a few tokens; same signature as the engine's `selective_state_update`.

    Computes the recurrence directly, at a cost that does not depend on the tokens before. Where the engine repeats a
    value over `d` or the state, a dim of size 1 is enough.

    Args:
        state: `[b, n, d, state]`, changed in place. With `state_batch_indices`, `[rows of the cache, n, d, state]`.
        x: `[b, n, d]`, or `[b, s, n, d]` for a few tokens.
        dt: Shape of `x`, or 1 in place of `d`; step sizes before `dt_bias` and softplus.
        A: `[n, d, state]`, negative decay rates.
        B: `[b, groups, state]`, or `[b, s, groups, state]`.
        C: Shape of `B`.
        D: `[n, d]`, skip coefficients. None: no skip.
        z: Shape of `x`, gate: the result is multiplied by silu(z). None: no gate.
        dt_bias: `[n, d]`, added to `dt`. None: nothing.
        dt_softplus: True to apply softplus to `dt`.
        state_batch_indices: `[b]`, row of `state` of each request. A negative row is padding: its state is neither read
            nor written, and its result is zero. None: the rows in order.
        intermediate_ssm_states: `[rows, s, n, d, state]`, overwritten with the state after each token, in the rows of
            `state`. None: not stored.

    Returns:
        Tensor with the shape and dtype of `x`.
    """
    if x.dim() == 3:
        gate = None if z is None else z.unsqueeze(1)
        return ssd_step(
            state, x.unsqueeze(1), dt.unsqueeze(1), A, B.unsqueeze(1), C.unsqueeze(1), D, gate, dt_bias,
            dt_softplus=dt_softplus, state_batch_indices=state_batch_indices,
            intermediate_ssm_states=intermediate_ssm_states,
        ).squeeze(1)  # fmt: skip
    work = torch.promote_types(x.dtype, torch.float32)
    real, rows = state_rows(state_batch_indices, x.size(0), x.device)
    steps = _steps(dt[real].to(work), dt_bias, dt_softplus, (-math.inf, math.inf))[..., None]
    decay = torch.exp(steps * A.to(work))
    heads = x.size(2) // B.size(2)
    keys, queries = (part[real].to(work).repeat_interleave(heads, dim=2)[..., None, :] for part in (B, C))
    taken = steps * x[real].to(work)[..., None] * keys
    current, outputs = state[rows].to(work), x.new_zeros(x.shape, dtype=work)
    for position in range(x.size(1)):
        current = current * decay[:, position] + taken[:, position]
        outputs[real, position] = (current * queries[:, position]).sum(-1)
        if intermediate_ssm_states is not None:
            intermediate_ssm_states[rows, position] = current.to(intermediate_ssm_states.dtype)
    state[rows] = current.to(state.dtype)
    y = outputs[real] if D is None else torch.addcmul(outputs[real], x[real].to(work), D.to(work))
    outputs[real] = _gated(y, None if z is None else z[real])
    return outputs.to(x.dtype)


def _check(x: Tensor, dt: Tensor, B: Tensor, C: Tensor, chunk_size: int) -> None:
    if chunk_size < 1:
        raise ModelwrightError(f"`chunk_size` must be at least 1, but is {chunk_size}; 64 to 256 are fast.")
    if x.dim() != 4 or dt.shape != x.shape[:3]:
        raise ModelwrightError(
            f"`dt` must be [b, s, n] for `x` of [b, s, n, d], but `dt` is {list(dt.shape)} and `x` {list(x.shape)}; "
            "give both the same batch, length and number of heads."
        )
    if B.shape != C.shape or B.dim() != 4 or B.shape[:2] != x.shape[:2]:
        raise ModelwrightError(
            f"`B` and `C` must be [b, s, groups, state] with the `x` of [b, s, n, d], but are {list(B.shape)} and "
            f"{list(C.shape)} with {list(x.shape)}; give all three the same batch and length."
        )
    if x.size(2) % B.size(2):
        raise ModelwrightError(
            f"The groups of `B` and `C` must divide the heads of `x`, but {B.size(2)} does not divide {x.size(2)}; "
            "use another number of groups."
        )


def _steps(dt: Tensor, bias: Tensor | None, softened: bool, limits: tuple[float, float]) -> Tensor:  # noqa: FBT001
    dt = dt if bias is None else dt + bias.to(dt.dtype)
    dt = softplus(dt) if softened else dt
    return dt if limits == (-math.inf, math.inf) else dt.clamp(*limits)


def _gated(y: Tensor, z: Tensor | None) -> Tensor:
    return y if z is None else y * silu(z.to(y.dtype))


def _chunks(part: Tensor, length: int, tail: tuple[int, ...], *, last: bool = False) -> Tensor:
    """Reshape `[b, s, ...]` to `[b, c, l, *tail]`, padded with zeros or with the last position."""
    fill = -part.size(1) % length
    if fill and last:
        part = torch.cat([part, part[:, -1:].expand(-1, fill)], dim=1)
    elif fill:
        part = pad(part, (0, 0) * (part.dim() - 2) + (0, fill))
    return part.reshape(part.size(0), part.size(1) // length, length, *tail)


class _Factors(NamedTuple):
    """Decays of each position; decays between two positions follow from `log`."""

    log: Tensor
    """Logarithm to base 2 of the decay from the beginning of the chunk, in the dtype of the computation,
    `[m, g, r, l]`."""
    mask: Tensor
    """-inf where a position does not use another, else 0; `[l, l]` or `[m, 1, 1, l, l]`."""
    low: Tensor
    """Rounding error of `log` as a factor on the later position, `[m, l, g, r, 1]`."""
    back: Tensor
    """Rounding error of `log` as a factor on the earlier position, `[m, l, g, r, 1]`."""
    enter: Tensor
    """Decay from the beginning of the chunk, `[m, l, g, r, 1]`; 0 if another sequence begins in between."""
    leave: Tensor
    """Decay to the end of the chunk, `[m, l, g, r, 1]`; 0 if another sequence begins in between."""
    total: Tensor
    """Decay over the full chunk, `[b, c, g, 1, r, 1]`; 0 if another sequence begins in it."""

    def at(self, block: slice) -> "_Factors":
        """Select some chunks, except in `total`."""
        mask = self.mask if self.mask.dim() == 2 else self.mask[block]
        low, back, enter, leave = (part[block] for part in (self.low, self.back, self.enter, self.leave))
        return self._replace(log=self.log[block], mask=mask, low=low, back=back, enter=enter, leave=leave)


def _factors(log: Tensor, sequences: Tensor | None, work: torch.dtype) -> _Factors:
    """Compute decays from their summed logarithms `[b, c, l, g, r]`, and the mask from sequence indices `[b, c, l]`."""
    rounded, end = log.to(work), log[:, :, -1:]
    lost = (log - rounded).to(work)
    enter, leave, total = (part.to(work).exp2() for part in (log, end - log, end))
    positions = torch.ones(log.size(2), log.size(2), dtype=torch.bool, device=log.device)
    mask = torch.zeros(positions.shape, dtype=work, device=log.device).masked_fill_(positions.triu(), -math.inf)
    if sequences is not None:
        last = sequences[:, :, -1:]
        carried = torch.cat([sequences[:, :1, :1], last[:, :-1]], dim=1)
        enter = enter * (sequences == carried)[..., None, None]
        leave = leave * (sequences == last)[..., None, None]
        total = total * (last == carried)[..., None, None]
        mask = mask.masked_fill(sequences[..., :, None] != sequences[..., None, :], -math.inf)
        mask = mask.flatten(0, 1)[:, None, None]
    low, back, enter, leave = (part.flatten(0, 1)[..., None] for part in (lost.exp2(), (-lost).exp2(), enter, leave))
    by_head = rounded.flatten(0, 1).permute(0, 2, 3, 1).contiguous()
    return _Factors(by_head, mask, low, back, enter, leave, total.permute(0, 1, 3, 2, 4)[..., None])


class _Parts(NamedTuple):
    """Inputs of the chunks, or their gradients."""

    x: Tensor
    """`[m, l, g, r, d]`."""
    B: Tensor
    """`[m, l, g, state]`."""
    C: Tensor
    """`[m, l, g, state]`."""
    steps: Tensor
    """Step sizes, `[m, l, g, r, 1]`."""
    before: Tensor
    """States before each chunk, `[m, g, state, r, d]`."""
    passing: Tensor
    """Coefficients of each position's contribution to itself, `[m, l, g, r, 1 or d]`."""

    def at(self, block: slice) -> "_Parts":
        """Select some chunks, in the dtype of the computation."""
        return _Parts(*(part[block].to(self.steps.dtype) for part in self))


def _parts(  # noqa: PLR0917 - as the arguments of the scan
    x: Tensor, dt: Tensor, B: Tensor, C: Tensor, first: Tensor, passing: Tensor, factors: _Factors
) -> tuple[_Parts, Tensor]:
    """Return the inputs of the chunks, with the state before each of them, and the last state."""
    steps = dt.flatten(0, 1)[..., None]
    inputs = _summed(B, x, steps * factors.leave)
    before, final = _passed(inputs, factors.total, first, range(x.size(1)))
    values, keys, queries, before, passing = (part.flatten(0, 1) for part in (x, B, C, before, passing))
    return _Parts(values, keys, queries, steps, before, passing), final


class _Scan(torch.autograd.Function):
    """Scan over chunks.

    Arguments, in order:
    - x, `[b, c, l, g, r, d]`, and dt, `[b, c, l, g, r]`
    - the logarithms of the decays to base 2, summed within each chunk, with the shape of dt in float64
    - B and C, `[b, c, l, g, state]`, and the initial states, `[b, g, state, r, d]`
    - the coefficients of each position's contribution to itself, `[b, c, l, g, r, 1 or d]`
    - sequence indices, `[b, c, l]` or None

    Results: y with the shape of x, and the final states.
    """

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd takes no keywords
        ctx: Any,
        x: Tensor,
        dt: Tensor,
        log: Tensor,
        B: Tensor,
        C: Tensor,
        first: Tensor,
        passing: Tensor,
        sequences: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Scan; saves only the arguments, which are contiguous so that `backward` can write gradients into views."""
        dt, x, keys, queries, passing = (part.contiguous() for part in (dt, x, B, C, passing))
        ctx.save_for_backward(x, dt, log, keys, queries, first, passing, sequences)
        factors = _factors(log, sequences, dt.dtype)
        parts, final = _parts(x, dt, keys, queries, first, passing, factors)
        y = torch.empty(x.shape, dtype=dt.dtype, device=x.device)
        for block in _blocks(x):
            _outputs(y.flatten(0, 1)[block], parts.at(block), factors.at(block))
        return y, final

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - the decorator forgets names
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        """Return the gradients of the first seven arguments; see `_gradients` for the derivation."""
        gy, gfinal = gradients[0].contiguous(), gradients[1]
        x, dt, log, B, C, first, passing, sequences = ctx.saved_tensors
        factors = _factors(log, sequences, dt.dtype)
        parts, final = _parts(x, dt, B, C, first, passing, factors)
        gafter, gfirst = _passed(_summed(C, gy, factors.enter), factors.total, gfinal, reversed(range(x.size(1))))
        made = _Parts(*(torch.empty_like(part) for part in (x, B, C, dt, gafter, passing)))
        grown = torch.empty_like(dt)
        for block in _blocks(x):
            into = _Parts(*(part.flatten(0, 1)[block] for part in made))
            outer = gy.flatten(0, 1)[block], gafter.flatten(0, 1)[block]
            grown.flatten(0, 1)[block] = _gradients(into, *outer, parts.at(block), factors.at(block))
        glog = grown.double() - dt.double() * made.steps
        if x.size(1):
            before = parts.before.reshape(gafter.shape)
            glog[:, :-1, -1] += (before[:, 1:] * gafter[:, :-1]).sum((3, 5))
            glog[:, -1, -1] += (final * gafter[:, -1]).sum((2, 4))
        return made.x, made.steps, glog * math.log(2), made.B, made.C, gfirst, made.passing, None


def _blocks(x: Tensor) -> list[slice]:
    """Divide the chunks into blocks, so that the matrices `[l, l]` per head stay below a number of elements."""
    b, c, length, g, r, _ = x.shape
    step = max(1, _ELEMENTS.get(x.device.type, _ELEMENTS_ELSEWHERE) // (length * length * g * r))
    return [slice(start, start + step) for start in range(0, b * c, step)]


def _summed(rows: Tensor, values: Tensor, weights: Tensor) -> Tensor:
    """Sum, over the positions of each chunk, rows `[.., l, g, state]` times weighted values `[.., l, g, r, d]`."""
    b, c, _, g, r, d = values.shape
    sums = torch.empty(b, c, g, rows.size(-1), r, d, dtype=weights.dtype, device=rows.device)
    for block in _blocks(values):
        row, value = (part.flatten(0, 1)[block].to(weights.dtype) for part in (rows, values))
        weighted = (value * weights[block]).flatten(3).transpose(1, 2)
        torch.matmul(row.permute(0, 2, 3, 1), weighted, out=sums.flatten(0, 1)[block].flatten(3))
    return sums


def _passed(inputs: Tensor, total: Tensor, state: Tensor, order: Iterable[int]) -> tuple[Tensor, Tensor]:
    """Run the recurrence over chunks; return the state before each chunk, and the last state."""
    met = torch.empty_like(inputs)
    for chunk in order:
        met[:, chunk] = state
        state = torch.addcmul(inputs[:, chunk], state, total[:, chunk])
    return met, state.clone()


def _by_head(values: Tensor, weights: Tensor) -> Tensor:
    """Return weighted values `[m, l, g, r, d]` as `[m, g, r, l, d]`."""
    m, length, g, r, d = values.shape
    made = torch.empty(m, g, r, length, d, dtype=weights.dtype, device=values.device)
    return torch.mul(values.permute(0, 2, 3, 1, 4), weights.permute(0, 2, 3, 1, 4), out=made)


def _decays(factors: _Factors) -> Tensor:
    """Return the decays from each position to each later one, `[m, g, r, l, l]`: L of section 6 without diagonal."""
    decays = factors.log[..., :, None] - factors.log[..., None, :]
    return decays.add_(factors.mask).exp2_()


def _outputs(y: Tensor, parts: _Parts, factors: _Factors) -> None:
    """Write y of some chunks, from the earlier positions of the chunk and the state before it."""
    keys, queries = parts.B.transpose(1, 2), parts.C.transpose(1, 2)
    mixing = _decays(factors).mul_((queries @ keys.mT)[:, :, None])
    inside = mixing @ _by_head(parts.x, parts.steps * factors.back)
    torch.mul(inside.permute(0, 3, 1, 2, 4), factors.low, out=y)
    y.addcmul_((queries @ parts.before.flatten(3)).transpose(1, 2).reshape(y.shape), factors.enter)
    y.addcmul_(parts.x, parts.passing)


def _gradients(into: _Parts, gy: Tensor, gafter: Tensor, parts: _Parts, factors: _Factors) -> Tensor:
    """Write the gradients of some chunks; that of dt without its part through the decays.

    That part needs no further matrices. Let `log_t` be the logarithm of the decay from the beginning of the chunk to t.
    The gradient through the positions that t uses is y_t gy_t, and through the positions that use t it is -x_t gx_t.
    The first is returned, `[m, l, g, r]`; it follows from products that exist anyway, so y is not saved. The second is
    the gradient of dt times dt.
    """
    keys, queries, x = parts.B.transpose(1, 2), parts.C.transpose(1, 2), parts.x
    before, gafter = parts.before.flatten(3), gafter.flatten(3)
    scores = (queries @ keys.mT)[:, :, None]
    decays, gy_heads = _decays(factors), _by_head(gy, factors.low)
    gmixing = (gy_heads @ _by_head(x, parts.steps * factors.back).mT).mul_(decays)
    gscores = gmixing.sum(2)
    grown = gmixing.mul_(scores).sum(-1).permute(0, 3, 1, 2)
    gx_inside = (decays.mul_(scores).mT @ gy_heads).permute(0, 3, 1, 2, 4)
    gx = (keys @ gafter).transpose(1, 2).reshape(x.shape).mul(factors.leave).addcmul_(gx_inside, factors.back)
    into.steps.copy_((gx * x).sum(-1))
    into.x.copy_(gx.mul_(parts.steps).addcmul_(gy, parts.passing))
    into.passing.copy_((gy * x).sum_to_size(parts.passing.shape))
    seen, given = gy * factors.enter, (x * (parts.steps * factors.leave)).flatten(3)
    grown = grown + ((queries @ before).transpose(1, 2).reshape(x.shape).mul_(seen)).sum(-1)
    seen = seen.flatten(3)
    into.C.copy_((gscores @ keys + seen.transpose(1, 2) @ before.mT).transpose(1, 2))
    into.B.copy_((gscores.mT @ queries + given.transpose(1, 2) @ gafter.mT).transpose(1, 2))
    return grown
