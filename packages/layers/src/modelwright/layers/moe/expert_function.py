"""All experts of a rank as one autograd function that processes one expert after another, to stay in the cache.

A row is one token of one expert. Rows are sorted by expert. They are either given in that order, or selected from the
tokens by an index. With an index, outputs are summed back into the tokens, and no tensor of all rows is made.

On a CPU the cost beside matrix products is memory: new pages for large tensors, and rows that leave the cache between
two kernels. So the rows of one expert go through gather, fc1, activation, router probability, fc2 and sum before those
of the next expert, in buffers that all experts share. Only the output of fc1 is saved for the backward pass. In
bfloat16 the rows of an expert are padded with zeros to one of few counts, for which compiled kernels exist
(`_padded_count`).

On a GPU the experts of a rank run in `torch.nn.functional.grouped_mm`, one kernel for all experts.
"""

import contextlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from modelwright.layers.activations import ActivationFunction


@dataclass(frozen=True, kw_only=True)
class ExpertActivation:
    """Activation between fc1 and fc2."""

    function: ActivationFunction
    """Elementwise function."""
    gated: bool
    """True if the second half of fc1's output is multiplied by the activated first half."""
    clamp: float | None = None
    """Bound of both halves of a gated activation: an upper bound of the first half, and of the absolute value of the
    second half. None: no bounds."""
    offset: float = 0.0
    """Offset that is added to the second half of a gated activation."""

    def __call__(self, wide: Tensor) -> Tensor:
        """Apply the activation.

        Args:
            wide: `[rows, fc1's output size]`.

        Returns:
            `[rows, ffn]`.
        """
        if not self.gated:
            return self.function(wide)
        gate, linear = wide.chunk(2, dim=-1)
        if self.clamp is not None:
            gate, linear = gate.clamp(max=self.clamp), linear.clamp(-self.clamp, self.clamp)
        return self.function(gate) * (linear + self.offset if self.offset else linear)

    @property
    def is_swiglu(self) -> bool:
        """True for plain SwiGLU, which has an explicit gradient here."""
        return self.gated and self.function is F.silu and self.clamp is None and not self.offset


@dataclass(frozen=True, kw_only=True)
class ExpertWeights:
    """Parameters of a rank's experts, one tensor for each expert."""

    fc1: Sequence[Tensor]
    """`[fc1's output size, h]`."""
    fc2: Sequence[Tensor]
    """`[h, ffn]`."""
    bias1: Sequence[Tensor] = ()
    """`[fc1's output size]`; empty without biases."""
    bias2: Sequence[Tensor] = ()
    """`[h]`; empty without biases."""


class Routes(NamedTuple):
    """Assignment of rows to experts."""

    counts: list[int]
    """Number of rows of each expert of this rank; rows are sorted by expert."""
    rows: Tensor | None = None
    """Index of the token of each row, `[sum of counts]`. None: the tokens are the rows."""


def run_experts(
    tokens: Tensor,
    probs: Tensor,
    routes: Routes,
    weights: ExpertWeights,
    activation: ExpertActivation,
) -> Tensor:
    """Compute every row by its expert.

    Args:
        tokens: `[tokens, h]`.
        probs: `[rows]`, factor on the output of each row.
        routes: Assignment of rows to experts.
        weights: Parameters of the experts of this rank.
        activation: Activation between fc1 and fc2.

    Returns:
        `[tokens, h]`: the output of each row, or, if `routes` selects rows from tokens, the sum over the rows of each
        token.
    """
    if tokens.is_cuda and _fit_grouped(weights):
        return grouped_products(tokens, probs, routes, weights, activation)
    flat = (*weights.fc1, *weights.fc2, *weights.bias1, *weights.bias2)
    plan = _Plan(routes, activation, len(weights.fc1))
    output: Tensor = _Experts.apply(tokens, probs, plan, *flat)
    return output


def _fit_grouped(weights: ExpertWeights) -> bool:
    """Return True if all rows begin at multiples of 16 bytes, as the kernel requires."""
    return all(weight.size(1) * weight.element_size() % 16 == 0 for weight in (weights.fc1[0], weights.fc2[0]))


def grouped_products(
    tokens: Tensor,
    probs: Tensor,
    routes: Routes,
    weights: ExpertWeights,
    activation: ExpertActivation,
) -> Tensor:
    """Compute the same as `run_experts`, with one kernel for the products of all experts.

    Args:
        tokens: See `run_experts`.
        probs: See `run_experts`.
        routes: See `run_experts`.
        weights: See `run_experts`.
        activation: See `run_experts`.

    Returns:
        See `run_experts`.
    """
    counts = torch.tensor(routes.counts, device=tokens.device)
    ends = counts.cumsum(0).to(torch.int32)
    given = tokens if routes.rows is None else tokens.index_select(0, routes.rows)
    wide = F.grouped_mm(given, torch.stack(list(weights.fc1)).transpose(1, 2), offs=ends)
    if weights.bias1:
        wide = wide + torch.stack(list(weights.bias1)).repeat_interleave(counts, dim=0)
    narrow = (activation(wide) * probs[:, None]).to(tokens.dtype)
    output = F.grouped_mm(narrow, torch.stack(list(weights.fc2)).transpose(1, 2), offs=ends)
    if weights.bias2:
        bias = torch.stack(list(weights.bias2)).repeat_interleave(counts, dim=0)
        output = (output + bias * probs[:, None]).to(tokens.dtype)
    if routes.rows is None:
        return output
    return torch.zeros_like(tokens).index_add(0, routes.rows, output)


