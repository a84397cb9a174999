"""Initial values are a function of seed, name and index: every shard is its slice of the whole draw."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from megatron.core.dist_checkpointing import ShardedTensor
from megatron.core.dist_checkpointing.mapping import ShardedTensorFactory
from torch import Tensor, nn

from modelwright.distributed import (
    InitializationError,
    LayoutFreeInit,
    NormalInit,
    deferred_initialization,
    initialize_parameters,
)
from tests.messages import facts

GROUPS: Any = SimpleNamespace(dp_cp=None)
ROWS, COLUMNS = 1050, 1000  # four tiles of 263 rows, so that shards begin within a tile
type Describe = Callable[[str, Tensor], Any]


class Stage(nn.Module):
    """One weight, and what `describe` says of which part of the whole it is."""

    def __init__(self, *shape: int, name: str = "weight", dtype: torch.dtype = torch.float32, std: float = 1.0) -> None:
        super().__init__()
        self.name = name
        self.weight = nn.Parameter(torch.full(shape, 7.0, dtype=dtype))
        self.bias = nn.Parameter(torch.full((3,), 7.0))
        with deferred_initialization():
            NormalInit(std)(self.weight)

    describe: Describe = staticmethod(ShardedTensor.from_rank_offsets)

    def sharded_state_dict(self, metadata: Any) -> dict[str, Any]:
        bias = ShardedTensor.from_rank_offsets("bias", self.bias.data)
        return {"bias": bias, "weight": self.describe(self.name, self.weight.data)}


def drawn(stage: Stage, seed: int = 1) -> Tensor:
    initialize_parameters([stage], GROUPS, seed=seed)
    return stage.weight.detach()


def shard(describe: Describe, *shape: int, partition_dim: int = 0, **options: Any) -> Tensor:
    stage = Stage(*shape, **options)
    stage.describe = describe  # type: ignore[method-assign]
    stage.weight.partition_dim = partition_dim  # type: ignore[attr-defined]
    return drawn(stage)


@pytest.fixture(scope="module")
def whole() -> Tensor:
    return drawn(Stage(ROWS, COLUMNS))


@pytest.mark.parametrize("count", [2, 3, 5, 150])
def test_row_shards(whole: Tensor, count: int) -> None:
    for rank in {0, 1, count - 1}:
        part = shard(lambda k, t, r=rank: ShardedTensor.from_rank_offsets(k, t, (0, r, count)), ROWS // count, COLUMNS)
        assert torch.equal(part, whole.chunk(count)[rank])


@pytest.mark.parametrize("count", [2, 5])
def test_column_shards(whole: Tensor, count: int) -> None:
    for rank in range(count):
        part = shard(lambda k, t, r=rank: ShardedTensor.from_rank_offsets(k, t, (1, r, count)), ROWS, COLUMNS // count)
        assert torch.equal(part, whole.chunk(count, dim=1)[rank])


def test_column_shards_of_a_weight_whose_module_splits_the_columns() -> None:
    rows, columns = 1500, 300  # tiles of 1024 x 128
    full = shard(ShardedTensor.from_rank_offsets, rows, columns, partition_dim=1)
    for rank in range(2):
        part = shard(
            lambda k, t, r=rank: ShardedTensor.from_rank_offsets(k, t, (1, r, 2)), rows, columns // 2, partition_dim=1
        )
        assert torch.equal(part, full.chunk(2, dim=1)[rank])


@pytest.mark.parametrize(("dim", "shape"), [(0, (2816, 1024)), (0, (32_000, 64)), (1, (1024, 2816))])
@pytest.mark.parametrize("count", [1, 2])
def test_a_rank_draws_no_number_that_another_has(dim: int, shape: tuple[int, int], count: int) -> None:
    sizes: list[int] = []

    class Counted(LayoutFreeInit):
        def draw(self, out: Tensor, generator: torch.Generator | None) -> None:
            sizes.append(out.numel())

    local = list(shape)
    local[dim] //= count
    stage = Stage(*local)
    with deferred_initialization():
        Counted()(stage.weight)
    stage.weight.partition_dim = dim  # type: ignore[attr-defined]
    stage.describe = lambda k, t: ShardedTensor.from_rank_offsets(k, t, (dim, count - 1, count))  # type: ignore[method-assign]
    drawn(stage)
    assert sum(sizes) == stage.weight.numel()


def test_shards_in_both_dims(whole: Tensor) -> None:
    part = shard(lambda k, t: ShardedTensor.from_rank_offsets(k, t, (0, 1, 2), (1, 1, 2)), ROWS // 2, COLUMNS // 2)
    assert torch.equal(part, whole[ROWS // 2 :, COLUMNS // 2 :])


@pytest.mark.parametrize("rank", [0, 1])
def test_a_gated_shard_is_two_slices(whole: Tensor, rank: int) -> None:
    """fc1 of a gated MLP contains its part of the gate and, after it, its part of the other half."""

    def build(key: str, tensor: Tensor, replica_id: Any, flattened_range: Any) -> list[ShardedTensor]:
        gate, up = tensor.chunk(2)
        return [
            ShardedTensor.from_rank_offsets(key, gate, (0, rank, 4)),
            ShardedTensor.from_rank_offsets(key, up, (0, rank + 2, 4)),
        ]

    rows = 1200
    part = shard(lambda k, t: ShardedTensorFactory(k, t, build, torch.cat), rows // 2, COLUMNS)
    quarters = drawn(Stage(rows, COLUMNS)).chunk(4)
    assert torch.equal(part, torch.cat([quarters[rank], quarters[rank + 2]]))


def test_a_vector() -> None:
    size = 1_000_010  # two tiles
    full = drawn(Stage(size))
    part = shard(lambda k, t: ShardedTensor.from_rank_offsets(k, t, (0, 1, 5)), size // 5)
    assert torch.equal(part, full[size // 5 : 2 * size // 5])


def test_axes_in_front_name_the_tensor() -> None:
    """An expert's matrix is drawn by its own number, wherever it lives and however its rows are cut."""

    def expert(index: int, rank: int, of: int) -> Tensor:
        def describe(key: str, tensor: Tensor) -> ShardedTensor:
            return ShardedTensor.from_rank_offsets(key, tensor, (0, index, 4), (1, rank, of), prepend_axis_num=1)

        return shard(describe, ROWS // of, COLUMNS)

    assert not torch.equal(expert(0, 0, 1), expert(3, 0, 1))
    assert torch.equal(torch.cat([expert(3, 0, 2), expert(3, 1, 2)]), expert(3, 0, 1))


def test_seed_and_name_decide(whole: Tensor) -> None:
    assert torch.equal(drawn(Stage(ROWS, COLUMNS)), whole)
    assert not torch.equal(drawn(Stage(ROWS, COLUMNS), seed=2), whole)
    assert not torch.equal(drawn(Stage(ROWS, COLUMNS, name="other")), whole)


def test_the_random_state_of_the_process_has_no_part(whole: Tensor) -> None:
    torch.manual_seed(99)
    state = torch.get_rng_state()
    assert torch.equal(drawn(Stage(ROWS, COLUMNS)), whole)
    assert torch.equal(torch.get_rng_state(), state)


def test_mean_and_deviation() -> None:
    values = drawn(Stage(1000, 100, std=0.02))
    assert abs(values.mean().item()) < 3e-4  # about five standard errors
    assert values.std().item() == pytest.approx(0.02, rel=0.01)
    blocks = values[:960].view(15, -1)
    assert len({tuple(block[:4].tolist()) for block in blocks}) == 15


def test_other_formats_round_the_same_draw(whole: Tensor) -> None:
    assert torch.equal(drawn(Stage(ROWS, COLUMNS, dtype=torch.bfloat16)), whole.bfloat16())


def test_what_is_not_marked_keeps_its_values() -> None:
    stage = Stage(4, 4)
    drawn(stage)
    assert torch.equal(stage.bias, torch.full((3,), 7.0))


def test_drawing_again_changes_nothing(whole: Tensor) -> None:
    """The mark is used up, so weights that a hook loaded are safe."""
    stage = Stage(ROWS, COLUMNS)
    drawn(stage)
    stage.weight.data.fill_(3.0)
    drawn(stage)
    assert torch.equal(stage.weight, torch.full((ROWS, COLUMNS), 3.0))


def test_a_marked_weight_that_nothing_describes_is_refused() -> None:
    """It would keep whatever was in the memory."""

    class Forgetful(Stage):
        def sharded_state_dict(self, metadata: Any) -> dict[str, Any]:
            return {}

    with pytest.raises(InitializationError) as caught:
        drawn(Forgetful(4, 4))
    assert facts(caught.value) == "`sharded_state_dict` `Forgetful` `init_method` `weight` `config.init_method`"


def test_a_distribution_draws_at_once_outside_a_build() -> None:
    weight = torch.full((1000,), 7.0)
    torch.manual_seed(1)
    assert NormalInit(0.5)(weight) is weight
    assert weight.std().item() == pytest.approx(0.5, rel=0.1)
    with deferred_initialization():
        kept = torch.full((4,), 7.0)
        assert NormalInit(0.5)(kept) is kept
        assert torch.equal(kept, torch.full((4,), 7.0))


def test_deferral_ends_with_its_context() -> None:
    with deferred_initialization():
        with deferred_initialization():
            pass
        assert torch.equal(NormalInit(1.0)(torch.full((4,), 7.0)), torch.full((4,), 7.0))
    with pytest.raises(ZeroDivisionError), deferred_initialization():
        _ = 1 / 0
    assert not torch.equal(NormalInit(1.0)(torch.full((4,), 7.0)), torch.full((4,), 7.0))
