"""All experts of a rank as one differentiable function, which takes each expert's rows through it while they are warm.

Rows lie sorted by expert, or are picked out of the tokens by an index that is; then what the experts give is summed
back into the tokens, and no tensor of rows is ever made. What a step on a processor spends beside matrix products is
memory: fresh pages for large tensors, and rows that have left the cache between two kernels. So every expert's rows go
through gather, fc1, activation, probability, fc2 and sum before the next expert's begin, in buffers that all experts
share, and only what fc1 gives is kept for the backward pass.

On a GPU the experts of a rank run in `torch.nn.functional.grouped_mm`, where one kernel does all of them.
"""

import contextlib
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from modelwright.layers._activations import ActivationFunction


@dataclass(frozen=True, kw_only=True)
class ExpertActivation:
    """What stands between fc1 and fc2."""

    function: ActivationFunction
    """Element by element."""
    gated: bool
    """Whether the second half of fc1's output is multiplied by the activated first half."""
    clamp: float | None = None
    """Bounds both halves of a gated activation, the activated one only from above; None for no bounds."""
    offset: float = 0.0
    """Added to the second half of a gated activation."""

    def __call__(self, wide: Tensor) -> Tensor:
        """Activate.

        Args:
            wide: [tokens, fc1's output size].

        Returns:
            [tokens, ffn].
        """
        if not self.gated:
            return self.function(wide)
        gate, linear = wide.chunk(2, dim=-1)
        if self.clamp is not None:
            gate, linear = gate.clamp(max=self.clamp), linear.clamp(-self.clamp, self.clamp)
        return self.function(gate) * (linear + self.offset if self.offset else linear)

    @property
    def is_swiglu(self) -> bool:
        """Whether it is plain SwiGLU, whose gradient is written out here."""
        return self.gated and self.function is F.silu and self.clamp is None and not self.offset


@dataclass(frozen=True, kw_only=True)
class ExpertWeights:
    """The parameters of a rank's experts, a list entry each."""

    fc1: Sequence[Tensor]
    """[fc1's output size, h]."""
    fc2: Sequence[Tensor]
    """[h, ffn]."""
    bias1: Sequence[Tensor] = ()
    """[fc1's output size]; empty without biases."""
    bias2: Sequence[Tensor] = ()
    """[h]; empty without biases."""


class Routes(NamedTuple):
    """Which rows go to which expert."""

    counts: list[int]
    """Rows of each expert of this rank; they lie in this order."""
    rows: Tensor | None = None
    """[sum of counts], the token of each row; None where the tokens are the rows already."""


def run_experts(
    tokens: Tensor,
    probs: Tensor,
    routes: Routes,
    weights: ExpertWeights,
    activation: ExpertActivation,
) -> Tensor:
    """Take every row through its expert.

    Args:
        tokens: [tokens, h].
        probs: [rows], what the output of each row is multiplied by.
        routes: Which rows go to which expert.
        weights: Of the experts of this rank.
        activation: Between fc1 and fc2.

    Returns:
        [tokens, h]: of each row, or summed into the tokens that the rows were picked from.
    """
    if tokens.is_cuda and _fit_grouped(weights):
        return grouped_products(tokens, probs, routes, weights, activation)
    flat = (*weights.fc1, *weights.fc2, *weights.bias1, *weights.bias2)
    plan = _Plan(routes, activation, len(weights.fc1))
    output: Tensor = _Experts.apply(tokens, probs, plan, *flat)
    return output


def _fit_grouped(weights: ExpertWeights) -> bool:
    """The kernel takes rows that begin at multiples of 16 bytes."""
    return all(weight.size(1) * weight.element_size() % 16 == 0 for weight in (weights.fc1[0], weights.fc2[0]))


