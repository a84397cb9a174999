"""Mixtures of experts made of the parts that layers give: initial values and training, on two ranks as on one."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from modelwright.config import Parallelism, RunConfig, replace
from modelwright.moe import MoeModelConfig
from modelwright.testing import CurvePoint, RankPool, assert_layout_parity, reference_curve
from tests.integration.jobs import quiet
from tests.integration.moe_models import LAYOUTS, MODEL, RUN

DISPATCHERS = ("allgather", "alltoall")
type Shard = tuple[str, tuple[int, ...], tuple[int, ...], Tensor]


def shards(config: MoeModelConfig, parallelism: Parallelism) -> list[Shard]:
    """Return this rank's parts after the build: full name, full shape, offset of the part, values."""
    from modelwright.builders import builder_for
    from modelwright.config import NoWrap, Precision
    from modelwright.distributed import initialize, local_shards

    groups = initialize(parallelism)
    (stage,) = builder_for(config).build_distributed_models(
        groups, parallelism=parallelism, precision=Precision(), wrap=NoWrap(), seed=3
    )
    return [
        (shard.key, tuple(shard.global_shape), tuple(shard.global_offset), local.detach().clone())
        for shard, local in local_shards(stage, groups)
    ]


def whole_state(parts: list[Shard]) -> dict[str, Tensor]:
    """Return every parameter of the model from the parts of one rank that has them all."""
    whole: dict[str, Tensor] = {}
    for key, shape, offset, values in parts:
        window(whole.setdefault(key, torch.full(shape, torch.nan)), offset, values).copy_(values)
    return whole


def window(whole: Tensor, offset: tuple[int, ...], values: Tensor) -> Tensor:
    """The part of a whole parameter; axes in front of the tensor's own, such as experts, are one long."""
    sizes = (*[1] * (whole.dim() - values.dim()), *values.shape)
    slices = tuple(slice(start, start + size) for start, size in zip(offset, sizes, strict=True))
    return whole[slices].view(values.shape)


@pytest.fixture(scope="module")
def whole(two_ranks: RankPool) -> dict[str, Tensor]:
    """Values of one rank."""
    state = whole_state(two_ranks.run(shards, MODEL, Parallelism(), ranks=1)[0])
    assert not any(values.isnan().any() for values in state.values())
    return state


def test_every_expert_is_a_model_of_its_own(whole: dict[str, Tensor]) -> None:
    fc1 = whole["decoder.layers.1.mlp.experts.experts.linear_fc1.weight"]
    fc2 = whole["decoder.layers.3.mlp.experts.experts.linear_fc2.weight"]
    assert (fc1.shape, fc2.shape) == ((4, 48, 32), (4, 32, 24))
    for weight in (fc1, fc2):
        assert all(not torch.equal(weight[i], weight[j]) for i in range(4) for j in range(i))
    assert fc1.std().item() == pytest.approx(0.02, rel=0.05)
    assert fc2.std().item() == pytest.approx(0.02 / 4**0.5, rel=0.05)


