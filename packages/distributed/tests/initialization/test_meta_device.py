"""A build on the meta device, materialized: in every bit what a direct build is."""

from typing import Any

import pytest
import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from torch import Tensor, nn

from modelwright.distributed import MetaBuild, MetaError
from packages.distributed.tests.tiny import TinyStage
from tests.messages import facts


class Mixed(nn.Module):
    """Everything that a module may make in its constructor."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.tied = nn.Linear(4, 8, bias=False)
        self.tied.weight = self.first.weight
        self.norm = nn.LayerNorm(8)
        self.frozen = nn.Parameter(torch.full((3,), 2.0), requires_grad=False)
        self.table = 1.0 / (10000 ** (torch.arange(0, 8, 2) / 8))  # neither parameter nor buffer
        self.register_buffer("counts", torch.zeros(3, dtype=torch.int64))
        self.register_buffer("steps", torch.tensor([1.0, 2.0]).cumsum(0))
        with torch.no_grad():
            self.first.bias[2:5].fill_(7.0)
            self.norm.weight.mul_(torch.tensor(3.0))
        self.first.weight.note = "mine"  # type: ignore[attr-defined]
        self.drawn = torch.empty(5).normal_()
        self.pair = self.drawn[1:3]


def on_meta(module: nn.Module) -> dict[str, bool]:
    return {name: value.is_meta for name, value in (*module.named_parameters(), *module.named_buffers())}


def held(module: nn.Module) -> dict[str, Tensor]:
    plain = {name: value for name, value in vars(module).items() if isinstance(value, Tensor)}
    return dict(module.named_parameters()) | dict(module.named_buffers()) | plain


def built_twice() -> tuple[Mixed, Mixed]:
    torch.manual_seed(3)
    direct = Mixed()
    after = torch.rand(3)
    torch.manual_seed(3)
    record = MetaBuild()
    with record.recording():
        module = Mixed()
    # What is computed from numbers that the constructor holds is small and stays what it is.
    assert [name for name, is_meta in on_meta(module).items() if not is_meta] == ["steps"]
    assert module.table.is_meta
    record.materialize([module])
    assert torch.equal(torch.rand(3), after)
    return direct, module


def test_every_bit_is_that_of_a_direct_build() -> None:
    direct, module = built_twice()
    expected, found = held(direct), held(module)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
        assert (found[name].dtype, found[name].device) == (value.dtype, value.device), name
        assert found[name].requires_grad == value.requires_grad, name


def test_the_same_objects_are_there() -> None:
    """Tied weights stay tied, attributes stay, a view stays a view."""
    _, module = built_twice()
    assert module.tied.weight is module.first.weight
    assert isinstance(module.first.weight, nn.Parameter)
    assert module.first.weight.note == "mine"  # type: ignore[attr-defined]
    module.drawn.zero_()
    assert module.pair.sum() == 0
    module.first(torch.ones(1, 4)).sum().backward()
    assert module.tied.weight.grad is not None


def test_forks_of_the_random_state() -> None:
    """Use another state for a while and then restore the first, as the engine's tracker does."""

    def draw() -> list[Tensor]:
        torch.manual_seed(1)
        values = [torch.empty(3).normal_()]
        for _ in range(2):
            before = torch.get_rng_state()
            torch.set_rng_state(forked[0])
            values.append(torch.empty(3).uniform_())
            forked[0] = torch.get_rng_state()
            torch.set_rng_state(before)
            values.append(torch.empty(3).normal_())
        return values

    forked = [torch.Generator().manual_seed(9).get_state()]
    direct = draw()
    forked = [torch.Generator().manual_seed(9).get_state()]
    record, module = MetaBuild(), nn.Module()
    with record.recording():
        for index, value in enumerate(draw()):
            setattr(module, f"v{index}", value)
    record.materialize([module])
    for index, value in enumerate(direct):
        assert torch.equal(getattr(module, f"v{index}"), value), index


def test_a_stage_of_the_engine(groups: ProcessGroupCollection) -> None:
    record = MetaBuild()
    with record.recording():
        stage = TinyStage(groups)
    weight = stage.linear.weight
    assert weight.is_meta
    attributes: dict[str, Any] = dict(vars(weight))
    assert attributes["tensor_model_parallel"] is True
    record.materialize([stage])
    assert stage.linear.weight is weight
    assert vars(weight) == attributes
    assert torch.equal(stage.linear.bias, torch.zeros(16))
    assert torch.equal(stage.scale, torch.ones(16))


def test_a_tensor_from_elsewhere_is_refused() -> None:
    module = nn.Linear(2, 2, device="meta")
    with pytest.raises(MetaError) as caught:
        MetaBuild().materialize([module])
    assert facts(caught.value) == "`weight`"