def grouped_products(
    tokens: Tensor,
    probs: Tensor,
    routes: Routes,
    weights: ExpertWeights,
    activation: ExpertActivation,
) -> Tensor:
    """As `run_experts`, all experts in one kernel for each product.

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
    """What is no tensor."""

    routes: Routes
    activation: ExpertActivation
    experts: int


class _Experts(torch.autograd.Function):
    """One expert after another; keeps the tokens and what fc1 gave."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, probs: Tensor, plan: _Plan, *flat: Tensor) -> Tensor:
        routes = plan.routes
        wide = tokens.new_empty(sum(routes.counts), flat[0].size(0))
        picked, output = _Picked(tokens, routes), _Summed(tokens, routes)
        for expert in _each(plan, flat):
            wide_here, probs_here = wide[expert.part], probs[expert.part]
            _product(picked.of(expert), expert.fc1.t(), wide_here, expert.bias1)
            with output.of(expert) as there:
                torch.mm(plan.activation(wide_here).mul_(probs_here[:, None]), expert.fc2.t(), out=there)
                if expert.bias2 is not None:
                    there.addr_(probs_here.to(there.dtype), expert.bias2)
        ctx.plan = plan
        ctx.save_for_backward(tokens, probs, wide, *flat)
        return output.whole

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] # `once_differentiable` loses the names
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        tokens, probs, wide, *flat = ctx.saved_tensors
        plan: _Plan = ctx.plan
        routes = plan.routes
        flat_grads = _room_for(flat, plan.experts, ctx.needs_input_grad[3:])
        grad_probs = torch.empty_like(probs)
        picked, picked_grad, grad_tokens = (
            _Picked(tokens, routes), _Picked(grad_outputs[0].contiguous(), routes), _Summed(tokens, routes)
        )  # fmt: skip
        for i, expert in enumerate(_each(plan, flat)):
            grads = _Grads(*flat_grads[i :: plan.experts])
            given, outer, probs_here = picked.of(expert), picked_grad.of(expert), probs[expert.part]
            active, pull = _activated(plan.activation, wide[expert.part])
            inner = torch.mm(outer, expert.fc2)
            torch.sum(inner * active, dim=-1, dtype=probs.dtype, out=grad_probs[expert.part])
            if expert.bias2 is not None:
                grad_probs[expert.part].add_(torch.mv(outer, expert.bias2))
            inner = pull(inner.mul_(probs_here[:, None]))
            grads.fill(given, inner, active.mul_(probs_here[:, None]), outer, probs_here)
            with grad_tokens.of(expert) as there:
                torch.mm(inner, expert.fc1, out=there)
        return grad_tokens.whole, grad_probs, None, *flat_grads


class _Expert(NamedTuple):
    """One expert's weights and where its rows lie."""

    part: slice
    rows: Tensor | None
    fc1: Tensor
    fc2: Tensor
    bias1: Tensor | None = None
    bias2: Tensor | None = None


def _each(plan: _Plan, flat: Sequence[Tensor]) -> Iterator[_Expert]:
    start, rows = 0, plan.routes.rows
    for i, count in enumerate(plan.routes.counts):
        part = slice(start, start + count)
        yield _Expert(part, None if rows is None else rows[part], *flat[i :: plan.experts])
        start += count


class _Grads(NamedTuple):
    """Where the gradients of one expert's weights go; None where nobody asked."""

    fc1: Tensor | None
    fc2: Tensor | None
    bias1: Tensor | None = None
    bias2: Tensor | None = None

    def fill(self, given: Tensor, inner: Tensor, narrow: Tensor, outer: Tensor, probs: Tensor) -> None:
        """From the inputs of both linears and the gradients of their outputs, fc2's without its probability."""
        if self.fc1 is not None:
            torch.mm(inner.t(), given, out=self.fc1)
        if self.bias1 is not None:
            torch.sum(inner, dim=0, out=self.bias1)
        if self.fc2 is not None:
            torch.mm(outer.t(), narrow, out=self.fc2)
        if self.bias2 is not None:
            torch.mv(outer.t(), probs.to(outer.dtype), out=self.bias2)


def _room_for(flat: Sequence[Tensor], experts: int, asked: Sequence[bool]) -> list[Tensor | None]:
    """Room for the gradients that are asked for, those of a kind in one piece of memory."""
    room: list[Tensor | None] = []
    for start in range(0, len(flat), experts):
        wanted = asked[start : start + experts]
        whole = flat[start].new_empty(experts if any(wanted) else 0, *flat[start].shape)
        room += [whole[i] if want else None for i, want in enumerate(wanted)]
    return room


class _Picked:
    """The rows of each expert, picked into memory that all experts share."""

    def __init__(self, tokens: Tensor, routes: Routes) -> None:
        self.tokens = tokens
        self.room = None if routes.rows is None else tokens.new_empty(max(routes.counts), tokens.size(1))

    def of(self, expert: _Expert) -> Tensor:
        if self.room is None or expert.rows is None:
            return self.tokens[expert.part]
        return torch.index_select(self.tokens, 0, expert.rows, out=self.room[: expert.rows.numel()])


class _Summed:
    """What each expert gives for its rows, summed into the tokens that they were picked from."""

    def __init__(self, tokens: Tensor, routes: Routes) -> None:
        picked = routes.rows is not None
        self.whole = torch.zeros_like(tokens) if picked else torch.empty_like(tokens)
        self.room = tokens.new_empty(max(routes.counts), tokens.size(1)) if picked else None

    @contextlib.contextmanager
    def of(self, expert: _Expert) -> Generator[Tensor]:
        """Memory for the rows of an expert."""
        if self.room is None or expert.rows is None:
            yield self.whole[expert.part]
        else:
            there = self.room[: expert.rows.numel()]
            yield there
            self.whole.index_add_(0, expert.rows, there)


def _product(rows: Tensor, matrix: Tensor, out: Tensor, bias: Tensor | None) -> None:
    if bias is None:
        torch.mm(rows, matrix, out=out)
    else:
        torch.addmm(bias, rows, matrix, out=out)


def _activated(activation: ExpertActivation, wide: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """What the activation gives, and what takes the gradient of that to the gradient of its input."""
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
