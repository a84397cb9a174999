"""The scan of Mamba-2 in PyTorch, for the scan slot of a mixer: chunked, forward and backward, and one token at a time.

Dao and Gu 2024, "Transformers are SSMs", arXiv 2405.21060. Per head, with state `h` of `[d, state]`:

    h_t = exp(dt_t A) h_(t-1) + dt_t x_t B_t^T        y_t = h_t C_t + D x_t

Section 6 and listing 1 cut the sequence into chunks: matrix products inside each chunk (`_outputs`), one state per
chunk (`_summed`), and a recurrence over the chunks alone (`_passed`). What is `[positions, positions]` per head lives
for a few chunks at a time and is made anew in the backward pass, so memory grows with the length alone and the products
stay in the cache.

Decays are differences of logarithms summed in float64; what float32 cannot hold of them becomes a factor per position
(`_factors`). The base is 2, whose exponential PyTorch computes several times faster on a CPU, above all where results
underflow. What a position gives to itself knows no decay and stays apart, or the gradients of decays would be small
differences of large sums.

Dims inside: `c` chunks of `l` positions, `g` groups, `r` heads per group, `m` = b * c.
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
"""How many elements of `[positions, positions]` are held at once: on a CPU what its cache holds."""
_ELEMENTS_ELSEWHERE = 2**26
_NOTHING_LEFT = -1100.0
"""To base 2, the decay of one position below which even float64 has zero; sums of it still round to a small part."""


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
    """Scan a sequence, in the arguments of mamba-ssm's `mamba_chunk_scan_combined`.

    Computes in float32, in float64 if `x` is float64. The chunk size changes speed and memory, not the result.

    Args:
        x: `[b, s, n, d]`.
        dt: `[b, s, n]`, the step sizes before `dt_bias`, softplus and limits.
        A: `[n]`, negative.
        B: `[b, s, groups, state]`; each group serves n / groups heads in a row.
        C: `[b, s, groups, state]`.
        chunk_size: Positions computed at once; need not divide `s`.
        D: `[n]` or `[n, d]`: what of `x` passes by.
        z: `[b, s, n, d]`, a gate: the result is multiplied by silu(z).
        dt_bias: `[n]`.
        initial_states: `[b, n, d, state]`, continued by the sequence of the first position; None for zeros.
        seq_idx: `[b, s]`, which packed sequence a position belongs to, never falling along `s`.
        dt_softplus: Whether softplus makes `dt` positive.
        dt_limit: The smallest and the largest `dt`, after softplus.
        return_final_states: Whether to return the states after the last position.
        state_dtype: Type of the states returned; what was computed in when None.

    Returns:
        `[b, s, n, d]` in the type of `x`, and with `return_final_states` the states `[b, n, d, state]`.

    Raises:
        ModelwrightError: Shapes that do not fit each other.
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
    # Copies, or what both are parts of would be kept for the backward pass.
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
    """Continue a scan by one token or a few, in the arguments of the engine's `selective_state_update`.

    The recurrence as it stands; its cost does not depend on what came before. Where the engine repeats a value over `d`
    or the state, a dim of size 1 does as well.

    Args:
        state: `[b, n, d, state]`, changed in place; with `state_batch_indices` as many rows as the cache has.
        x: `[b, n, d]`, or `[b, s, n, d]` for a few tokens.
        dt: As `x`, or 1 for `d`; before `dt_bias` and softplus.
        A: `[n, d, state]`, negative.
        B: `[b, groups, state]`, or `[b, s, groups, state]`.
        C: As `B`.
        D: `[n, d]`: what of `x` passes by.
        z: As `x`, a gate: the result is multiplied by silu(z).
        dt_bias: `[n, d]`.
        dt_softplus: Whether softplus makes `dt` positive.
        state_batch_indices: `[b]`, the row of `state` of each request; a negative one is padding, whose state is
            neither read nor written and whose result is zero.
        intermediate_ssm_states: `[rows, s, n, d, state]`, takes the state after each token, in the rows of `state`.

    Returns:
        The shape and type of `x`.
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
            "give both one batch, length and number of heads."
        )
    if B.shape != C.shape or B.dim() != 4 or B.shape[:2] != x.shape[:2]:
        raise ModelwrightError(
            f"`B` and `C` must be [b, s, groups, state] with the `x` of [b, s, n, d], but are {list(B.shape)} and "
            f"{list(C.shape)} with {list(x.shape)}; give all three one batch and length."
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
    """[b, s, ...] as [b, c, l, *tail], filled up with zeros or with the last position."""
    fill = -part.size(1) % length
    if fill and last:
        part = torch.cat([part, part[:, -1:].expand(-1, fill)], dim=1)
    elif fill:
        part = pad(part, (0, 0) * (part.dim() - 2) + (0, fill))
    return part.reshape(part.size(0), part.size(1) // length, length, *tail)


class _Factors(NamedTuple):
    """Decays of every position, [m, l, g, r, 1] where nothing else is said; those between two positions apart."""

    log: Tensor
    """[m, g, r, l]: the decay from the beginning of the chunk, to base 2, rounded to the type of the computation."""
    mask: Tensor
    """[l, l] or [m, 1, 1, l, l]: -inf where a position does not see another."""
    low: Tensor
    """What `log` lost by rounding, as a factor on the position that sees."""
    back: Tensor
    """The same on the position that is seen."""
    enter: Tensor
    """From the beginning of the chunk; 0 for another sequence."""
    leave: Tensor
    """To the end of the chunk; 0 for another sequence."""
    total: Tensor
    """[b, c, g, 1, r, 1]: over the whole chunk; 0 for another sequence."""

    def at(self, block: slice) -> "_Factors":
        """Those of some chunks; `total` stays."""
        mask = self.mask if self.mask.dim() == 2 else self.mask[block]
        low, back, enter, leave = (part[block] for part in (self.low, self.back, self.enter, self.leave))
        return self._replace(log=self.log[block], mask=mask, low=low, back=back, enter=enter, leave=leave)


def _factors(log: Tensor, sequences: Tensor | None, work: torch.dtype) -> _Factors:
    """Decays from their summed logarithms [b, c, l, g, r], and who sees whom from the sequences [b, c, l]."""
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
    """What a chunk reads: [m, l, ...], the states [m, g, state, r, d], what passes by [m, l, g, r, 1 or d]."""

    x: Tensor
    B: Tensor
    C: Tensor
    steps: Tensor
    before: Tensor
    passing: Tensor

    def at(self, block: slice) -> "_Parts":
        """Some chunks, in the type of the computation."""
        return _Parts(*(part[block].to(self.steps.dtype) for part in self))


def _parts(  # noqa: PLR0917 - as the scan takes them
    x: Tensor, dt: Tensor, B: Tensor, C: Tensor, first: Tensor, passing: Tensor, factors: _Factors
) -> tuple[_Parts, Tensor]:
    """What the chunks read, the state before each of them too, and the last state."""
    steps = dt.flatten(0, 1)[..., None]
    inputs = _summed(B, x, steps * factors.leave)
    before, final = _passed(inputs, factors.total, first, range(x.size(1)))
    values, keys, queries, before, passing = (part.flatten(0, 1) for part in (x, B, C, before, passing))
    return _Parts(values, keys, queries, steps, before, passing), final


class _Scan(torch.autograd.Function):
    """What each position takes from those before it and from itself, over chunks.

    Takes x [b, c, l, g, r, d], dt [b, c, l, g, r], the logarithms of the decays to base 2 summed within each chunk (the
    shape of dt, float64), B and C [b, c, l, g, state], the first states [b, g, state, r, d], what of x passes by
    [b, c, l, g, r, 1 or d], and sequences [b, c, l] or None. Gives y in the shape of x, and the last states.
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
        """Scan, keeping the arguments alone. Gradients are written into views of tensors like these."""
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
        """Gradients of the first seven; the derivation stands in `_gradients`."""
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
    """So many chunks at once that what is [l, l] per head stays in bounds."""
    b, c, length, g, r, _ = x.shape
    step = max(1, _ELEMENTS.get(x.device.type, _ELEMENTS_ELSEWHERE) // (length * length * g * r))
    return [slice(start, start + step) for start in range(0, b * c, step)]


def _summed(rows: Tensor, values: Tensor, weights: Tensor) -> Tensor:
    """Each chunk's sum over its positions of rows [.., l, g, state] times weighted values [.., l, g, r, d]."""
    b, c, _, g, r, d = values.shape
    sums = torch.empty(b, c, g, rows.size(-1), r, d, dtype=weights.dtype, device=rows.device)
    for block in _blocks(values):
        row, value = (part.flatten(0, 1)[block].to(weights.dtype) for part in (rows, values))
        weighted = (value * weights[block]).flatten(3).transpose(1, 2)
        torch.matmul(row.permute(0, 2, 3, 1), weighted, out=sums.flatten(0, 1)[block].flatten(3))
    return sums


def _passed(inputs: Tensor, total: Tensor, state: Tensor, order: Iterable[int]) -> tuple[Tensor, Tensor]:
    """The recurrence over chunks: the state that each one meets, and the last one."""
    met = torch.empty_like(inputs)
    for chunk in order:
        met[:, chunk] = state
        state = torch.addcmul(inputs[:, chunk], state, total[:, chunk])
    return met, state.clone()


def _by_head(values: Tensor, weights: Tensor) -> Tensor:
    """Weighted values [m, l, g, r, d] as [m, g, r, l, d]."""
    m, length, g, r, d = values.shape
    made = torch.empty(m, g, r, length, d, dtype=weights.dtype, device=values.device)
    return torch.mul(values.permute(0, 2, 3, 1, 4), weights.permute(0, 2, 3, 1, 4), out=made)


def _decays(factors: _Factors) -> Tensor:
    """From each position to each later one, [m, g, r, l, l]: the matrix L of section 6 without its diagonal."""
    decays = factors.log[..., :, None] - factors.log[..., None, :]
    return decays.add_(factors.mask).exp2_()


def _outputs(y: Tensor, parts: _Parts, factors: _Factors) -> None:
    """Write y of some chunks: what positions see in their chunk, and the state before it."""
    keys, queries = parts.B.transpose(1, 2), parts.C.transpose(1, 2)
    mixing = _decays(factors).mul_((queries @ keys.mT)[:, :, None])
    inside = mixing @ _by_head(parts.x, parts.steps * factors.back)
    torch.mul(inside.permute(0, 3, 1, 2, 4), factors.low, out=y)
    y.addcmul_((queries @ parts.before.flatten(3)).transpose(1, 2).reshape(y.shape), factors.enter)
    y.addcmul_(parts.x, parts.passing)


def _gradients(into: _Parts, gy: Tensor, gafter: Tensor, parts: _Parts, factors: _Factors) -> Tensor:
    """Write the gradients of some chunks, that of dt without what goes through the decays.

    That part needs no matrices of its own: y_t gy_t is how all that t sees grows with the logarithm of its decay from
    the beginning of the chunk, x_t gx_t how all that sees t falls with it. The first is returned, [m, l, g, r]; it is
    made of products at hand, so that no y needs to be kept. The second is that of dt times dt.
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
