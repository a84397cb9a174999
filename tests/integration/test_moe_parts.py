"""Mixtures of experts made of the parts that layers give: initial values and training, on two ranks as on one."""

from typing import Any

import pytest
import torch
from torch import Tensor

from modelwright.config import Parallelism, replace
from modelwright.testing import CurvePoint, RankPool, assert_layout_parity, reference_curve
from tests.integration.moe_models import LAYOUTS, RUN, MoePartsConfig

DISPATCHERS = ("allgather", "alltoall")
type Shard = tuple[str, tuple[int, ...], tuple[int, ...], Tensor]


def shards(config: MoePartsConfig, parallelism: Parallelism) -> list[Shard]:
    """What this rank holds after the build: name in the whole model, shape there, where its part begins, values."""
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
    """Every parameter of the whole model, put together from the parts of one rank that holds them all."""
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
    """Of one rank."""
    state = whole_state(two_ranks.run(shards, RUN.model, Parallelism(), ranks=1)[0])
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
    """Every part that a rank holds is cut out of what one rank holds, and the ranks hold different ones."""
    held = [
        {(key, offset): values for key, _, offset, values in parts if ".experts." in key}
        for parts in two_ranks.run(shards, RUN.model, LAYOUTS[layout])
    ]
    for parts in held:
        for (key, offset), values in parts.items():
            assert torch.equal(values, window(whole[key], offset, values)), key
    assert not held[0].keys() & held[1].keys()
    sizes = [sum(values.numel() for values in parts.values()) for parts in held]
    total = sum(values.numel() for key, values in whole.items() if ".experts." in key)
    assert sizes == [total // 2, total // 2]


@pytest.fixture(scope="module", params=DISPATCHERS)
def one_rank(request: Any, two_ranks: RankPool) -> tuple[MoePartsConfig, list[CurvePoint]]:
    """A config of each dispatcher, and its curve on one rank."""
    assert isinstance(RUN.model, MoePartsConfig)
    model = replace(RUN.model, dispatcher=request.param)
    return model, reference_curve(two_ranks, replace(RUN, model=model))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_trains_what_one_rank_trains(
    layout: str, one_rank: tuple[MoePartsConfig, list[CurvePoint]], two_ranks: RankPool
) -> None:
    model, reference = one_rank
    assert reference[-1].loss < reference[0].loss - 0.5
    assert_layout_parity(two_ranks, replace(RUN, model=model), LAYOUTS[layout], reference=reference)


@pytest.mark.parametrize("layout", ["expert 2", "data 2"])
def test_experts_with_biases_too(layout: str, two_ranks: RankPool) -> None:
    """The engine refuses them where ranks split an expert: each would add the bias of fc2."""
    assert isinstance(RUN.model, MoePartsConfig)
    run = replace(RUN, model=replace(RUN.model, bias=True, activation="gelu"))
    assert_layout_parity(two_ranks, run, LAYOUTS[layout])
