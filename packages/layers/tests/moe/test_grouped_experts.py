"""Experts computed together are the engine's one after another: values, gradients, names, shapes and shards."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from megatron.core import tensor_parallel
from megatron.core.dist_checkpointing import ShardedTensor
from megatron.core.dist_checkpointing.mapping import apply_factories
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer import TransformerConfig
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from modelwright.config import Parallelism, Precision
from modelwright.layers import (
    GroupedExperts,
    SequentialExpertsSpec,
    register_activation,
    resolve,
)
from modelwright.layers.moe import expert_function
from modelwright.layers.moe.expert_function import (
    ExpertActivation,
    ExpertWeights,
    Routes,
    grouped_products,
    run_experts,
)
from modelwright.protocols import ModelwrightError
from packages.layers.tests.moe.moe_toy import EXPERTS, FFN, MoeToyConfig
from tests.messages import facts

HIDDEN = 16
COUNTS = {
    "uneven": [5, 1, 9, 3],
    "empty experts": [0, 7, 0, 11],
    "all to the first": [18, 0, 0, 0],
    "all to the last": [0, 0, 0, 18],
    "no token at all": [0, 0, 0, 0],
}


def engine_config(engine: dict[str, Any] | None = None, **fields: Any) -> TransformerConfig:
    return resolve(MoeToyConfig(engine=engine or {}, **fields), Parallelism(), Precision())


def both(groups: ProcessGroupCollection, config: TransformerConfig) -> tuple[GroupedExperts, nn.Module]:
    """Ours and the engine's, with the same values; biases are not zero.

    Where one rank holds all experts, the engine's fc2 hands out a view that its own MLP cannot add a bias to; told that
    others communicate for it, as under expert parallelism, it does not.
    """
    ours = GroupedExperts(EXPERTS, config, pg_collection=groups)
    engine: Any = SequentialExpertsSpec()(EXPERTS, config, pg_collection=groups)
    for expert in engine.local_experts:
        expert.linear_fc2.explicit_expert_comm = True
    torch.manual_seed(0)
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.3)
    engine.load_state_dict(ours.state_dict())
    return ours, engine


def inputs(counts: list[int], dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    torch.manual_seed(1)
    rows = sum(counts)
    return {
        "tokens": torch.randn(rows, HIDDEN, dtype=dtype).requires_grad_(),
        "probs": torch.rand(rows, dtype=dtype).requires_grad_(),
    }


def answers(experts: Any, counts: list[int]) -> dict[str, Tensor]:
    """Output and every gradient by name."""
    given = inputs(counts)
    output, bias = experts(given["tokens"], torch.tensor(counts), given["probs"])
    assert bias is None
    wanted = {**given, **dict(experts.named_parameters())}
    torch.manual_seed(2)
    grads = torch.autograd.grad(output, list(wanted.values()), torch.randn(output.shape))
    return {"output": output, **dict(zip(wanted, grads, strict=True))}


@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("activation", ["swiglu", "geglu", "gelu", "squared_relu", "relu", "test_softsign_gated"])
@pytest.mark.usefixtures("registries")
def test_values_and_gradients_are_the_engines(
    activation: str, bias: bool, counts: str, groups: ProcessGroupCollection
) -> None:
    register_activation("test_softsign_gated", F.softsign, gated=True)
    ours, engine = both(groups, engine_config(activation=activation, bias=bias))
    found, expected = answers(ours, COUNTS[counts]), answers(engine, COUNTS[counts])
    assert found.keys() == expected.keys()
    assert len(found) == 3 + EXPERTS * (4 if bias else 2)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize(
    "engine_fields",
    [
        {"activation_func_clamp_value": 0.5, "glu_linear_offset": 1.0},
        {"moe_apply_probs_on_input": True, "moe_router_topk": 1},
    ],
    ids=["clamped and offset", "probabilities on the input"],
)
def test_other_forms_of_the_engines_expert(engine_fields: dict[str, Any], groups: ProcessGroupCollection) -> None:
    config = engine_config()
    for name, value in engine_fields.items():
        setattr(config, name, value)
    ours, engine = both(groups, config)
    found, expected = answers(ours, COUNTS["uneven"]), answers(engine, COUNTS["uneven"])
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5)
    plain, _ = both(groups, engine_config())
    assert not torch.allclose(found["output"], answers(plain, COUNTS["uneven"])["output"], atol=1e-2)


def test_names_shapes_and_marks_are_the_engines(groups: ProcessGroupCollection) -> None:
    ours, engine = both(groups, engine_config(bias=True))
    marks = ("allreduce", "tensor_model_parallel", "partition_dim", "partition_stride", "sequence_parallel")

    def described(experts: nn.Module) -> dict[str, Any]:
        return {
            name: (tuple(p.shape), p.dtype, [getattr(p, mark, None) for mark in marks])
            for name, p in experts.named_parameters()
        }

    assert described(ours) == described(engine)


def shards(experts: Any, groups: ProcessGroupCollection) -> dict[str, Any]:
    """Describe each tensor of the sharded state dict, by its plain name."""
    found = experts.sharded_state_dict("experts.", (), {"dp_cp_group": groups.dp_cp})
    apply_factories(found)
    listed: dict[str, Any] = {}
    for name, value in found.items():
        for i, part in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(part, ShardedTensor):
                listed[f"{name}/{i}"] = (
                    part.key,
                    part.global_shape,
                    part.global_offset,
                    part.local_shape,
                    part.replica_id,
                )
    return listed


def test_the_sharded_state_dictionary_is_the_engines(groups: ProcessGroupCollection) -> None:
    ours, engine = both(groups, engine_config(bias=True))
    found, expected = shards(ours, groups), shards(engine, groups)
    assert found == expected
    assert found["experts.local_experts.3.linear_fc1.weight/1"] == (
        "experts.experts.linear_fc1.weight", (EXPERTS, 2 * FFN, HIDDEN), (3, FFN, 0), (FFN, HIDDEN), (0, 0, 0),
    )  # fmt: skip


def plain_parts(dtype: torch.dtype, *, bias: bool) -> tuple[ExpertWeights, list[Tensor]]:
    torch.manual_seed(3)

    def made(*shape: int) -> list[Tensor]:
        return [torch.randn(*shape, dtype=dtype).mul_(0.3).requires_grad_() for _ in range(3)]

    fc1, fc2 = made(8, 12), made(12, 4)
    bias1, bias2 = (made(8), made(12)) if bias else ([], [])
    return ExpertWeights(fc1=fc1, fc2=fc2, bias1=bias1, bias2=bias2), [*fc1, *fc2, *bias1, *bias2]


ROUTES = {
    "sorted rows": Routes([2, 0, 3]),
    "picked rows": Routes([2, 0, 3], torch.tensor([0, 3, 0, 1, 3])),
}


@pytest.mark.parametrize("routes", ROUTES)
@pytest.mark.parametrize(
    "activation",
    [ExpertActivation(function=F.silu, gated=True), ExpertActivation(function=F.gelu, gated=True, clamp=0.4)],
    ids=["written out", "by autograd"],
)
def test_gradients_are_those_of_differences(activation: ExpertActivation, routes: str) -> None:
    weights, flat = plain_parts(torch.float64, bias=True)
    tokens, probs = torch.randn(5, 12, dtype=torch.float64), torch.rand(5, dtype=torch.float64)

    def function(tokens: Tensor, probs: Tensor, *_: Tensor) -> Tensor:
        return run_experts(tokens, probs, ROUTES[routes], weights, activation)

    assert torch.autograd.gradcheck(function, (tokens.requires_grad_(), probs.requires_grad_(), *flat))


@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("routes", ROUTES)
def test_grouped_products_give_the_same(routes: str, bias: bool) -> None:
    """Run the code for a GPU on the CPU."""
    activation = ExpertActivation(function=F.silu, gated=True)
    found: list[list[Tensor]] = []
    for run in (run_experts, grouped_products):
        weights, flat = plain_parts(torch.float32, bias=bias)
        tokens, probs = torch.randn(5, 12).requires_grad_(), torch.rand(5).requires_grad_()
        output = run(tokens, probs, ROUTES[routes], weights, activation)
        found.append([output, *torch.autograd.grad(output.square().sum(), [tokens, probs, *flat])])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_frozen_weights_get_no_gradient() -> None:
    weights, flat = plain_parts(torch.float32, bias=True)
    for frozen in (flat[0], flat[4], *flat[9:]):
        frozen.requires_grad_(False)
    tokens = torch.randn(5, 12).requires_grad_()
    output = run_experts(
        tokens, torch.rand(5), ROUTES["sorted rows"], weights, ExpertActivation(function=F.silu, gated=True)
    )
    output.sum().backward()
    assert [tensor.grad is None for tensor in flat] == [not tensor.requires_grad for tensor in flat]
    assert tokens.grad is not None


def test_bfloat16_is_as_near_to_float32_as_the_engines(groups: ProcessGroupCollection) -> None:
    counts = COUNTS["uneven"]
    ours, engine = both(groups, engine_config())
    exact = answers(engine, counts)
    errors: list[float] = []
    for experts in (ours.bfloat16(), engine.bfloat16()):
        given = inputs(counts)
        output, _ = experts(given["tokens"].bfloat16(), torch.tensor(counts), given["probs"])
        assert output.dtype == torch.bfloat16
        errors.append((output.float() - exact["output"]).abs().mean().item())
    assert errors[0] <= 1.1 * errors[1]


FILLED_ROUTES = {
    "sorted rows": Routes([5, 0, 17]),
    "picked rows": Routes([5, 0, 17], torch.arange(22) % 9),
}


@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("routes", FILLED_ROUTES)
@pytest.mark.parametrize(
    "activation",
    [ExpertActivation(function=F.silu, gated=True), ExpertActivation(function=F.gelu, gated=True, offset=1.0)],
    ids=["written out", "by autograd"],
)
def test_filling_up_changes_nothing(
    activation: ExpertActivation, routes: str, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compare in float64, so that equal means equal. Memory that nobody wrote contains NaN."""
    rows, sent = (22 if routes == "sorted rows" else 9), FILLED_ROUTES[routes]
    found: list[list[Tensor]] = []
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True)
    try:
        for compiled in ((), (torch.float64,)):
            monkeypatch.setattr(expert_function, "_COMPILED", compiled)
            weights, flat = plain_parts(torch.float64, bias=bias)
            tokens, probs = torch.randn(rows, 12, dtype=torch.float64), torch.rand(22, dtype=torch.float64)
            tokens.requires_grad_()
            probs.requires_grad_()
            output = run_experts(tokens, probs, sent, weights, activation)
            found.append([output, *torch.autograd.grad(output.square().sum(), [tokens, probs, *flat])])
    finally:
        torch.use_deterministic_algorithms(False)
    for one, other in zip(*found, strict=True):
        assert one.isfinite().all()
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