@pytest.mark.parametrize("layout", ["expert 2", "expert tensor 2 of data 2", "tensor 2, sequence, expert 2"])
def test_initial_values_of_experts_do_not_depend_on_the_layout(
    layout: str, whole: dict[str, Tensor], two_ranks: RankPool
) -> None:
    """Every part of a rank is cut out of the parameters on one rank, and the ranks have different parts."""
    held = [
        {(key, offset): values for key, _, offset, values in parts if ".experts." in key}
        for parts in two_ranks.run(shards, MODEL, LAYOUTS[layout])
    ]
    for parts in held:
        for (key, offset), values in parts.items():
            assert torch.equal(values, window(whole[key], offset, values)), key
    assert not held[0].keys() & held[1].keys()
    sizes = [sum(values.numel() for values in parts.values()) for parts in held]
    total = sum(values.numel() for key, values in whole.items() if ".experts." in key)
    assert sizes == [total // 2, total // 2]


@pytest.fixture(scope="module", params=DISPATCHERS)
def one_rank(request: Any, two_ranks: RankPool) -> tuple[MoeModelConfig, list[CurvePoint]]:
    """A config of each dispatcher, and its curve on one rank."""
    model = replace(MODEL, dispatcher=request.param)
    return model, reference_curve(two_ranks, replace(RUN, model=model))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_trains_what_one_rank_trains(
    layout: str, one_rank: tuple[MoeModelConfig, list[CurvePoint]], two_ranks: RankPool
) -> None:
    model, reference = one_rank
    assert reference[-1].loss < reference[0].loss - 0.5
    assert_layout_parity(two_ranks, replace(RUN, model=model), LAYOUTS[layout], reference=reference)


@pytest.mark.parametrize("layout", ["expert 2", "data 2"])
def test_experts_with_biases_too(layout: str, two_ranks: RankPool) -> None:
    """The engine refuses them where ranks split an expert: each would add the bias of fc2."""
    run = replace(RUN, model=replace(MODEL, linear_bias=True, activation="gelu"))
    assert_layout_parity(two_ranks, run, LAYOUTS[layout])


def first_experts_only(config: MoeModelConfig, parallelism: Parallelism) -> tuple[float, list[Shard]]:
    """Return the loss of a batch that is routed to the first two experts, and the gradients of all experts."""
    quiet()
    from modelwright.builders import builder_for
    from modelwright.config import NoWrap, Precision
    from modelwright.distributed import initialize, local_shards

    groups = initialize(parallelism)
    (stage,) = builder_for(config).build_distributed_models(
        groups, parallelism=parallelism, precision=Precision(), wrap=NoWrap()
    )
    for module in stage.modules():
        if (bias := getattr(module, "expert_bias", None)) is not None:
            bias[:2] = 100.0
    tokens = torch.arange(2 * 32).view(2, 32)
    loss = stage(tokens, torch.arange(32).expand(2, 32), None, labels=tokens + 1).mean()
    loss.backward()
    with torch.no_grad():
        for parameter in stage.parameters():
            parameter.copy_(parameter.grad)  # type: ignore[arg-type]  # each has one
    parts = [
        (shard.key, tuple(shard.global_shape), tuple(shard.global_offset), local.detach().clone())
        for shard, local in local_shards(stage, groups)
        if ".experts." in shard.key
    ]
    return loss.item(), parts


@pytest.mark.parametrize("dispatcher", DISPATCHERS)
def test_a_rank_whose_experts_get_no_token(dispatcher: str, two_ranks: RankPool) -> None:
    model = replace(MODEL, dispatcher=dispatcher, router_score="sigmoid", expert_bias=True)
    ((loss, parts),) = two_ranks.run(first_experts_only, model, Parallelism(), ranks=1)
    reference = whole_state(parts)
    found = two_ranks.run(first_experts_only, model, LAYOUTS["expert 2"])
    assert [one for one, _ in found] == pytest.approx([loss, loss], abs=1e-5)
    for rank, (_, held) in enumerate(found):
        assert held
        for key, _, offset, gradient in held:
            expected = 2 * window(reference[key], offset, gradient)  # of the tokens of both ranks
            torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-7)
            assert bool(gradient.any()) is (rank == 0)


def uneven(sizes: list[int]) -> tuple[list[float], list[float]]:
    """Return the gathered rows 0, 1, … and this rank's part of their sum, scaled by its rank."""
    from modelwright.distributed import initialize

    rank = initialize(Parallelism(tensor=2)).tp.rank()
    whole = torch.arange(float(sum(sizes)))[:, None]
    room = [torch.full_like(part, -1) for part in whole.split(sizes)]
    torch.distributed.all_gather(room, whole.split(sizes)[rank].clone())
    mine = torch.full((sizes[rank], 1), -1.0)
    torch.distributed.reduce_scatter(mine, [part * (rank + 1) for part in whole.split(sizes)])
    return torch.cat(room).flatten().tolist(), mine.flatten().tolist()


@pytest.mark.parametrize("sizes", [[3, 3], [1, 4], [0, 5], [4, 0]])
def test_parts_of_any_size_are_gathered_and_scattered(sizes: list[int], two_ranks: RankPool) -> None:
    """It does what nccl does, and what gloo alone refuses."""
    found = two_ranks.run(uneven, sizes)
    assert [gathered for gathered, _ in found] == [[float(i) for i in range(sum(sizes))]] * 2
    assert [value for _, mine in found for value in mine] == [3.0 * i for i in range(sum(sizes))]


CAPACITY = {"capacity_factor": 0.75}
LOSSES: dict[str, dict[str, Any]] = {
    "auxiliary loss": {"load_balancing": "aux", "load_balancing_coefficient": 1.0},
    "auxiliary loss of a sequence": {"load_balancing": "seq_aux", "load_balancing_coefficient": 1.0},
    "z-loss": {"z_loss_coefficient": 1.0},
    "bias of experts": {"router_score": "sigmoid", "expert_bias": True, "expert_bias_rate": 1e-2},
}