class _Plan(NamedTuple):
    """Arguments that are not tensors."""

    routes: Routes
    activation: ExpertActivation
    experts: int


class _Experts(torch.autograd.Function):
    """All experts, one after another; saves the tokens and the output of fc1."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, probs: Tensor, plan: _Plan, *flat: Tensor) -> Tensor:
        experts = _experts(plan, flat)
        wide = tokens.new_empty(experts[-1].padded.stop, flat[0].size(0))
        selected, output = _Selected(tokens, experts), _Summed(tokens, experts)
        for expert in experts:
            wide_here, probs_here = wide[expert.padded], probs[expert.part]
            _product(selected.of(expert), expert.fc1.t(), wide_here, expert.bias1)
            narrow = plan.activation(wide_here)
            narrow[: expert.count].mul_(probs_here[:, None])
            with output.of(expert) as there:
                torch.mm(narrow, expert.fc2.t(), out=there)
                if expert.bias2 is not None:
                    there[: expert.count].addr_(probs_here.to(there.dtype), expert.bias2)
        ctx.plan = plan
        ctx.save_for_backward(tokens, probs, wide, *flat)
        return output.total

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] # `once_differentiable` loses the names
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        tokens, probs, wide, *flat = ctx.saved_tensors
        plan: _Plan = ctx.plan
        experts = _experts(plan, flat)
        flat_grads = _gradient_buffers(flat, plan.experts, ctx.needs_input_grad[3:])
        grad_probs = torch.empty_like(probs)
        selected, selected_grad, grad_tokens = (
            _Selected(tokens, experts), _Selected(grad_outputs[0].contiguous(), experts), _Summed(tokens, experts)
        )  # fmt: skip
        for i, expert in enumerate(experts):
            grads = _Grads(*flat_grads[i :: plan.experts])
            given, outer, probs_here = selected.of(expert), selected_grad.of(expert), probs[expert.part]
            active, pull = _activated(plan.activation, wide[expert.padded])
            inner = torch.mm(outer, expert.fc2)
            count = expert.count
            torch.sum(inner[:count] * active[:count], dim=-1, dtype=probs.dtype, out=grad_probs[expert.part])
            if expert.bias2 is not None:
                grad_probs[expert.part].add_(torch.mv(outer[:count], expert.bias2))
            for rows in (inner, active):
                rows[:count].mul_(probs_here[:, None])
            inner = pull(inner)
            grads.fill(given, inner, active, outer, probs_here)
            with grad_tokens.of(expert) as there:
                torch.mm(inner, expert.fc1, out=there)
        return grad_tokens.total, grad_probs, None, *flat_grads


_COMPILED = (torch.bfloat16, torch.float16)
"""Dtypes for which every new shape of a matrix product on a CPU compiles a kernel."""


@dataclass(frozen=True, kw_only=True)
class _Expert:
    """Weights of one expert, and the positions of its rows."""

    part: slice
    """Positions of its rows among those of all experts."""
    padded: slice
    """The same with padding after the rows of each expert."""
    rows: Tensor | None
    """Index of the token of each row, `[rows]`. None: the tokens are the rows."""
    fc1: Tensor
    fc2: Tensor
    bias1: Tensor | None = None
    bias2: Tensor | None = None

    @property
    def count(self) -> int:
        return int(self.part.stop - self.part.start)

    @property
    def size(self) -> int:
        """Number of rows of its products, padding included."""
        return int(self.padded.stop - self.padded.start)


def _experts(plan: _Plan, flat: Sequence[Tensor]) -> list[_Expert]:
    made: list[_Expert] = []
    start, start_padded, rows = 0, 0, plan.routes.rows
    compiled = flat[0].device.type == "cpu" and flat[0].dtype in _COMPILED
    names = ("fc1", "fc2", "bias1", "bias2")
    for i, count in enumerate(plan.routes.counts):
        part = slice(start, start + count)
        padded = slice(start_padded, start_padded + (_padded_count(count) if compiled else count))
        weights = dict(zip(names, flat[i :: plan.experts], strict=False))
        made.append(_Expert(part=part, padded=padded, rows=None if rows is None else rows[part], **weights))
        start, start_padded = part.stop, padded.stop
    return made


def _padded_count(count: int) -> int:
    """Return the next multiple of 16 and of 1/16 of the power of two at or above the count.

    For these dtypes PyTorch computes products with oneDNN, which compiles a kernel for each new shape. That takes
    0.6 ms, while the product of an expert takes 0.1 to 2 ms. In training an expert hardly ever has the same number of
    rows twice. Rounding up leaves at most eight counts between two powers of two, at the cost of 4 % more rows.
    """
    step = max(16, 1 << max(0, (count - 1).bit_length() - 4))
    return -(-count // step) * step


class _Grads(NamedTuple):
    """Buffers for the gradients of one expert's weights; None where no gradient is needed."""

    fc1: Tensor | None
    fc2: Tensor | None
    bias1: Tensor | None = None
    bias2: Tensor | None = None

    def fill(self, given: Tensor, inner: Tensor, narrow: Tensor, outer: Tensor, probs: Tensor) -> None:
        """Compute the gradients of the weights.

        Args:
            given: Input of fc1.
            inner: Gradient of the output of fc1.
            narrow: Input of fc2, times the router probability.
            outer: Gradient of the output of fc2, without the router probability.
            probs: Router probability of each row.
        """
        if self.fc1 is not None:
            torch.mm(inner.t(), given, out=self.fc1)
        if self.bias1 is not None:
            torch.sum(inner, dim=0, out=self.bias1)
        if self.fc2 is not None:
            torch.mm(outer.t(), narrow, out=self.fc2)
        if self.bias2 is not None:
            torch.mv(outer[: probs.numel()].t(), probs.to(outer.dtype), out=self.bias2)