class _Rows(TorchDispatchMode):
    """Notes how many rows each product of matrices has, or sums over."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket is torch.ops.aten.mm:
            self.seen |= {size for matrix in args[:2] for size in matrix.shape} - {4, 8, 12}
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("dtype", "expected"), [(torch.bfloat16, {0, 16, 32, 80}), (torch.float32, {0, 1, 5, 17, 70})], ids=str
)
def test_few_shapes_in_bfloat16(dtype: torch.dtype, expected: set[int]) -> None:
    weights, _ = plain_parts(dtype, bias=False)
    tokens = torch.randn(92, 12, dtype=dtype).requires_grad_()
    with _Rows() as rows:
        for counts in ([5, 0, 17], [70, 1, 0]):
            used = tokens[: sum(counts)]
            run_experts(
                used, torch.rand(len(used)), Routes(counts), weights, ExpertActivation(function=F.silu, gated=True)
            ).sum().backward()
    assert rows.seen == expected


def test_numbers_that_are_filled_up_to() -> None:
    filled = {count: expert_function._padded_count(count) for count in range(8193)}
    assert all(0 <= more - count <= max(15, count / 8) for count, more in filled.items())
    assert filled[0] == 0
    assert len(set(filled.values())) < 80


def test_under_recomputation(groups: ProcessGroupCollection) -> None:
    ours, _ = both(groups, engine_config())
    counts = torch.tensor(COUNTS["uneven"])
    expected = answers(ours, COUNTS["uneven"])
    given = inputs(COUNTS["uneven"])

    def run(tokens: Tensor, probs: Tensor) -> Tensor:
        output: Tensor = ours(tokens, counts, probs)[0]
        return output

    output: Tensor = tensor_parallel.checkpoint(run, False, given["tokens"], given["probs"])
    torch.manual_seed(2)
    output.backward(torch.randn(output.shape))
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, expected[name])


def test_whoever_gathers_parameters_is_asked_first(groups: ProcessGroupCollection) -> None:
    """DDP and FSDP wait for weights in hooks before the forward of their module."""
    ours, _ = both(groups, engine_config())
    asked: list[str] = []
    for name, module in ours.named_modules():
        if any(True for _ in module.parameters(recurse=False)):
            module.register_forward_pre_hook(lambda *_, n=name: asked.append(n))
    answers(ours, COUNTS["uneven"])
    assert sorted(asked) == sorted(f"local_experts.{i}.linear_{fc}" for i in range(EXPERTS) for fc in ("fc1", "fc2"))


def test_short_formats_are_refused(groups: ProcessGroupCollection) -> None:
    config = engine_config()
    config.fp8 = "hybrid"
    with pytest.raises(ModelwrightError) as caught:
        GroupedExperts(EXPERTS, config, pg_collection=groups)
    assert facts(caught.value) == "`fp8` `GroupedExperts` 'hybrid' `te`"


@pytest.fixture(autouse=True)
def _one_generator() -> Iterator[None]:
    state = torch.get_rng_state()
    yield
    torch.set_rng_state(state)
