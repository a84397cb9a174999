"""Any range of a local parameter is cut into boxes of the unsharded one, whatever wraps the stage."""

import itertools
import math
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.module import MegatronModule
from torch import Tensor, nn

from modelwright.config import MegatronDDP, Parallelism, TorchFSDP2, Wrap
from modelwright.distributed import (
    LocalRange,
    RankPool,
    ShardingError,
    StageLayout,
    initialize,
    load_full_state_dict,
    wrap_stages,
)
from modelwright.distributed.initialization.boxes import _boxes_of_range


class Parts(MegatronModule):
    """A stage with matrices, a vector, a buffer, and a parameter with an odd number of rows."""

    def __init__(self) -> None:
        super().__init__(TransformerConfig(num_layers=1, hidden_size=4, num_attention_heads=1))
        self.matrix = nn.Linear(3, 8)
        self.odd = nn.Linear(5, 3, bias=False)
        self.register_buffer("counts", torch.arange(4.0))


def test_the_boxes_of_a_range_are_its_elements_in_order() -> None:
    """Against numbered elements, for every range of every small shape."""
    shapes = [shape for dims in range(4) for shape in itertools.product((1, 2, 3), repeat=dims)]
    for shape in shapes:
        count = math.prod(shape)
        numbers = torch.arange(count).view(shape)
        for low, high in itertools.combinations_with_replacement(range(count + 1), 2):
            boxes = list(_boxes_of_range(shape, low, high))
            found = [
                numbers[tuple(slice(a, a + size) for a, size in zip(start, box, strict=True))] for start, box in boxes
            ]
            assert [number for part in found for number in part.flatten().tolist()] == list(range(low, high))
            assert len(boxes) <= max(1, 2 * len(shape) - 1)


def test_a_range_of_a_parameter(groups: ProcessGroupCollection) -> None:
    stage = Parts()
    layout = StageLayout(stage, groups)
    draw = random.Random(0)
    for name, parameter in stage.named_parameters():
        for _ in range(20):
            first = draw.randrange(parameter.numel())
            values = torch.rand(draw.randrange(1, parameter.numel() - first + 1))
            full = torch.zeros(parameter.shape)
            for box in layout.boxes_of(parameter, values, LocalRange(first=first, over_data=True)):
                assert (box.key, box.global_shape) == (name, tuple(parameter.shape))
                window = tuple(slice(a, a + size) for a, size in zip(box.start, box.local.shape, strict=True))
                full[window] = box.local
            assert torch.equal(full.flatten()[first : first + values.numel()], values)
            assert full.count_nonzero() == values.count_nonzero()


def test_boxes_share_memory_with_parameters_and_buffers(groups: ProcessGroupCollection) -> None:
    stage = Parts()
    for box in StageLayout(stage, groups).boxes():
        box.local.fill_(7.0)
    assert all((value == 7.0).all() for value in stage.state_dict().values())


def test_a_parameter_that_is_not_described_is_named(groups: ProcessGroupCollection) -> None:
    """It would be missing from every checkpoint."""

    class Forgetful(Parts):
        def sharded_state_dict(self, *args: Any, **options: Any) -> dict[str, Any]:
            described: dict[str, Any] = super().sharded_state_dict(*args, **options)
            return {name: item for name, item in described.items() if not name.startswith("odd")}

    stage = Forgetful()
    before = dict(stage.named_parameters())
    with pytest.raises(ShardingError) as caught:
        StageLayout(stage, groups)
    assert "`odd.weight`" in str(caught.value)
    assert dict(stage.named_parameters()) == before


@pytest.fixture(scope="module")
def pool() -> Iterator[RankPool]:
    """Two processes."""
    with RankPool(2) as started:
        yield started


def loaded(wrap: Wrap, full: dict[str, Tensor]) -> dict[str, Tensor]:
    """Load a full state dict into a wrapped stage; the part of this rank, at its place in zeros."""
    groups = initialize(Parallelism(data=2))
    (stage,) = wrap_stages(wrap, [Parts()], groups)
    load_full_state_dict([stage], full, groups)
    found = {name: torch.zeros_like(value) for name, value in full.items()}
    for box in StageLayout(stage, groups).boxes():
        window = tuple(slice(a, a + size) for a, size in zip(box.start, box.local.shape, strict=True))
        found[box.key][window] = box.local
    return found


@pytest.mark.parametrize("wrap", [TorchFSDP2(), MegatronDDP(distributed_optimizer=True)], ids=["fsdp2", "distributed"])
def test_a_full_state_dict_is_loaded_into_a_wrapped_stage(wrap: Wrap, pool: RankPool) -> None:
    torch.manual_seed(0)
    full = {name: torch.rand_like(value) + 1 for name, value in Parts().state_dict().items()}
    parts = pool.run(loaded, wrap, full)
    for name, value in full.items():
        assert torch.equal(torch.maximum(parts[0][name], parts[1][name]), value)
        if isinstance(wrap, TorchFSDP2) and name != "counts":
            assert not torch.equal(parts[0][name], value)