def _gradient_buffers(flat: Sequence[Tensor], experts: int, needed: Sequence[bool]) -> list[Tensor | None]:
    """Allocate buffers for the gradients that are needed, one piece of memory for each kind of weight."""
    buffers: list[Tensor | None] = []
    for start in range(0, len(flat), experts):
        wanted = needed[start : start + experts]
        joined = flat[start].new_empty(experts if any(wanted) else 0, *flat[start].shape)
        buffers += [joined[i] if want else None for i, want in enumerate(wanted)]
    return buffers


class _Selected:
    """Rows of each expert with zero padding, in a buffer that all experts share."""

    def __init__(self, tokens: Tensor, experts: Sequence[_Expert]) -> None:
        self.tokens = tokens
        self.buffer = _shared_buffer(tokens, experts)

    def of(self, expert: _Expert) -> Tensor:
        if self.buffer is None:
            return self.tokens[expert.part]
        there = self.buffer[: expert.size]
        if expert.rows is None:
            there[: expert.count] = self.tokens[expert.part]
        else:
            torch.index_select(self.tokens, 0, expert.rows, out=there[: expert.count])
        there[expert.count :].zero_()
        return there


class _Summed:
    """Outputs of all rows, summed over the rows of each token."""

    def __init__(self, tokens: Tensor, experts: Sequence[_Expert]) -> None:
        self.total = torch.empty_like(tokens) if experts[0].rows is None else torch.zeros_like(tokens)
        self.buffer = _shared_buffer(tokens, experts)

    @contextlib.contextmanager
    def of(self, expert: _Expert) -> Generator[Tensor]:
        """Yield a buffer for the outputs of an expert and add its content to the sum."""
        if self.buffer is None:
            yield self.total[expert.part]
            return
        there = self.buffer[: expert.size]
        yield there
        if expert.rows is None:
            self.total[expert.part] = there[: expert.count]
        else:
            self.total.index_add_(0, expert.rows, there[: expert.count])


def _shared_buffer(tokens: Tensor, experts: Sequence[_Expert]) -> Tensor | None:
    """Allocate a buffer for the rows of any expert; None if the tokens can be used in place."""
    if all(expert.rows is None and expert.size == expert.count for expert in experts):
        return None
    return tokens.new_empty(max(expert.size for expert in experts), tokens.size(1))


def _product(rows: Tensor, matrix: Tensor, out: Tensor, bias: Tensor | None) -> None:
    if bias is None:
        torch.mm(rows, matrix, out=out)
    else:
        torch.addmm(bias, rows, matrix, out=out)


def _activated(activation: ExpertActivation, wide: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Return the output of the activation, and a function from the gradient of the output to that of the input."""
    if activation.is_swiglu:
        gate, linear = wide.chunk(2, dim=-1)
        silu = F.silu(gate)
        return silu * linear, partial(_pull_swiglu, wide=wide, silu=silu)
    with torch.enable_grad():
        leaf = wide.detach().requires_grad_()
        active = activation(leaf)
    return active.detach().clone(), lambda grad: torch.autograd.grad(active, leaf, grad)[0]


def _pull_swiglu(grad: Tensor, *, wide: Tensor, silu: Tensor) -> Tensor:
    gate, linear = wide.chunk(2, dim=-1)
    answer = torch.empty_like(wide)
    for_gate, for_linear = answer.chunk(2, dim=-1)
    torch.mul(grad, silu, out=for_linear)
    torch.ops.aten.silu_backward.grad_input(grad * linear, gate, grad_input=for_gate)
    return answer