@pytest.mark.parametrize("layout", ["expert 2", "data 2", "tensor 2, sequence", "context 2"])
@pytest.mark.parametrize("loss", LOSSES)
def test_balancing_does_not_depend_on_the_layout(loss: str, layout: str, two_ranks: RankPool) -> None:
    run = replace(RUN, model=replace(MODEL, **LOSSES[loss]), train=replace(RUN.train, steps=3))
    reference = reference_curve(two_ranks, run)
    plain = reference_curve(two_ranks, replace(RUN, train=run.train))
    assert any(abs(one.grad_norm - other.grad_norm) > 1e-3 for one, other in zip(reference, plain, strict=True))
    assert_layout_parity(two_ranks, run, LAYOUTS[layout], reference=reference)


@pytest.mark.parametrize("layout", ["expert 2", "data 2", "pipeline 2", "expert tensor 2 of data 2"])
def test_capacity_agrees_where_a_rank_routes_whole_sequences(layout: str, two_ranks: RankPool) -> None:
    """It is counted on the tokens of a rank, so tensor and context ranks, which have parts of them, drop others."""
    run = replace(RUN, model=replace(MODEL, **CAPACITY), train=replace(RUN.train, steps=3))
    assert_layout_parity(two_ranks, run, LAYOUTS[layout])


def losses(run: RunConfig) -> list[float]:
    quiet()
    from modelwright.training import train

    return [record.loss for record in train(run)]


def test_capacity_trains_where_ranks_split_experts(two_ranks: RankPool) -> None:
    run = replace(RUN, model=replace(MODEL, **CAPACITY), parallelism=LAYOUTS["tensor 2, sequence"])
    curves = two_ranks.run(losses, run)
    assert curves[0] == curves[1]
    assert curves[0][-1] < curves[0][0] - 0.5


def routing(config: MoeModelConfig, parallelism: Parallelism) -> list[Any]:
    """Return the readings of a recorder after each of two batches, and after a third that it did not record."""
    from modelwright.builders import builder_for
    from modelwright.config import MegatronDDP, Precision
    from modelwright.distributed import initialize
    from modelwright.layers import RoutingRecorder
    from modelwright.training import run_batch, synthetic_batch

    groups = initialize(parallelism)
    stages = builder_for(config).build_distributed_models(
        groups, parallelism=parallelism, precision=Precision(), wrap=MegatronDDP(), seed=3
    )
    found: list[Any] = []
    with RoutingRecorder(stages) as recorder:
        for seed in (1, 2):
            batch = synthetic_batch(size=8, seq_length=32, vocab_size=256, seed=seed)
            run_batch(stages, batch, groups, parallelism, micro_batch=2)
            found.append(recorder.read(groups))
        run_batch([stage.eval() for stage in stages], batch, groups, parallelism, micro_batch=2, forward_only=True)
        found.append(recorder.read(groups))
    run_batch([stage.train() for stage in stages], batch, groups, parallelism, micro_batch=2)
    found.append(recorder.read(groups))
    return found


ROUTED: dict[str, dict[str, Any]] = {
    "dropless": {},
    "dropped": CAPACITY,
    "padded": {**CAPACITY, "pad_to_capacity": True},
    "recomputed": {"engine": {"recompute_granularity": "selective", "recompute_modules": ("moe",)}},
}


@pytest.mark.parametrize("name", ROUTED)
def test_routing_is_recorded_alike_under_every_layout(name: str, two_ranks: RankPool) -> None:
    config = replace(MODEL, **ROUTED[name])
    one = two_ranks.run(routing, config, Parallelism(), ranks=1)[0]
    first, second, evaluated, closed = one
    assert (evaluated, closed) == ((), ())
    assert first != second
    for entry in (*first, *second):
        limited = name in ("dropped", "padded")  # what is left of a token's choices after a drop weighs everything
        assert sum(entry.tokens_per_expert) + entry.dropped == 8 * 32 * 2
        assert (entry.dropped > 0) == limited
        assert (0.2 if limited else 0.6) < entry.entropy <= math.log(2)
    assert [entry.layer for entry in first] == [2, 4]
    for layout in ("expert 2", "data 2", "pipeline 2") + (("tensor 2, sequence",) if name == "dropless" else ()):
        for found in two_ranks.run(routing, config, LAYOUTS[layout]):
            for here, there in zip(found[:2], one[:2], strict=True):
                for entry, expected in zip(here, there, strict=True):
                    assert counted(entry) == counted(expected), layout
                    assert entry.entropy == pytest.approx(expected.entropy, abs=1e-5), layout


def counted(entry: Any) -> tuple[Any, ...]:
    return entry.layer, entry.tokens_per_expert, entry.dropped
