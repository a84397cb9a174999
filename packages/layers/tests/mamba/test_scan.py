"""The scan of Mamba-2 against its recurrence, token by token in float64."""

import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import silu, softplus

from modelwright.layers import ssd_scan, ssd_step
from modelwright.protocols import ModelwrightError, ScanInterface, check_conformance
from packages.layers.tests.mamba.recurrence import recurrence

# batch, length, heads, head size, groups, state, chunk
SHAPES = [
    (2, 7, 4, 3, 2, 5, 3),
    (1, 1, 2, 2, 1, 4, 8),
    (2, 16, 4, 8, 4, 2, 4),
    (1, 33, 8, 4, 2, 6, 16),
    (3, 12, 2, 5, 1, 3, 64),
    (1, 9, 6, 1, 3, 1, 1),
]


def inputs(b: int, s: int, n: int, d: int, g: int, k: int, *, seed: int = 0) -> tuple[Tensor, ...]:
    """x, dt, A, B, C in float64; dt positive, A negative."""
    draw = torch.Generator().manual_seed(seed)
    x, B, C = (torch.randn(b, s, *tail, generator=draw, dtype=torch.float64) for tail in ((n, d), (g, k), (g, k)))
    dt = torch.rand(b, s, n, generator=draw, dtype=torch.float64)
    return x, dt, -4 * torch.rand(n, generator=draw, dtype=torch.float64), B, C


def state_of(x: Tensor, B: Tensor) -> Tensor:
    return torch.randn(x.size(0), x.size(2), x.size(3), B.size(3), dtype=x.dtype)


