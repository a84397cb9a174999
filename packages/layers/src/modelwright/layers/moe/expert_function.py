"""All experts of a rank as one differentiable function, which takes each expert's rows through it while they are warm.

Rows lie sorted by expert, or are picked out of the tokens by an index that is; then what the experts give is summed
back into the tokens, and no tensor of rows is ever made. What a step on a processor spends beside matrix products is
memory: fresh pages for large tensors, and rows that have left the cache between two kernels. So every expert's rows go
through gather, fc1, activation, probability, fc2 and sum before the next expert's begin, in buffers that all experts
share, and only what fc1 gives is kept for the backward pass. In bfloat16 an expert's rows are filled up with zeros to
one of few numbers, for which the kernels of the products are there already (`_filled_up`).

On a GPU the experts of a rank run in `torch.nn.functional.grouped_mm`, where one kernel does all of them.
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
        experts = _experts(plan, flat)
        wide = tokens.new_empty(experts[-1].filled.stop, flat[0].size(0))
        picked, output = _Picked(tokens, experts), _Summed(tokens, experts)
        for expert in experts:
            wide_here, probs_here = wide[expert.filled], probs[expert.part]
            _product(picked.of(expert), expert.fc1.t(), wide_here, expert.bias1)
            narrow = plan.activation(wide_here)
            narrow[: expert.count].mul_(probs_here[:, None])
            with output.of(expert) as there:
                torch.mm(narrow, expert.fc2.t(), out=there)
                if expert.bias2 is not None:
                    there[: expert.count].addr_(probs_here.to(there.dtype), expert.bias2)
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
        experts = _experts(plan, flat)
        flat_grads = _room_for(flat, plan.experts, ctx.needs_input_grad[3:])
        grad_probs = torch.empty_like(probs)
        picked, picked_grad, grad_tokens = (
            _Picked(tokens, experts), _Picked(grad_outputs[0].contiguous(), experts), _Summed(tokens, experts)
        )  # fmt: skip
        for i, expert in enumerate(experts):
            grads = _Grads(*flat_grads[i :: plan.experts])
            given, outer, probs_here = picked.of(expert), picked_grad.of(expert), probs[expert.part]
            active, pull = _activated(plan.activation, wide[expert.filled])
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
        return grad_tokens.whole, grad_probs, None, *flat_grads


_COMPILED = (torch.bfloat16, torch.float16)
"""Formats in which every new shape of a product on a CPU has a kernel compiled."""


@dataclass(frozen=True, kw_only=True)
class _Expert:
    """One expert's weights and where its rows lie."""

    part: slice
    """Its rows among those of all experts."""
    filled: slice
    """The same, where each expert's rows are followed by the zeros that its products have beside them."""
    rows: Tensor | None
    """[rows], the token of each; None where the tokens are the rows already."""
    fc1: Tensor
    fc2: Tensor
    bias1: Tensor | None = None
    bias2: Tensor | None = None

    @property
    def count(self) -> int:
        return int(self.part.stop - self.part.start)

    @property
    def size(self) -> int:
        """Rows of its products."""
        return int(self.filled.stop - self.filled.start)


def _experts(plan: _Plan, flat: Sequence[Tensor]) -> list[_Expert]:
    made: list[_Expert] = []
    start, start_filled, rows = 0, 0, plan.routes.rows
    compiled = flat[0].device.type == "cpu" and flat[0].dtype in _COMPILED
    names = ("fc1", "fc2", "bias1", "bias2")
    for i, count in enumerate(plan.routes.counts):
        part = slice(start, start + count)
        filled = slice(start_filled, start_filled + (_filled_up(count) if compiled else count))
        weights = dict(zip(names, flat[i :: plan.experts], strict=False))
        made.append(_Expert(part=part, filled=filled, rows=None if rows is None else rows[part], **weights))
        start, start_filled = part.stop, filled.stop
    return made


def _filled_up(count: int) -> int:
    """The next multiple of 16, and of a sixteenth of the power of two at or above the count.

    For these formats PyTorch takes its products from oneDNN, which compiles a kernel for each new shape. That takes
    0.6 ms, an expert's product 0.1 to 2, and in training an expert hardly ever gets the same number of rows twice. This
    leaves at most eight numbers between one power of two and the next, for four rows more in a hundred.
    """
    step = max(16, 1 << max(0, (count - 1).bit_length() - 4))
    return -(-count // step) * step


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
            torch.mv(outer[: probs.numel()].t(), probs.to(outer.dtype), out=self.bias2)


def _room_for(flat: Sequence[Tensor], experts: int, asked: Sequence[bool]) -> list[Tensor | None]:
    """Room for the gradients that are asked for, those of a kind in one piece of memory."""
    room: list[Tensor | None] = []
    for start in range(0, len(flat), experts):
        wanted = asked[start : start + experts]
        whole = flat[start].new_empty(experts if any(wanted) else 0, *flat[start].shape)
        room += [whole[i] if want else None for i, want in enumerate(wanted)]
    return room


class _Picked:
    """The rows of each expert, and zeros after them, in memory that all experts share."""

    def __init__(self, tokens: Tensor, experts: Sequence[_Expert]) -> None:
        self.tokens = tokens
        self.room = _shared_room(tokens, experts)

    def of(self, expert: _Expert) -> Tensor:
        if self.room is None:
            return self.tokens[expert.part]
        there = self.room[: expert.size]
        if expert.rows is None:
            there[: expert.count] = self.tokens[expert.part]
        else:
            torch.index_select(self.tokens, 0, expert.rows, out=there[: expert.count])
        there[expert.count :].zero_()
        return there


class _Summed:
    """What each expert gives for its rows, summed into the tokens that they were picked from."""

    def __init__(self, tokens: Tensor, experts: Sequence[_Expert]) -> None:
        self.whole = torch.empty_like(tokens) if experts[0].rows is None else torch.zeros_like(tokens)
        self.room = _shared_room(tokens, experts)

    @contextlib.contextmanager
    def of(self, expert: _Expert) -> Generator[Tensor]:
        """Memory for the rows of an expert and what follows them."""
        if self.room is None:
            yield self.whole[expert.part]
            return
        there = self.room[: expert.size]
        yield there
        if expert.rows is None:
            self.whole[expert.part] = there[: expert.count]
        else:
            self.whole.index_add_(0, expert.rows, there[: expert.count])


def _shared_room(tokens: Tensor, experts: Sequence[_Expert]) -> Tensor | None:
    """Memory for the rows of any expert; None where they lie as its products want them."""
    if all(expert.rows is None and expert.size == expert.count for expert in experts):
        return None
    return tokens.new_empty(max(expert.size for expert in experts), tokens.size(1))


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
