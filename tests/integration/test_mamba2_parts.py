"""The parts of a Mamba-2 mixer in HF transformers' Mamba-2, and in shapes that nobody chose."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import Mamba2Config, Mamba2ForCausalLM

from modelwright.layers import GatedRMSNorm, causal_conv, causal_conv_step, ssd_scan, ssd_step
from packages.layers.tests.mamba.recurrence import recurrence

# hidden, heads, head size, groups, state, chunk, batch, length
SHAPES = [
    (32, 4, 16, 1, 8, 8, 2, 32),
    (32, 4, 16, 2, 8, 8, 2, 29),
    (32, 8, 8, 8, 4, 16, 2, 33),
    (32, 8, 8, 4, 16, 4, 1, 7),
    (64, 2, 64, 1, 16, 256, 1, 40),
    (64, 16, 8, 2, 32, 5, 3, 23),
    (16, 4, 8, 1, 4, 1, 2, 9),
    (16, 32, 1, 8, 4, 3, 2, 10),
    (48, 6, 16, 3, 7, 11, 2, 24),
    (64, 4, 32, 2, 64, 16, 1, 64),
    (32, 4, 16, 4, 8, 32, 4, 1),
    (32, 1, 64, 1, 8, 8, 1, 17),
]


def mamba(shape: tuple[int, ...]) -> tuple[Mamba2ForCausalLM, Tensor]:
    """A model of two layers with random weights, and tokens for it."""
    hidden, heads, head_size, groups, state, chunk, batch, length = shape
    torch.manual_seed(3)
    model = Mamba2ForCausalLM(
        Mamba2Config(
            hidden_size=hidden, num_heads=heads, head_dim=head_size, n_groups=groups, state_size=state,
            chunk_size=chunk, expand=heads * head_size // hidden, num_hidden_layers=2, vocab_size=64,
            time_step_limit=(0.0, math.inf),
        )
    )  # fmt: skip
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith((".D", "norm.weight", "norm_f.weight", "dt_bias", "conv1d.bias")):
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model, torch.randint(0, 64, (batch, length))


class Ours:
    """The forward of HF's mixer through our parts; `steps` goes token by token with states."""

    def __init__(self, mixer: Any, *, steps: bool) -> None:
        self.mixer, self.steps = mixer, steps
        self.norm = GatedRMSNorm(
            mixer.intermediate_size, eps=mixer.layer_norm_epsilon, group_size=mixer.norm.group_size,
            norm_before_gate=False, device=torch.device("cpu"), dtype=torch.float32,
        )  # fmt: skip
        self.norm.weight = mixer.norm.weight

    def __call__(self, hidden: Tensor, **_: Any) -> Tensor:
        mixer = self.mixer
        z, xBC, dt = mixer.in_proj(hidden).split([mixer.intermediate_size, mixer.conv_dim, mixer.num_heads], dim=-1)
        mixed = self.by_steps(xBC, dt) if self.steps else self.at_once(xBC, dt)
        return mixer.out_proj(self.norm(mixed, z))  # type: ignore[no-any-return]

    def parts(self, xBC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mixer, width = self.mixer, self.mixer.n_groups * self.mixer.ssm_state_size
        x, B, C = xBC.split([mixer.intermediate_size, width, width], dim=-1)
        groups = (mixer.n_groups, mixer.ssm_state_size)
        return x.unflatten(-1, (mixer.num_heads, mixer.head_dim)), B.unflatten(-1, groups), C.unflatten(-1, groups)

    def at_once(self, xBC: Tensor, dt: Tensor) -> Tensor:
        mixer = self.mixer
        weight, bias = mixer.conv1d.weight.squeeze(1), mixer.conv1d.bias
        x, B, C = self.parts(causal_conv(xBC.mT, weight, bias, activation="silu").mT)
        A = -torch.exp(mixer.A_log.float())
        y = ssd_scan(x, dt, A, B, C, mixer.chunk_size, D=mixer.D, dt_bias=mixer.dt_bias, dt_softplus=True)
        assert isinstance(y, Tensor)
        return y.flatten(2)

    def by_steps(self, xBC: Tensor, dt: Tensor) -> Tensor:
        mixer, batch = self.mixer, xBC.size(0)
        past = torch.zeros(batch, mixer.conv_dim, mixer.conv_kernel_size)
        state = torch.zeros(batch, mixer.num_heads, mixer.head_dim, mixer.ssm_state_size)
        A, D, bias = (part[:, None] for part in (-torch.exp(mixer.A_log.float()), mixer.D, mixer.dt_bias))
        made: list[Tensor] = []
        for t in range(xBC.size(1)):
            weight, conv_bias = mixer.conv1d.weight.squeeze(1), mixer.conv1d.bias
            x, B, C = self.parts(causal_conv_step(xBC[:, t], past, weight, conv_bias, "silu"))
            y = ssd_step(state, x, dt[:, t, :, None], A[..., None], B, C, D, None, bias, dt_softplus=True)
            made.append(y.flatten(1))
        return torch.stack(made, dim=1)


def with_our_parts(model: Any, monkeypatch: pytest.MonkeyPatch, *, steps: bool = False) -> None:
    for layer in model.backbone.layers:
        monkeypatch.setattr(layer.mixer, "forward", Ours(layer.mixer, steps=steps))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_transformers_logits_and_gradients(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens = mamba(shape)
    weights = torch.randn(*tokens.shape, 64)

    def run() -> tuple[Tensor, tuple[Tensor, ...]]:
        logits = model(tokens, use_cache=False).logits
        return logits, torch.autograd.grad((logits * weights).sum(), list(model.parameters()))

    expected, expected_gradients = run()
    with_our_parts(model, monkeypatch)
    logits, gradients = run()
    assert torch.allclose(logits, expected, rtol=1e-4, atol=1e-4)
    for one, other in zip(gradients, expected_gradients, strict=True):
        assert (one - other).abs().max() <= 1e-4 * max(1.0, float(other.abs().max()))


@pytest.mark.parametrize("shape", SHAPES[:4], ids=str)
def test_transformers_logits_token_by_token(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens = mamba(shape)
    with torch.no_grad():
        expected = model(tokens, use_cache=False).logits
        with_our_parts(model, monkeypatch, steps=True)
        assert torch.allclose(model(tokens, use_cache=False).logits, expected, rtol=1e-4, atol=1e-4)


@st.composite
def inputs(draw: st.DrawFn) -> tuple[Tensor, ...]:
    """x, dt, A, B, C in float64."""
    b, s, g, r, d, k = (draw(st.integers(1, top)) for top in (2, 20, 3, 3, 4, 5))
    torch.manual_seed(draw(st.integers(0, 2**16)))
    x, B, C = torch.randn(b, s, g * r, d).double(), torch.randn(b, s, g, k).double(), torch.randn(b, s, g, k).double()
    dt = torch.rand(b, s, g * r).double() * 10.0 ** draw(st.integers(-4, 4))
    return x, dt, -16 * torch.rand(g * r).double(), B, C


def scan(*parts: Any, **options: Any) -> tuple[Tensor, Tensor]:
    y, state = ssd_scan(*parts, return_final_states=True, **options)
    return y, state


def close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-9, atol=1e-9 * max(1.0, float(other.abs().max())))


@given(inputs(), st.integers(1, 24))
@settings(max_examples=100, deadline=None)
def test_the_recurrence_whatever_the_chunk(parts: tuple[Tensor, ...], chunk: int) -> None:
    assert all(close(one, other) for one, other in zip(scan(*parts, chunk), recurrence(*parts), strict=True))


@given(inputs(), st.integers(1, 24), st.integers(0, 20))
@settings(max_examples=100, deadline=None)
def test_two_parts_with_the_state_between(parts: tuple[Tensor, ...], chunk: int, cut: int) -> None:
    x, dt, A, B, C = parts
    first, state = scan(x[:, :cut], dt[:, :cut], A, B[:, :cut], C[:, :cut], chunk)
    second, last = scan(x[:, cut:], dt[:, cut:], A, B[:, cut:], C[:, cut:], chunk, initial_states=state)
    y, final = scan(*parts, chunk)
    assert close(torch.cat([first, second], dim=1), y)
    assert close(last, final)


@given(inputs(), st.integers(1, 24), st.data())
@settings(max_examples=100, deadline=None)
def test_packed_sequences_are_apart(parts: tuple[Tensor, ...], chunk: int, data: st.DataObject) -> None:
    x, dt, A, B, C = parts
    begins = data.draw(st.lists(st.booleans(), min_size=x.size(1), max_size=x.size(1)))
    ids = torch.tensor(begins).cumsum(0)
    y, final = scan(*parts, chunk, seq_idx=ids.expand(x.size(0), -1))
    pieces = [recurrence(x[:, at], dt[:, at], A, B[:, at], C[:, at]) for at in (ids == i for i in ids.unique())]
    assert close(y, torch.cat([piece for piece, _ in pieces], dim=1))
    assert close(final, pieces[-1][1])


@given(inputs(), st.integers(1, 24))
@settings(max_examples=50, deadline=None)
def test_gradients_whatever_the_chunk(parts: tuple[Tensor, ...], chunk: int) -> None:
    leaves = [part.requires_grad_() for part in parts]
    weights = torch.randn_like(leaves[0])
    got = torch.autograd.grad((scan(*leaves, chunk)[0] * weights).sum(), leaves)
    expected = torch.autograd.grad((recurrence(*leaves)[0] * weights).sum(), leaves)
    assert all(close(one, other) for one, other in zip(got, expected, strict=True))