def scan_both(*parts: Any, **options: Any) -> tuple[Tensor, Tensor]:
    y, state = ssd_scan(*parts, return_final_states=True, **options)
    return y, state


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("continued", [False, True])
def test_the_recurrence(shape: tuple[int, ...], continued: bool) -> None:
    parts = inputs(*shape[:6])
    first = state_of(parts[0], parts[3]) if continued else None
    expected = recurrence(*parts, first)
    for got, wanted in zip(scan_both(*parts, shape[6], initial_states=first), expected, strict=True):
        assert torch.allclose(got, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", SHAPES[:3])
def test_gradients_against_differences(shape: tuple[int, ...]) -> None:
    parts = inputs(*shape[:6])
    leaves = [part.requires_grad_() for part in (*parts, state_of(parts[0], parts[3]))]

    def scan(*given: Tensor) -> tuple[Tensor, Tensor]:
        return scan_both(*given[:5], shape[6], initial_states=given[5])

    assert torch.autograd.gradcheck(scan, leaves)


def test_gradients_through_every_option() -> None:
    x, dt, A, B, C = inputs(1, 5, 2, 2, 1, 3)
    D, z, bias = torch.randn(2, 2).double(), torch.randn(1, 5, 2, 2).double(), torch.randn(2).double()
    leaves = [part.requires_grad_() for part in (x, dt, A, B, C, D, z, bias)]
    sequences = torch.tensor([[0, 0, 1, 1, 2]])

    def scan(*given: Tensor) -> Any:
        options = dict(zip(("D", "z", "dt_bias"), given[5:], strict=True))
        return ssd_scan(*given[:5], 2, **options, dt_softplus=True, seq_idx=sequences)

    assert torch.autograd.gradcheck(scan, leaves)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_against_those_of_the_recurrence(shape: tuple[int, ...]) -> None:
    leaves = [part.requires_grad_() for part in inputs(*shape[:6])]
    weights = torch.randn_like(leaves[0])
    expected = torch.autograd.grad((recurrence(*leaves)[0] * weights).sum(), leaves)
    got = torch.autograd.grad((scan_both(*leaves, shape[6])[0] * weights).sum(), leaves)
    for one, other in zip(got, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("which", [0, 1, 3, 4], ids=["x", "dt", "B", "C"])
def test_gradients_of_a_part_whose_memory_is_in_another_order(which: int) -> None:
    """A mixer's parts come from a projection with the sequence first."""
    parts = [part.requires_grad_() for part in inputs(2, 6, 4, 3, 2, 5)]
    turned = list(parts)
    turned[which] = parts[which].transpose(0, 1).contiguous().transpose(0, 1)
    y, _ = scan_both(*parts, 3)
    wanted = torch.autograd.grad(y.square().sum(), parts)
    again, _ = scan_both(*turned, 3)
    for got, expected in zip(torch.autograd.grad(again.square().sum(), parts), wanted, strict=True):
        assert torch.allclose(got, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("D_shape", [(4,), (4, 3)])
def test_options(D_shape: tuple[int, ...]) -> None:
    x, dt, A, B, C = inputs(2, 7, 4, 3, 2, 5)
    D, z, bias = torch.randn(D_shape).double(), torch.randn_like(x), torch.randn(4).double()
    y = ssd_scan(x, dt, A, B, C, 3, D=D, z=z, dt_bias=bias, dt_softplus=True, dt_limit=(0.5, 1.5))
    expected = recurrence(x, softplus(dt + bias).clamp(0.5, 1.5), A, B, C, D=D)[0] * silu(z)
    assert isinstance(y, Tensor)
    assert torch.allclose(y, expected, atol=1e-9)


def test_packed_sequences_do_not_see_each_other() -> None:
    x, dt, A, B, C = inputs(2, 11, 4, 3, 2, 5)
    lengths = [[3, 1, 7], [5, 6]]
    sequences = torch.stack([torch.repeat_interleave(torch.tensor(row)) for row in lengths])
    first = state_of(x, B)
    for chunk in (1, 2, 4, 11):
        y, final = scan_both(x, dt, A, B, C, chunk, seq_idx=sequences, initial_states=first)
        for row in range(2):
            start, state = 0, first[row : row + 1]
            for length in lengths[row]:
                at = (slice(row, row + 1), slice(start, start + length))
                expected, last = recurrence(x[at], dt[at], A, B[at], C[at], state)
                assert torch.allclose(y[at], expected, atol=1e-9)
                start, state = start + length, torch.zeros_like(state)
            assert torch.allclose(final[row : row + 1], last, atol=1e-9)


@pytest.mark.parametrize("chunk", [16, 64, 256])
def test_bfloat16(chunk: int) -> None:
    """Only the inputs and the result are rounded: half a unit in the last place of bfloat16 is 2^-9."""
    parts = inputs(2, 200, 4, 16, 2, 16)
    rounded = tuple(part.bfloat16() if i != 2 else part.float() for i, part in enumerate(parts))
    expected, last = recurrence(*rounded)
    y, state = scan_both(*rounded, chunk)
    assert y.dtype == torch.bfloat16
    assert state.dtype == torch.float32
    assert ((y.double() - expected).abs() <= 2**-8 * expected.abs() + 1e-4).all()
    assert torch.allclose(state.double(), last, rtol=1e-4, atol=1e-5)


def test_bfloat16_gradients() -> None:
    parts = [part.bfloat16().requires_grad_() for part in inputs(1, 50, 4, 8, 2, 8)]
    weights = torch.randn(1, 50, 4, 8).bfloat16()
    got = torch.autograd.grad((scan_both(*parts, 16)[0] * weights).float().sum(), parts)
    exact = [part.detach().double().requires_grad_() for part in parts]
    expected = torch.autograd.grad((recurrence(*exact)[0] * weights.double()).sum(), exact)
    for one, other in zip(got, expected, strict=True):
        assert one.dtype == torch.bfloat16
        assert (one.double() - other).abs().max() <= 2**-7 * other.abs().max()


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-3, 30.0, 1e4, 1e20])
def test_extreme_steps(size: float) -> None:
    x, dt, A, B, C = (part.float() for part in inputs(1, 40, 2, 4, 1, 4))
    leaves = [part.requires_grad_() for part in (x, (dt * size), A, B, C)]
    y, state = scan_both(*leaves, 16)
    got = torch.autograd.grad(y.sum() / (1 + size), leaves)
    assert all(part.isfinite().all() for part in (y, state, *got))
    expected = recurrence(*leaves)[0]
    assert torch.allclose(y.double(), expected, rtol=1e-4, atol=1e-6 * (1 + size))


def test_small_decays_after_a_large_one() -> None:
    """The part that float32 loses in the sum of a large decay and small ones is carried separately."""
    x, dt, A, B, C = (part.float() for part in inputs(1, 64, 2, 4, 1, 4))
    dt[:, 3] = 1e5
    x[:, 3] = 0.0
    expected = recurrence(x, dt, A, B, C)[0]
    assert torch.allclose(scan_both(x, dt, A, B, C, 64)[0].double(), expected, rtol=1e-5, atol=1e-5)


def test_no_positions() -> None:
    x, dt, A, B, C = inputs(2, 0, 4, 3, 2, 5)
    first = state_of(x, B)
    y, state = scan_both(x, dt, A, B, C, 4, initial_states=first)
    assert y.shape == x.shape
    assert torch.equal(state, first)


def test_the_type_of_the_states() -> None:
    parts = inputs(1, 5, 2, 2, 1, 3)
    assert scan_both(*parts, 2, state_dtype=torch.bfloat16)[1].dtype == torch.bfloat16


@pytest.mark.parametrize("gate", [False, True])
def test_steps_equal_the_scan(gate: bool) -> None:
    x, dt, A, B, C = inputs(2, 9, 4, 3, 2, 5)
    D, z, bias = torch.randn(4).double(), torch.randn_like(x) if gate else None, torch.randn(4).double()
    expected, last = scan_both(x, dt, A, B, C, 4, D=D, z=z, dt_bias=bias, dt_softplus=True)
    state = torch.zeros_like(last)
    for t in range(9):
        y = ssd_step(
            state, x[:, t], dt[:, t, :, None], A[:, None, None], B[:, t], C[:, t], D[:, None],
            None if z is None else z[:, t], bias[:, None], dt_softplus=True,
        )  # fmt: skip
        assert torch.allclose(y, expected[:, t], atol=1e-9)
    assert torch.allclose(state, last, atol=1e-9)


def test_several_tokens_at_once_as_the_engine_passes_them() -> None:
    x, dt, A, B, C = inputs(2, 3, 4, 3, 2, 5)
    D = torch.randn(4).double()
    expected, last = scan_both(x, dt, A, B, C, 4, D=D, dt_softplus=True)
    cache = torch.zeros(5, 4, 3, 5, dtype=torch.float64)
    between = torch.zeros(5, 3, 4, 3, 5, dtype=torch.float64)
    rows = torch.tensor([3, -1, 1], dtype=torch.int32)
    padded = [torch.cat([part[:1], torch.full_like(part[:1], math.nan), part[1:]]) for part in (x, dt, B, C)]
    y = ssd_step(
        cache, padded[0], padded[1][..., None].expand(-1, -1, -1, 3), A[:, None, None].expand(4, 3, 5), *padded[2:],
        D[:, None].expand(4, 3), None, torch.zeros(4, 3).double(), dt_softplus=True, state_batch_indices=rows,
        intermediate_ssm_states=between,
    )  # fmt: skip
    assert torch.allclose(y[[0, 2]], expected, atol=1e-9)
    assert not y[1].any()
    assert torch.allclose(cache[[3, 1]], last, atol=1e-9)
    assert not cache[[0, 2, 4]].any()
    assert torch.equal(between[[3, 1], -1], cache[[3, 1]])
    assert torch.allclose(between[3, 0], scan_both(*(p[:1, :1] for p in (x, dt)), A, B[:1, :1], C[:1, :1], 4,
                                                   dt_softplus=True)[1][0], atol=1e-9)  # fmt: skip


def test_a_bfloat16_step() -> None:
    x, dt, A, B, C = (part.bfloat16() for part in inputs(2, 1, 4, 3, 2, 5))
    state = torch.zeros(2, 4, 3, 5, dtype=torch.bfloat16)
    y = ssd_step(state, x[:, 0], dt[:, 0, :, None], A[:, None, None], B[:, 0], C[:, 0])
    assert y.dtype == state.dtype == torch.bfloat16
    assert torch.allclose(y.double(), recurrence(x, dt, A, B, C)[0][:, 0], rtol=2**-8, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chunk_size": 0}, "`chunk_size` must be at least 1, but is 0; 64 to 256 are fast."),
        (
            {"dt": torch.ones(2, 7, 3)},
            (
                "`dt` must be [b, s, n] for `x` of [b, s, n, d], but `dt` is [2, 7, 3] and `x` [2, 7, 4, 3]; "
                "give both the same batch, length and number of heads."
            ),
        ),
        (
            {"B": torch.ones(2, 6, 2, 5)},
            (
                "`B` and `C` must be [b, s, groups, state] with the `x` of [b, s, n, d], but are [2, 6, 2, 5] and "
                "[2, 7, 2, 5] with [2, 7, 4, 3]; give all three the same batch and length."
            ),
        ),
        (
            {"B": torch.ones(2, 7, 3, 5), "C": torch.ones(2, 7, 3, 5)},
            (
                "The groups of `B` and `C` must divide the heads of `x`, but 3 does not divide 4; "
                "use another number of groups."
            ),
        ),
    ],
)
def test_what_does_not_fit(change: dict[str, Any], message: str) -> None:
    given = dict(zip(("x", "dt", "A", "B", "C"), inputs(2, 7, 4, 3, 2, 5), strict=True)) | {"chunk_size": 4} | change
    with pytest.raises(ModelwrightError, match=f"^{re.escape(message)}$"):
        ssd_scan(**given)


def test_it_fits_the_slot() -> None:
    check_conformance(ScanInterface, ssd_scan)
